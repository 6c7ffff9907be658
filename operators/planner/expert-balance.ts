// How evenly the ranks of a group compute, from counters of two looks.
import type { RankStatus } from "../../services/lib/contracts/rank-status.ts";

/** By pod. */
export type RowCounts = ReadonlyMap<string, number>;

type Counted = Pick<RankStatus, "group" | "members" | "computedRows"> & { pod: string };

/** Fewer rows of a rank, on average, say little of the load. */
const leastRowsOfRank = 2_000;

/**
 * Mean over largest number of rows that a member computed since the counts that were kept, by group; not of a group of which a member was not heard, or
 * that computed too little since. `kept`: brought up to date where a balance is given, or must be counted anew.
 */
export function balancednessOf(all: Counted[], kept: Map<string, RowCounts>): Map<string, number> {
  const balance = new Map<string, number>();
  const groups = new Set(all.map(({ group }) => group));
  for (const group of kept.keys()) if (!groups.has(group)) kept.delete(group);
  for (const group of groups) {
    const members = all.filter((each) => each.group === group && each.members.length > 0);
    const isWhole = members.length > 0 && members.every((each) => each.members.length === members.length);
    const now: RowCounts = new Map(members.map(({ pod, computedRows }) => [pod, computedRows]));
    const before = kept.get(group);
    const grown = [...now].map(([pod, rows]) => rows - (before?.get(pod) ?? Number.NaN));
    const known = isWhole && before?.size === now.size && grown.every((rows) => rows >= 0);
    if (!known) {
      // Who came or began anew has another count.
      kept.set(group, isWhole ? now : new Map());
      continue;
    }
    const mean = grown.reduce((sum, rows) => sum + rows, 0) / grown.length;
    if (mean < leastRowsOfRank) continue;
    balance.set(group, mean / Math.max(...grown));
    kept.set(group, now);
  }
  return balance;
}
