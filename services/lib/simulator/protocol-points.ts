// Where in the protocol a message stands, told from the message alone: what faults are aimed at, here and on a real server. Pure.
import { readFramePlaces } from "../contracts/frame.ts";

export const protocolPoints = [
  /** A request goes to decode for the first time; the answer to that. */
  "dispatch",
  "dispatch-reply",
  /** Prompt and tokens so far go to another worker. */
  "resume",
  /** Blocks are reserved: decode asks for rows; the answer to that. */
  "after-reserve",
  "rows-reply",
  "first-frame",
  "frame-k",
  "last-frame",
  "credit",
  /** A lost frame is asked for again. */
  "resend-frame",
  /** Every row is here, and the sender hears it. */
  "complete",
  /** The receiver gives a transfer up. */
  "abort-transfer",
  "notice",
  "first-token",
  "token-j",
  "finish",
  /** The gateway has all of an answer. */
  "ack",
  /** The gateway asks for deltas again. */
  "resend-tokens",
  "lease",
  /** The gateway cancels; the answer to that. */
  "abort",
  "abort-reply",
  /** A worker is told to drain; one says that it does. */
  "drain-order",
  "drain",
  "state",
  "snapshot-request",
] as const;
export type ProtocolPoint = (typeof protocolPoints)[number];

export interface Sighting {
  point: ProtocolPoint;
  /** The process that the message is for, where its subject names one. */
  receiver: string | null;
}

/** null: no message of ours. Throws nothing, whatever the bytes are. */
export function protocolPoint(subject: string, data: Uint8Array): Sighting | null {
  if (subject.startsWith("_INBOX_")) return replyPoint(subject, data);
  const [root, , kind, receiver = ""] = subject.split(".");
  if (root !== "pelagic") return null;
  const at = (point: ProtocolPoint, who: string | null = receiver): Sighting => ({ point, receiver: who });
  switch (kind) {
    case "kv": {
      const frames = readFramePlaces(data);
      if (frames === null) return null;
      return at(frames.at(-1)?.last ? "last-frame" : frames[0]?.sequence === 0 ? "first-frame" : "frame-k");
    }
    case "notices":
      return at("notice");
    case "state-request":
      return at("snapshot-request", null);
    case "rows":
      return at("after-reserve");
  }
  const body = peek(data);
  if (body === null) return null;
  const { json, tokenCount } = body;
  switch (kind) {
    case "dispatch":
      return at(tokenCount > (json.promptLength as number) || json.heldBy !== undefined ? "resume" : "dispatch");
    case "credit":
      if (json.end === "complete") return at("complete");
      if (json.end === "abort") return at("abort-transfer");
      return at(json.resend === true ? "resend-frame" : "credit");
    case "deltas": {
      const deltas = (Array.isArray(json.deltas) ? json.deltas : []) as { from?: unknown; end?: unknown }[];
      if (deltas.some((delta) => delta?.end !== undefined)) return at("finish");
      return at(deltas.some((delta) => delta?.from === 0) ? "first-token" : "token-j");
    }
    case "control":
      if (json.kind === "cancel") return at("abort");
      if (json.kind === "drain") return at("drain-order");
      if (json.kind === "resend") return at("resend-tokens");
      return json.kind === "ack" || json.kind === "lease" ? at(json.kind) : null;
    case "state":
      return at(json.state === "draining" ? "drain" : "state", null);
    default:
      return null;
  }
}

/** Answers name nothing but their inbox, which is the asker's: a gateway's or a decode worker's. */
function replyPoint(subject: string, data: Uint8Array): Sighting | null {
  const json = peek(data)?.json;
  if (json === undefined) return null;
  const receiver = subject.split(".")[0]?.split("_").at(-1) ?? null;
  if (json.ok !== undefined) return { point: "abort-reply", receiver };
  if (json.kind === undefined) return null;
  return { point: receiver?.startsWith("gateway") ? "dispatch-reply" : "rows-reply", receiver };
}

const headBytes = 8;
const decoder = new TextDecoder();

/** A message's JSON, unchecked, and how many token ids follow it. */
export function peek(data: Uint8Array): { json: Record<string, unknown>; tokenCount: number } | null {
  if (data.length < headBytes) return null;
  const length = new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(0, true);
  if (headBytes + length > data.length) return null;
  try {
    const json = JSON.parse(decoder.decode(data.subarray(headBytes, headBytes + length))) as Record<string, unknown> | null;
    return typeof json === "object" && json !== null ? { json, tokenCount: (data.length - headBytes - length) / 4 } : null;
  } catch {
    return null;
  }
}
