// Deltas of several attempts in one message: each says how many of the message's tokens are its own, in their order.
import type { z } from "zod";
import { PelagicError } from "./errors.ts";
import { type Delta, Deltas } from "./messages.ts";
import { decodeMessage, encodeMessage } from "./wire.ts";

export interface OutputPart {
  delta: Omit<Delta, "count">;
  /** Output tokens [delta.from, delta.from + tokens.length). */
  tokens: Uint32Array;
}

export function encodeDeltas(parts: readonly OutputPart[]): Uint8Array {
  const tail = new Uint32Array(parts.reduce((sum, { tokens }) => sum + tokens.length, 0));
  let at = 0;
  const deltas: z.input<typeof Deltas>["deltas"] = [];
  for (const { delta, tokens } of parts) {
    deltas.push({ ...delta, count: tokens.length });
    tail.set(tokens, at);
    at += tokens.length;
  }
  return encodeMessage({ deltas }, tail);
}

/** Throws as decodeMessage does, and a PelagicError where the counts are not those of the tokens. */
export function decodeDeltas(data: Uint8Array): OutputPart[] {
  const { body, tokens } = decodeMessage(Deltas, data);
  let at = 0;
  const parts = body.deltas.map((delta) => {
    const part = { delta, tokens: tokens.subarray(at, at + delta.count) };
    at += delta.count;
    return part;
  });
  if (at !== tokens.length)
    throw new PelagicError("internal", `malformed message: deltas of ${at} tokens before ${tokens.length} token ids`);
  return parts;
}
