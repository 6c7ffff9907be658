// How much a step may compute so that it is over soon: a cancellation, a newcomer and everybody's next token wait for the step that runs. Work
// is counted in rows of no context; a row's attention to each earlier row adds to it. By the row rule it does not matter where chunks are cut.
import { kvBlockTokens } from "../contracts/block-key.ts";

/** What a step with prefill in it should take at most. */
export const stepMs = 60;
/**
 * Work that prefill gets in each step, however slow: with less, a step's fixed cost (weights read for few rows) would be most of it. A model so
 * large, or a machine so busy, that this takes longer than stepMs has longer steps.
 */
export const leastWork = 128;
/** Nor has a request's chunk fewer rows than these: each reads the whole context once. */
export const leastChunkRows = Math.ceil(kvBlockTokens / 3);
/** Of the steps before, what each one more leaves of their weight. */
const memory = 0.8;

/** Of rows [firstRow, firstRow + rowCount). `pairWork`: of one row's attention to one row. */
export function chunkWork(pairWork: number, firstRow: number, rowCount: number): number {
  return rowCount + pairWork * (rowCount * firstRow + (rowCount * (rowCount + 1)) / 2);
}

/** The most rows from firstRow on whose work is not above this. */
export function rowsOfWork(pairWork: number, firstRow: number, work: number): number {
  if (pairWork === 0 || work === Number.POSITIVE_INFINITY) return Math.floor(work);
  // chunkWork = a n^2 + b n
  const a = pairWork / 2;
  const b = 1 + pairWork * (firstRow + 0.5);
  return Math.floor((2 * work) / (b + Math.sqrt(b * b + 4 * a * work)));
}

/**
 * How fast prompts are prefilled: by the last rows, not the last steps. Of a step of few rows the fixed cost is most, and many such must not make a
 * worker look slow for a long prompt: those below a block do not count.
 */
export class PrefillPace {
  private rows = 0;
  private seconds = 0;
  private notedAtMs = Number.NEGATIVE_INFINITY;

  note(rows: number, seconds: number, nowMs: number): void {
    if (rows < kvBlockTokens) return;
    this.notedAtMs = nowMs;
    const kept = memory ** Math.min(1, rows / leastWork);
    this.rows = kept * this.rows + rows;
    this.seconds = kept * this.seconds + seconds;
  }

  /** Since a step that counted. */
  idleMs(nowMs: number): number {
    return nowMs - this.notedAtMs;
  }

  /** 0: nothing was measured. */
  get rowsPerSecond(): number {
    return this.rows === 0 ? 0 : this.rows / Math.max(1e-6, this.seconds);
  }
}

/** How fast the last steps were. Long ones count for more: of short ones the fixed cost is most. */
export class StepPace {
  private work = 0;
  private ms = 0;

  note(work: number, ms: number): void {
    this.work = memory * this.work + work;
    this.ms = memory * this.ms + ms;
  }

  /** What is done in so long; leastWork before anything was measured. */
  workWithin(ms: number): number {
    if (this.work === 0) return leastWork;
    return Math.max(leastWork, (this.work / Math.max(1e-6, this.ms)) * ms);
  }
}
