// Which of a request's objectives were met. Whoever was refused, failed or came late missed all that it had: the denominator is what was asked
// for, or refusing would look like serving well. Pure.
import type { Terms } from "./terms.ts";

export type Slo = "ttft" | "tpot" | "deadline";

export interface Observed {
  /** It ended with a finish reason. */
  done: boolean;
  /** null: there was no token. */
  ttftSeconds: number | null;
  /** Of several answers the slowest's; null: fewer than two tokens in each. */
  tpotSeconds: number | null;
}

export function sloResults(terms: Terms, { done, ttftSeconds, tpotSeconds }: Observed): Map<Slo, boolean> {
  const results = new Map<Slo, boolean>();
  if (terms.ttftMs !== null) results.set("ttft", ttftSeconds !== null && ttftSeconds * 1000 <= terms.ttftMs);
  if (terms.tpotMs !== null) results.set("tpot", done && (tpotSeconds === null || tpotSeconds * 1000 <= terms.tpotMs));
  if (terms.ownDeadline) results.set("deadline", done);
  return results;
}
