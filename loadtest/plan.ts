// Options -> the sessions to send. Pure but for the trace file.
import { type ArrivalOptions, arrivalTimes } from "./arrivals.ts";
import type { LoadPlan, PlannedSession } from "./generator.ts";
import { uniform } from "./random.ts";
import type { TraceRequest } from "./trace.ts";

export interface LengthOptions {
  promptTokens: number;
  outputTokens: number;
  /** Lengths lie evenly within this share around the given ones. */
  spread: number;
  turns: number;
  /** So many prompts begin with the same first half. */
  sharedShare: number;
}

interface Common {
  lengths: LengthOptions;
  thinkSeconds: number;
  cancelShare: number;
  seed: number;
}

export function openLoop(arrivals: ArrivalOptions, common: Common): LoadPlan {
  const times = arrivalTimes(arrivals, uniform(common.seed));
  return { ...settings(common), clients: null, sendingMs: arrivals.durationSeconds * 1000, sessions: sessionsOf(times, common) };
}

export function closedLoop(clients: number, sessions: number, common: Common): LoadPlan {
  return {
    ...settings(common),
    clients,
    sendingMs: null,
    sessions: sessionsOf(
      Array.from({ length: sessions }, () => null),
      common,
    ),
  };
}

export function traceLoop(requests: readonly TraceRequest[], common: Omit<Common, "lengths">): LoadPlan {
  const sessions = requests.map(({ atMs, promptTokens, outputTokens, blocks }, i) => ({
    atMs,
    turns: [{ shape: { promptTokens, seed: common.seed * 1_000_000 + i, blocks }, outputTokens }],
  }));
  return { ...settings(common), clients: null, sendingMs: requests.at(-1)?.atMs ?? 0, sessions };
}

const settings = ({ thinkSeconds, cancelShare, seed }: Omit<Common, "lengths">) => ({ thinkSeconds, cancelShare, seed });

function sessionsOf(times: readonly (number | null)[], { lengths, seed }: Common): PlannedSession[] {
  const random = uniform(seed + 1);
  const around = (tokens: number) => Math.max(1, Math.round(tokens * (1 + lengths.spread * (2 * random() - 1))));
  return times.map((atMs, i) => ({
    atMs,
    turns: Array.from({ length: lengths.turns }, (_, turn) => {
      const promptTokens = around(lengths.promptTokens);
      const shared = turn === 0 && random() < lengths.sharedShare;
      const blocks = shared ? { ids: [0], tokensEach: Math.max(1, Math.round(lengths.promptTokens / 2)) } : null;
      return { shape: { promptTokens, seed: seed * 1_000_000 + i * 100 + turn, blocks }, outputTokens: around(lengths.outputTokens) };
    }),
  }));
}
