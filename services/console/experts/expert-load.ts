// How the tokens of a span of time were shared among experts. Pure.
import type { ConsoleExperts } from "../../lib/contracts/console.ts";

/** Of one worker. */
export interface ExpertSnapshot {
  atSeconds: number;
  instanceId: string;
  tokens: readonly (readonly number[])[];
}

export const windowSeconds = 60;
const keptSnapshots = 8;
const apartSeconds = windowSeconds / (keptSnapshots - 2);

/** Snapshots of the last minute and a little more, few of them: a large model's are large. Those of another instance count no more. */
export function rememberExperts(kept: readonly ExpertSnapshot[], experts: ConsoleExperts, atSeconds: number): readonly ExpertSnapshot[] {
  if (experts.tokens === null) return [];
  const own = kept.filter(({ instanceId }) => instanceId === experts.instanceId);
  const before = own.slice(0, -1);
  const last = own.at(-1);
  // The newest stands apart: it is replaced until it is far enough from the one before it.
  const apart = last !== undefined && (before.length === 0 || last.atSeconds - (before.at(-1) as ExpertSnapshot).atSeconds >= apartSeconds);
  return [...(apart ? own : before), { atSeconds, instanceId: experts.instanceId, tokens: experts.tokens }].slice(-keptSnapshots);
}

/** What came since the start, or in about the last minute; null where there is nothing to compare with yet. */
export function tokensOf(
  kept: readonly ExpertSnapshot[],
  span: "start" | "minute",
): { tokens: readonly (readonly number[])[]; seconds: number | null } | null {
  const now = kept.at(-1);
  if (now === undefined) return null;
  if (span === "start") return { tokens: now.tokens, seconds: null };
  const then = kept.findLast(({ atSeconds }) => now.atSeconds - atSeconds >= windowSeconds) ?? kept[0];
  if (then === undefined || then === now) return null;
  return {
    tokens: now.tokens.map((layer, i) => layer.map((count, expert) => count - (then.tokens[i]?.[expert] ?? 0))),
    seconds: now.atSeconds - then.atSeconds,
  };
}

export interface LayerLoad {
  tokens: number;
  /** Each expert's tokens over the layer's mean: 1 is an equal share. All 0 where there were none. */
  relative: number[];
  busiest: number;
  /** Of the busiest expert; what an expert-parallel step waits for. */
  highest: number;
  unused: number;
}

export function layerLoad(tokens: readonly number[]): LayerLoad {
  const sum = tokens.reduce((total, count) => total + count, 0);
  const relative = tokens.map((count) => (sum === 0 ? 0 : (count * tokens.length) / sum));
  let busiest = 0;
  relative.forEach((load, expert) => {
    if (load > (relative[busiest] as number)) busiest = expert;
  });
  return { tokens: sum, relative, busiest, highest: relative[busiest] ?? 0, unused: tokens.filter((count) => count === 0).length };
}

/** The sum over workers of the same model; those of another shape are left out. */
export function addTokens(parts: readonly (readonly (readonly number[])[])[]): readonly (readonly number[])[] | null {
  const [first, ...others] = parts;
  if (first === undefined) return null;
  const alike = others.filter((part) => part.length === first.length && part[0]?.length === first[0]?.length);
  return first.map((layer, i) => layer.map((count, expert) => alike.reduce((sum, part) => sum + (part[i]?.[expert] ?? 0), count)));
}
