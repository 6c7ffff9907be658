// How a message lies on the bus: a little-endian uint32 length, that many bytes of JSON, then binary (packed uint32 token ids).
import type { z } from "zod";
import { PelagicError } from "./errors.ts";

/** The version this build writes, and the oldest it reads: a rolling upgrade has both on the bus. */
export const protocolVersion = 1;
export const oldestProtocolVersion = 1;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
const none = new Uint8Array(0);

export interface WireMessage<T> {
  body: T;
  /** Packed uint32 token ids, empty where the message has none. */
  tokens: Uint32Array;
}

export function encodeMessage(body: object, tokens?: Uint32Array): Uint8Array {
  const json = encoder.encode(JSON.stringify({ v: protocolVersion, ...body }));
  const tail = tokens ? new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength) : none;
  const out = new Uint8Array(4 + json.length + tail.length);
  new DataView(out.buffer).setUint32(0, json.length, true);
  out.set(json, 4);
  out.set(tail, 4 + json.length);
  return out;
}

/** Throws PelagicError "internal" naming the field at fault; a receiver logs and drops such a message. */
export function decodeMessage<S extends z.ZodType>(schema: S, data: Uint8Array): WireMessage<z.output<S>> {
  if (data.length < 4) throw malformed(`${data.length} bytes, at least 4 expected`);
  const length = new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(0, true);
  if (4 + length > data.length) throw malformed(`header of ${length} bytes in a message of ${data.length}`);
  const tail = data.subarray(4 + length);
  if (tail.length % 4 !== 0) throw malformed(`token ids take ${tail.length} bytes, not a multiple of 4`);
  let json: unknown;
  try {
    json = JSON.parse(decoder.decode(data.subarray(4, 4 + length)));
  } catch (error) {
    throw malformed(error instanceof Error ? error.message : String(error));
  }
  const version = (json as { v?: unknown } | null)?.v;
  if (typeof version !== "number" || version < oldestProtocolVersion || version > protocolVersion) {
    throw malformed(`protocol version ${String(version)}; this build reads ${oldestProtocolVersion} to ${protocolVersion}`);
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw malformed(`${issue?.path.join(".") || "body"}: ${issue?.message ?? "invalid"}`);
  }
  // The tail is copied: it may be unaligned, and the bus reuses its buffers.
  return { body: parsed.data, tokens: new Uint32Array(tail.slice().buffer) };
}

function malformed(detail: string): PelagicError {
  return new PelagicError("internal", `malformed message: ${detail}`);
}
