// What the generator notes of one request. Times are milliseconds from the start of the run.

export const outcomes = ["ok", "refused", "error", "cut", "timeout", "unsent", "cancelled"] as const;
/** refused: 429 or 503 before the first token; cut: the connection broke; unsent: it could not be asked; cancelled: we left, as planned. */
export type Outcome = (typeof outcomes)[number];

export interface RequestRecord {
  index: number;
  session: number;
  turn: number;
  /** When it was to be sent: everything is measured from here, so that a generator or a server that is late cannot hide it. */
  scheduledMs: number;
  sentMs: number;
  /** The first token of any kind, and the first that is not reasoning. */
  firstTokenMs: number | null;
  firstAnswerMs: number | null;
  lastTokenMs: number | null;
  endMs: number;
  /** Between events that carried tokens. */
  gapsMs: number[];
  promptTokens: number;
  cachedTokens: number;
  /** As the server's usage says, or events with text where it says nothing. */
  outputTokens: number;
  outcome: Outcome;
  /** HTTP status, 0 where none came. */
  status: number;
  error: string | null;
}
