// What the gateway's code sees of an HTTP response: Node's, and what is known of the request that it answers.
import type { ServerResponse } from "node:http";
import { PelagicError } from "../lib/contracts/errors.ts";
import type { Visit } from "./admission/callers.ts";
import type { ErrorForm } from "./http-error.ts";
import { jsonPieces } from "./json-pieces.ts";

export interface GatewayLocals {
  /** As the bus takes it. */
  requestId?: string;
  visit?: Visit;
  /** Its line in the log is written by whoever serves it. */
  logsItself?: boolean;
  /** Of the API that the route belongs to; absent: OpenAI's. */
  errorForm?: ErrorForm;
}

declare global {
  namespace Express {
    interface Locals extends GatewayLocals {}
  }
}

export type GatewayResponse = ServerResponse & { locals: GatewayLocals };

/** Written at once of an answer that is whole: a reader that takes so much within the bound is not stalled. */
const pieceBytes = 65_536;

/** Resolves when the reader has it, as far as a process can tell; throws `cancelled` where it is gone or takes nothing for stallMs. */
export async function sendJson(response: ServerResponse, body: object, stallMs: number): Promise<void> {
  response.setHeader("content-type", "application/json; charset=utf-8");
  let text = "";
  let isFirst = true;
  for (const piece of jsonPieces(body)) {
    if (text.length > pieceBytes) {
      await writePieces(response, text, stallMs);
      [text, isFirst] = ["", false];
      // Others have their turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
    text += piece;
  }
  if (isFirst) response.setHeader("content-length", Buffer.byteLength(text));
  await writePieces(response, text, stallMs);
  response.end();
}

async function writePieces(response: ServerResponse, text: string, stallMs: number): Promise<void> {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += pieceBytes) await writeBounded(response, bytes.subarray(at, at + pieceBytes), stallMs);
}

/** Resolves when more may be written, null: at once; throws or rejects as `cancelled` where the reader is gone or takes nothing for stallMs. */
export function writeBounded(response: ServerResponse, data: string | Uint8Array, stallMs: number): Promise<void> | null {
  checkReader(response);
  return response.write(data) ? null : drained(response, stallMs);
}

async function drained(response: ServerResponse, stallMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => {
      // Reset, not closed: the kernel would keep for minutes what it has for a reader that does not read.
      response.socket?.resetAndDestroy();
      response.destroy();
    }, stallMs);
    const done = () => {
      clearTimeout(timer);
      response.off("drain", done);
      response.off("close", done);
      resolve();
    };
    response.on("drain", done);
    response.on("close", done);
  });
  checkReader(response);
}

function checkReader(response: ServerResponse): void {
  if (response.destroyed || response.writableEnded) throw new PelagicError("cancelled", "the reader is gone");
}
