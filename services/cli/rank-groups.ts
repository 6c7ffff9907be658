// Ranks that share experts, for ./pelagic status: how many of a group are there, and by which plan they go.
import type { WorkerState } from "../lib/contracts/messages.ts";
import { RankStatus, rankStatusPath } from "../lib/contracts/rank-status.ts";

const timeoutMs = 2_000;

/** What ranks among these workers on this machine say of their group. Others, and such as do not answer, say nothing. */
export async function rankStatuses(workers: readonly Partial<WorkerState>[]): Promise<RankStatus[]> {
  const answers = workers.map(async ({ role, metricsPort }) => {
    if (role !== "decode" || metricsPort === undefined) return [];
    try {
      const response = await fetch(`http://127.0.0.1:${metricsPort}${rankStatusPath}`, { signal: AbortSignal.timeout(timeoutMs) });
      return response.ok ? [RankStatus.parse(await response.json())] : [];
    } catch {
      return [];
    }
  });
  return (await Promise.all(answers)).flat();
}

/** A line for each group, by the member that knows the latest meeting. */
export function groupLines(statuses: readonly RankStatus[]): string[] {
  const groups = [...new Set(statuses.map(({ group }) => group))].sort();
  return groups.map((group) => {
    const own = statuses.filter((status) => status.group === group);
    const round = (status: RankStatus) => (status.members.length === 0 ? -1 : (status.history.at(-1)?.round ?? 0));
    const known = own.reduce((best, status) => (round(status) > round(best) ? status : best));
    return `ranks of ${group}: ${known.members.length === 0 ? waiting(known) : standing(known)}`;
  });
}

function waiting({ rankCount, reason }: RankStatus): string {
  return `none of ${rankCount} share their experts${reason === null ? "" : `: ${reason}`}`;
}

function standing({ rankCount, members, plan, indispensable, history }: RankStatus): string {
  const missing = Array.from({ length: rankCount }, (_, rank) => rank).filter((rank) => !members.includes(rank));
  const loss = history.findLast((met) => met.loss !== null);
  return [
    `${members.length} of ${rankCount} share their experts by plan ${plan.version}${plan.whole ? "" : ", which they go over to"}`,
    ...(missing.length > 0 ? [`not there: ${missing.join(", ")}`] : []),
    ...(missing.length > 0 && indispensable.length > 0 ? [`with the only copies of some: ${indispensable.join(", ")}`] : []),
    ...(loss ? [`last loss ${Math.round(loss.secondsAgo)} s ago: ${loss.loss}`] : []),
  ].join("; ");
}
