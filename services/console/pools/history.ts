// What the page remembers of the overviews that it saw: a bounded number of samples, each with what is drawn over time. Pure.
import type { ConsoleOverview, ConsoleWorker } from "../../lib/contracts/console.ts";

export const keptSamples = 600;
/** After a longer pause (the page was hidden) a line is broken, not drawn through. */
const pauseSeconds = 5;

export type Pool = ConsoleWorker["role"];
export const pools: Pool[] = ["prefill", "decode"];

/** Of one pool at one time; rates are null where there was nothing to compare with. */
export interface PoolSample {
  running: number;
  waiting: number;
  blocksUsed: number;
  blocksCached: number;
  blocksFree: number;
  prefilledPerSecond: number | null;
  sampledPerSecond: number | null;
  receivedBytesPerSecond: number | null;
  sentBytesPerSecond: number | null;
}

export interface Sample {
  atSeconds: number;
  /** Null: a break. */
  pools: Record<Pool, PoolSample> | null;
}

export interface History {
  samples: readonly Sample[];
  last: { atSeconds: number; overview: ConsoleOverview } | null;
}

export const noHistory: History = { samples: [], last: null };

/** The history with one overview more. */
export function remember(history: History, overview: ConsoleOverview, atSeconds: number): History {
  const { last } = history;
  const seconds = last === null ? 0 : atSeconds - last.atSeconds;
  if (last !== null && seconds <= 0) return history;
  const broken = last !== null && seconds > pauseSeconds;
  const before = broken ? null : last;
  const sample: Sample = {
    atSeconds,
    pools: {
      prefill: poolSample("prefill", overview, before?.overview ?? null, seconds),
      decode: poolSample("decode", overview, before?.overview ?? null, seconds),
    },
  };
  const more = broken ? [{ atSeconds: last.atSeconds + seconds / 2, pools: null }, sample] : [sample];
  return { samples: [...history.samples, ...more].slice(-keptSamples), last: { atSeconds, overview } };
}

function poolSample(pool: Pool, now: ConsoleOverview, before: ConsoleOverview | null, seconds: number): PoolSample {
  const workers = now.workers.filter(({ role }) => role === pool);
  const sum = (of: (worker: ConsoleWorker) => number) => workers.reduce((total, worker) => total + of(worker), 0);
  const rate = (field: keyof NonNullable<ConsoleWorker["totals"]>) => {
    if (before === null) return null;
    return sum((worker) => {
      const was = before.workers.find(({ instanceId }) => instanceId === worker.instanceId)?.totals;
      // A worker that is new here, or says nothing of it, adds nothing.
      return was === undefined || worker.totals === undefined ? 0 : Math.max(0, worker.totals[field] - was[field]) / seconds;
    });
  };
  return {
    running: sum(({ requests }) => requests.running),
    waiting: sum(({ requests }) => requests.waiting),
    blocksUsed: sum(({ blocks }) => blocks.total - blocks.free - blocks.cached),
    blocksCached: sum(({ blocks }) => blocks.cached),
    blocksFree: sum(({ blocks }) => blocks.free),
    prefilledPerSecond: rate("prefilledTokens"),
    sampledPerSecond: rate("sampledTokens"),
    receivedBytesPerSecond: rate("receivedBytes"),
    sentBytesPerSecond: rate("sentBytes"),
  };
}

/** One value over time, of one pool or of both together; null in breaks and where a rate is not known. */
export function column(samples: readonly Sample[], shown: readonly Pool[], field: keyof PoolSample): (number | null)[] {
  return samples.map((sample) => {
    if (sample.pools === null) return null;
    let sum: number | null = null;
    for (const pool of shown) {
      const value = sample.pools[pool][field];
      if (value !== null) sum = (sum ?? 0) + value;
    }
    return sum;
  });
}
