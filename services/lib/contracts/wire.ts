// How a message lies on the bus: a little-endian uint32 length, the CRC-32 of it and of all that follows, that many bytes of JSON, then binary
// (packed uint32 token ids). A flipped bit in JSON or a token id would be another valid message: the checksum makes it a lost one.
import { crc32 } from "node:zlib";
import type { z } from "zod";
import { PelagicError } from "./errors.ts";

/** The version this build writes, and the oldest it reads: a rolling upgrade has both on the bus. */
export const protocolVersion = 2;
export const oldestProtocolVersion = 2;

const decoder = new TextDecoder("utf-8", { fatal: true });
const headBytes = 8;

export interface WireMessage<T> {
  body: T;
  /** Packed uint32 token ids, empty where the message has none. */
  tokens: Uint32Array;
}

export function encodeMessage(body: object, tokens?: Uint32Array): Uint8Array {
  const json = JSON.stringify({ v: protocolVersion, ...body });
  const length = Buffer.byteLength(json);
  const out = new Uint8Array(headBytes + length + (tokens?.byteLength ?? 0));
  const bytes = Buffer.from(out.buffer);
  bytes.write(json, headBytes);
  if (tokens !== undefined) out.set(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength), headBytes + length);
  bytes.writeUInt32LE(length, 0);
  bytes.writeUInt32LE(checksum(out, length), 4);
  return out;
}

/** A message that did not arrive as it was sent. Like one that did not arrive: it is dropped, not answered, and whoever waits asks again. */
export class DamagedMessage extends PelagicError {
  constructor(detail: string) {
    super("internal", `damaged message: ${detail}`);
  }
}

/** Throws DamagedMessage, or PelagicError "internal" naming the field at fault; a receiver logs and drops such a message. */
export function decodeMessage<S extends z.ZodType>(schema: S, data: Uint8Array): WireMessage<z.output<S>> {
  const { body, tokens } = openMessage(data);
  return { body: checkBody(schema, body), tokens };
}

/** A whole message of a version that this build reads, its body unchecked. Throws as decodeMessage does. */
export function openMessage(data: Uint8Array): WireMessage<unknown> {
  if (data.length < headBytes) throw new DamagedMessage(`${data.length} bytes, at least ${headBytes} expected`);
  const head = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const length = head.getUint32(0, true);
  if (headBytes + length > data.length) throw new DamagedMessage(`header of ${length} bytes in a message of ${data.length}`);
  if (checksum(data, length) !== head.getUint32(4, true)) throw new DamagedMessage("checksum differs");
  const tail = data.subarray(headBytes + length);
  if (tail.length % 4 !== 0) throw malformed(`token ids take ${tail.length} bytes, not a multiple of 4`);
  let json: unknown;
  try {
    json = JSON.parse(decoder.decode(data.subarray(headBytes, headBytes + length)));
  } catch (error) {
    throw malformed(error instanceof Error ? error.message : String(error));
  }
  const version = (json as { v?: unknown } | null)?.v;
  if (typeof version !== "number" || version < oldestProtocolVersion || version > protocolVersion) {
    throw malformed(`protocol version ${String(version)}; this build reads ${oldestProtocolVersion} to ${protocolVersion}`);
  }
  // The tail is copied: it may be unaligned, and the bus reuses its buffers.
  return { body: json, tokens: new Uint32Array(tail.slice().buffer) };
}

/** Throws PelagicError "internal" naming the field at fault, under `path`. */
export function checkBody<S extends z.ZodType>(schema: S, body: unknown, path: string[] = []): z.output<S> {
  const parsed = schema.safeParse(body);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw malformed(`${[...path, ...(issue?.path ?? [])].join(".") || "body"}: ${issue?.message ?? "invalid"}`);
  }
  return parsed.data;
}

/** The length is where the sum begins. */
function checksum(message: Uint8Array, length: number): number {
  return crc32(message.subarray(headBytes), length);
}

function malformed(detail: string): PelagicError {
  return new PelagicError("internal", `malformed message: ${detail}`);
}
