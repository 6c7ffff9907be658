// Asks one worker for its model's small files: the list, held to the digest that the worker announced, then each file in pieces, held to the list.
import { type Bus, BusError } from "../lib/contracts/bus.ts";
import {
  digestOfList,
  type FileEntry,
  filePieceBytes,
  FilesReply,
  maxModelFileBytes,
  sha256,
  type SmallFileName,
  unpackPiece,
} from "../lib/contracts/model-files.ts";
import { DamagedMessage, decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import type { ModelFiles } from "../lib/model/folder.ts";
import type { LearningFault } from "./model-catalogue.ts";

/** Why a model could not be learned, and whose fault it is. */
export class LearningError extends Error {
  readonly fault: LearningFault;

  constructor(fault: LearningFault, message: string) {
    super(message);
    this.name = "LearningError";
    this.fault = fault;
  }
}

export interface FetchOptions {
  bus: Bus;
  /** The worker's files subject. */
  subject: string;
  workerId: string;
  filesDigest: string;
  /** All files together, at most. */
  mostBytes: number;
  /** Aborted where the whole takes too long. */
  signal: AbortSignal;
}

const replyMs = 2_000;
const tries = 3;

/** Throws LearningError. The files lie in memory that threads can share. */
export async function fetchModelFiles(options: FetchOptions): Promise<ModelFiles> {
  const { workerId, mostBytes, filesDigest } = options;
  const list = await fetchList(options);
  const total = list.reduce((sum, { bytes }) => sum + bytes, 0);
  if (total > maxModelFileBytes)
    throw new LearningError("content", `${workerId}: its files take ${total} bytes, at most ${maxModelFileBytes} may be`);
  if (total > mostBytes)
    throw new LearningError("unavailable", `${workerId}: its files take ${total} bytes where room for ${mostBytes} is left`);
  const files = new Map<SmallFileName, Uint8Array>();
  for (const entry of list) files.set(entry.name, await fetchFile(options, entry));
  return { origin: `${workerId}:${filesDigest.slice(0, 12)}`, files };
}

async function fetchList(options: FetchOptions): Promise<FileEntry[]> {
  const { workerId, filesDigest } = options;
  const { body } = await ask(options, {});
  if (body.kind !== "list") throw liar(workerId, `answered with a ${body.kind} where the list of files was asked for`);
  const names = body.files.map(({ name }) => name);
  if (names.some((name, at) => at > 0 && name <= (names[at - 1] as string)))
    throw liar(workerId, `its list of files is not in order: ${names.join(", ")}`);
  if (digestOfList(body.files) !== filesDigest) throw liar(workerId, "its list of files is not the one whose digest it announced");
  return body.files;
}

async function fetchFile(options: FetchOptions, { name, bytes, sha256: digest }: FileEntry): Promise<Uint8Array> {
  const { workerId } = options;
  const content = new Uint8Array(new SharedArrayBuffer(bytes));
  for (let from = 0; from < bytes; ) {
    const { body, tokens } = await ask(options, { piece: { name, from } });
    const most = Math.min(filePieceBytes, bytes - from);
    if (body.kind !== "piece" || body.name !== name || body.from !== from || body.bytes === 0 || body.bytes > most) {
      throw liar(workerId, `${name}: another piece than was asked for`);
    }
    const piece = unpackPiece(tokens, body.bytes);
    if (piece === null) throw liar(workerId, `${name}: a piece of ${tokens.length * 4} bytes where ${body.bytes} are announced`);
    content.set(piece, from);
    from += piece.length;
  }
  if (sha256(content) !== digest) throw liar(workerId, `${name}: damaged: not the content whose digest was announced`);
  return content;
}

type Answer = { body: Exclude<FilesReply, { kind: "busy" | "error" }>; tokens: Uint32Array };

/** What is lost or damaged on the way is asked for again. */
async function ask({ bus, subject, workerId, filesDigest, signal }: FetchOptions, more: object): Promise<Answer> {
  const message = encodeMessage({ filesDigest, ...more });
  for (let attempt = 1; ; attempt++) {
    if (signal.aborted) throw new LearningError("unavailable", `${workerId}: did not give its files in time`);
    try {
      const { body, tokens } = decodeMessage(FilesReply, await bus.request(subject, message, replyMs));
      if (body.kind === "busy") throw new LearningError("unavailable", `${workerId}: ${body.reason}`);
      if (body.kind === "error") throw liar(workerId, body.error.message);
      return { body, tokens };
    } catch (error) {
      if (error instanceof LearningError) throw error;
      const isLost = error instanceof DamagedMessage || error instanceof BusError;
      const text = error instanceof Error ? error.message : String(error);
      if (!isLost) throw liar(workerId, text);
      if (attempt >= tries) throw new LearningError("unavailable", `${workerId}: ${text}`);
    }
  }
}

function liar(workerId: string, message: string): LearningError {
  return new LearningError("sender", `${workerId}: ${message}`);
}
