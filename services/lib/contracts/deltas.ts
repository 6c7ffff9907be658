// Deltas of several attempts in one message: each says how many of the message's tokens are its own, in their order.
import type { z } from "zod";
import { PelagicError } from "./errors.ts";
import { Delta, Deltas } from "./messages.ts";
import { checkBody, encodeMessage, openMessage } from "./wire.ts";

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
  const { body, tokens } = openMessage(data);
  const { deltas } = body as { deltas?: unknown };
  if (!Array.isArray(deltas) || deltas.length === 0) checkBody(Deltas, body);
  let at = 0;
  const parts = (deltas as unknown[]).map((any, index) => {
    const delta = isPlain(any) ? any : checkBody(Delta, any, ["deltas", String(index)]);
    const part = { delta, tokens: tokens.subarray(at, at + delta.count) };
    at += delta.count;
    return part;
  });
  if (at !== tokens.length)
    throw new PelagicError("internal", `malformed message: deltas of ${at} tokens before ${tokens.length} token ids`);
  return parts;
}

const idPattern = /^[A-Za-z0-9_-]{1,64}$/;

/** What the schema says, of a delta that is nothing but tokens: as nearly all are, so that what the schema's own check costs is half of a gateway's garbage. */
function isPlain(any: unknown): any is Delta {
  if (typeof any !== "object" || any === null) return false;
  const { attemptId, from, count } = any as Record<string, unknown>;
  for (const key in any) if (key !== "attemptId" && key !== "from" && key !== "count") return false;
  return typeof attemptId === "string" && idPattern.test(attemptId) && isCount(from) && isCount(count);
}

function isCount(any: unknown): boolean {
  return Number.isSafeInteger(any) && (any as number) >= 0;
}
