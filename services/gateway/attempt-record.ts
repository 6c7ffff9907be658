// What the gateway knows of one dispatch to one decode worker, for the time line and spans: its own times, and decode's account of its.
import type { RequestTimings } from "../lib/contracts/messages.ts";

export interface AttemptRecord {
  workerId: string;
  prefillWorkerId: string | null;
  /** Its span; undefined: not traced. */
  context: string | undefined;
  sentMs: number;
  /** When its first token came. */
  firstMs: number | null;
  /** A finish reason, an error's name, or why the request was sent on: refused, lost, moved. null: it goes on. */
  end: { ms: number; outcome: string } | null;
  timings: RequestTimings | undefined;
}

/** Decode's account in the gateway's time. */
export interface PlacedAttempt {
  /** When the dispatch reached decode. */
  startMs: number;
  /** One way of the bus. */
  busMs: number;
}

/**
 * What lies between the gateway's times and is not decode's is the bus, and half of it each way: no clock is compared with another one. null:
 * decode said nothing by which it could be placed.
 */
export function placeAttempt({ sentMs, firstMs, end, timings }: AttemptRecord): PlacedAttempt | null {
  const [reachedMs, seconds] =
    firstMs !== null && timings?.firstTokenSeconds !== undefined ? [firstMs, timings.firstTokenSeconds] : [end?.ms, timings?.totalSeconds];
  if (reachedMs === undefined || seconds === undefined) return null;
  const busMs = Math.max(0, reachedMs - sentMs - seconds * 1000) / 2;
  return { startMs: sentMs + busMs, busMs };
}
