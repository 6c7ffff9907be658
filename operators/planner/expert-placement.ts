// The ExpertPlacement of a ModelService, from what its decode pods say of their group. Nothing is remembered but what the status itself has: which
// meeting of the ranks was told last, and who was in it.
import {
  type Change,
  type ExpertPlacementStatus,
  expertPlacementKind,
  maxChangeLength,
  maxChanges,
  type PlacementConditionType,
  placementConditionNames,
} from "../api/expert-placement.ts";
import { apiVersion, type Experts, type ModelService } from "../api/model-service.ts";
import { shortened } from "../../services/lib/contracts/shortened.ts";
import { conditionsOf, type Finding } from "./conditions.ts";
import type { KubernetesObject } from "./kubernetes.ts";
import { ownerReference, poolLabels } from "./names.ts";
import type { RankStatus } from "../../services/lib/contracts/rank-status.ts";
import type { RankReport } from "./observed.ts";
import type { PlannedEvent } from "./events.ts";

export function expertPlacementOf(service: ModelService): KubernetesObject {
  const { name, namespace } = service.metadata;
  return {
    apiVersion,
    kind: expertPlacementKind,
    metadata: { name, namespace, labels: poolLabels(service, "decode"), ownerReferences: [ownerReference(service)] },
    spec: { modelService: name },
  };
}

export interface PlacementFacts {
  experts: Experts;
  namespace: string;
  /** The StatefulSet that is wanted. */
  group: string;
  reports: RankReport[];
  earlier: ExpertPlacementStatus | undefined;
  generation: number;
  nowMs: number;
}

/** A meeting of the ranks, as some of them remember it. */
interface Meeting {
  round: number;
  atMs: number;
  members: number[];
  loss: string | null;
  stopped: number[];
}

/** Smaller differences of the balance are not worth a write. */
const leastBalanceChange = 0.05;

export function placementStatusOf(facts: PlacementFacts): { status: ExpertPlacementStatus; events: PlannedEvent[] } {
  const { experts, namespace, earlier, generation, nowMs } = facts;
  // While a new group starts, the old one is what computes.
  const groups = groupsOf(facts.reports, namespace);
  const group = [facts.group, ...groups.keys()].find((name) => groups.get(name)?.some(isMember)) ?? facts.group;
  const reports = groups.get(group) ?? [];
  const standing = newest(reports);
  const members = standing?.status.members ?? [];
  const met = newChanges(facts, group, reports);
  const { losses } = met;
  const placed = placedAnew(facts, group, reports);
  const changes = [...placed.changes, ...met.changes];
  const last = [...changes, ...(earlier?.changes ?? [])].find(({ kind }) => kind !== "Placed");
  const before = earlier?.changes?.[0]?.group === group ? earlier : undefined;
  const known = [...(before?.ranks?.lost ?? []), ...(before?.ranks?.members ?? []), ...reports.flatMap(membersEver)];
  // Between two groups those are there that say something.
  const there = members.length > 0 ? members : reports.map(({ status }) => status.rank);
  const lost = [...new Set(known)].filter((rank) => !there.includes(rank)).sort((a, b) => a - b);
  const indispensable = standing?.status.indispensable ?? [];
  const ranks = { present: `${members.length}/${experts.ranks}`, members, lost, indispensable };
  const balancedness = steady(earlier?.balancedness, balanceOf(reports));
  const found = { ...facts, group, reports, ranks };
  const findings: Record<PlacementConditionType, Finding> = {
    Serving: serving(found),
    Complete: complete(found, last),
    Redundant: redundant(found),
  };
  const status: ExpertPlacementStatus = {
    ...(placed.plan && { plan: placed.plan }),
    ranks,
    ...(balancedness !== undefined && { balancedness }),
    ...(placed.moved && { moved: placed.moved }),
    losses: (earlier?.losses ?? 0) + losses,
    changes: [...changes, ...(earlier?.changes ?? [])].slice(0, maxChanges),
    conditions: conditionsOf(placementConditionNames, findings, earlier?.conditions ?? [], generation, nowMs),
  };
  return { status, events: changes.toReversed().map(eventOf) };
}

/** By the StatefulSet's name. */
function groupsOf(reports: RankReport[], namespace: string): Map<string, RankReport[]> {
  const groups = new Map<string, RankReport[]>();
  for (const report of reports) {
    const [where, name] = report.status.group.split("/");
    if (where !== namespace || name === undefined) continue;
    groups.set(name, [...(groups.get(name) ?? []), report]);
  }
  return groups;
}

const isMember = ({ status }: RankReport) => status.members.length > 0;
const membersEver = ({ status }: RankReport) => status.history.flatMap(({ members }) => members);
const lastRound = ({ status }: RankReport) => status.history.at(-1)?.round ?? 0;

/** Of the group that stands: who was left behind may still think of an earlier one. */
function newest(reports: RankReport[]): RankReport | undefined {
  const standing = reports.filter(isMember);
  return standing.reduce<RankReport | undefined>((best, one) => (best && lastRound(best) >= lastRound(one) ? best : one), undefined);
}

/** What was not told yet, the newest first, and how many ranks were lost in it. */
function newChanges({ experts, earlier }: PlacementFacts, group: string, reports: RankReport[]): { changes: Change[]; losses: number } {
  const told = earlier?.changes?.[0];
  const stands = newest(reports);
  let toldRound = told?.group === group ? told.round : 0;
  // Who knows of no later round than was told, and stands in an earlier one, has begun anew: all pods at once.
  if (stands !== undefined && lastRound(stands) < toldRound) toldRound = 0;
  const meetings = meetingsOf(reports);
  // Not the members of the last look: there may have been none between two meetings.
  let before = toldRound > 0 ? (meetings.findLast(({ round }) => round <= toldRound)?.members ?? earlier?.ranks?.members) : undefined;
  let losses = 0;
  const changes: Change[] = [];
  for (const meeting of meetings.filter(({ round }) => round > toldRound)) {
    const { round, atMs, members, loss, stopped } = meeting;
    const gone = (before ?? []).filter((rank) => !members.includes(rank));
    const come = before === undefined ? members : members.filter((rank) => !before?.includes(rank));
    const lost = gone.filter((rank) => !stopped.includes(rank));
    losses += gone.length > 0 ? lost.length : Number(loss !== null);
    const told = { experts, group, members, lost, stopped: gone.filter((rank) => stopped.includes(rank)), come, loss };
    const { kind, text } = before === undefined ? firstChange(told) : nextChange(told);
    changes.unshift({ time: isoSeconds(atMs), group, round, kind, message: shortened(text, maxChangeLength) });
    before = members;
  }
  return { changes, losses };
}

type Placed = Pick<ExpertPlacementStatus, "plan" | "moved"> & { changes: Change[] };

/** Another plan in force than was told, once all its layers are. */
function placedAnew({ earlier, nowMs }: PlacementFacts, group: string, reports: RankReport[]): Placed {
  const standing = newest(reports)?.status;
  const { plan: told, moved: before } = earlier ?? {};
  const known = { ...(told && { plan: told }), ...(before && { moved: before }) };
  if (standing === undefined || !standing.plan.whole) return { ...known, changes: [] };
  const { version, digest } = standing.plan;
  if (told?.version === version && told.digest === digest) return { ...known, changes: [] };
  const sum = (read: (status: RankStatus) => number) => reports.reduce((total, { status }) => total + read(status), 0);
  const moved = { experts: sum(({ loaded }) => loaded.experts), bytes: sum(({ loaded }) => loaded.bytes) };
  const placed = { plan: { version, digest }, ...(moved.experts > 0 && { moved }) };
  // The plan that a group begins with is no move.
  if (told === undefined || earlier?.changes?.[0]?.group !== group) return { ...placed, changes: [] };
  const experts = moved.experts - (before?.experts ?? 0);
  const mib = (moved.bytes - (before?.bytes ?? 0)) / 1024 / 1024;
  // Who began anew has counted less since.
  const loaded = experts > 0 && mib >= 0 ? `: ${experts} copies of experts loaded, ${mib.toFixed(1)} MiB` : "";
  const round = standing.history.at(-1)?.round ?? 1;
  return { ...placed, changes: [{ time: isoSeconds(nowMs), group, round, kind: "Placed", message: `plan ${version} in force${loaded}` }] };
}

/** All that any rank remembers, in order. */
function meetingsOf(reports: RankReport[]): Meeting[] {
  const byRound = new Map<number, Meeting>();
  for (const { status, atMs } of reports) {
    for (const { round, secondsAgo, members, loss, stopped } of status.history) {
      const known = byRound.get(round);
      byRound.set(round, {
        round,
        atMs: atMs - secondsAgo * 1000,
        members: members.toSorted((a, b) => a - b),
        loss: known?.loss ?? loss,
        stopped: [...(known?.stopped ?? []), ...stopped],
      });
    }
  }
  return [...byRound.values()].sort((a, b) => a.round - b.round);
}

interface Told {
  experts: Experts;
  group: string;
  members: number[];
  /** Ranks of the meeting before that are not in this one. */
  lost: number[];
  stopped: number[];
  come: number[];
  loss: string | null;
}
type Said = { kind: Change["kind"]; text: string };

function firstChange({ experts, group, members }: Told): Said {
  const who = members.length === experts.ranks ? `all ${members.length} ranks` : ranksText(members);
  return { kind: "Met", text: `${group}: ${who} have met` };
}

function nextChange({ experts, group, members, lost, stopped, come, loss }: Told): Said {
  const because = loss === null ? "" : ` (${loss})`;
  const share =
    members.length === experts.ranks ? `all ${members.length} share the experts` : `${ranksText(members)} hold every expert and go on`;
  const pods = (ranks: number[]) => ranks.map((rank) => `${group}-${rank}`).join(", ");
  const anew = come.length > 0 ? `, ${ranksText(come)} anew` : "";
  const asWell = stopped.length > 0 ? `, ${ranksText(stopped)} stopped` : "";
  if (lost.length > 0) return { kind: "Lost", text: `${ranksText(lost)} lost: pod ${pods(lost)}${because}${asWell}; ${share}${anew}` };
  if (stopped.length > 0) return { kind: "Stopped", text: `${ranksText(stopped)} stopped: pod ${pods(stopped)}; ${share}${anew}` };
  if (come.length > 0) return { kind: "Met", text: `${ranksText(come)} back; ${share}` };
  return { kind: "Lost", text: `the group ended${because} and met again; ${share}` };
}

const reasons = { Met: "RanksMet", Lost: "RankLost", Stopped: "RankStopped", Placed: "ExpertsPlaced" } as const;

function eventOf({ kind, message }: Change): PlannedEvent {
  return { type: kind === "Lost" ? "Warning" : "Normal", reason: reasons[kind], message };
}

type Found = PlacementFacts & { ranks: NonNullable<ExpertPlacementStatus["ranks"]> };

function serving({ group, reports, ranks }: Found): Finding {
  if (ranks.members.length > 0)
    return { status: "True", reason: "GroupStands", message: `${capital(ranksText(ranks.members))} hold every expert.` };
  if (reports.length === 0)
    return {
      status: "Unknown",
      reason: "NotHeard",
      message: `No pod of StatefulSet ${group} answers on its port metrics: they start, or a NetworkPolicy keeps the operator away. See kubectl get pods -l pelagic.dev/rank-group=${group}.`,
    };
  const said = reports.map(({ status }) => `rank ${status.rank} ${status.reason ?? "meets the others"}`);
  return {
    status: "False",
    reason: "NoGroup",
    message: `Nothing is computed: ${said.join("; ")}. Waiting ends when the pods that are missing run: kubectl get pods -l pelagic.dev/rank-group=${group}.`,
  };
}

function complete({ experts, group, ranks }: Found, last: Change | undefined): Finding {
  const missing = Array.from({ length: experts.ranks }, (_, rank) => rank).filter((rank) => !ranks.members.includes(rank));
  if (missing.length === 0) return { status: "True", reason: "AllRanks", message: `All ${experts.ranks} ranks take part.` };
  const pods = missing.map((rank) => `${group}-${rank}`).join(", ");
  if (ranks.lost.length === 0 && last !== undefined)
    return { status: "False", reason: "Meeting", message: "A group has ended, and its ranks are about to meet again." };
  if (ranks.lost.length === 0)
    return { status: "False", reason: "Starting", message: `Pod ${pods} not in the group yet: kubectl get pods says how far it is.` };
  const lost = ranks.lost.map((rank) => `${group}-${rank}`).join(", ");
  const how = last?.kind === "Lost" || last?.kind === "Stopped" ? `: ${last.message}` : "";
  return {
    status: "False",
    reason: last?.kind === "Stopped" ? "RankStopped" : "RankLost",
    message: `Pod ${lost} does not take part${how}. StatefulSet ${group} makes it anew; if it stays away, see kubectl describe pod.`,
  };
}

function redundant({ ranks }: Found): Finding {
  if (ranks.members.length === 0) return { status: "Unknown", reason: "NoGroup", message: "There is no group." };
  if (ranks.indispensable.length === 0)
    return { status: "True", reason: "CopiesElsewhere", message: "Whichever rank is lost, the others hold every expert and go on." };
  return {
    status: "False",
    reason: "SoleCopies",
    message: `Without ${ranksText(ranks.indispensable, "or")} the others would lack an expert and wait until it is back. ${
      ranks.lost.length > 0
        ? "It mends itself when the lost ranks are back."
        : "A larger spec.experts.redundancy of the ModelService gives copies."
    }`,
  };
}

/** Only the rank that leads the group hears of all loads. */
function balanceOf(reports: RankReport[]): number | undefined {
  return reports.find((report) => isMember(report) && report.status.balancedness !== null)?.status.balancedness ?? undefined;
}

function steady(earlier: number | undefined, now: number | undefined): number | undefined {
  if (now === undefined) return earlier;
  const rounded = Math.round(now * 100) / 100;
  return earlier !== undefined && Math.abs(rounded - earlier) < leastBalanceChange ? earlier : rounded;
}

/** "rank 2", "ranks 0, 1 and 3". */
function ranksText(ranks: number[], and = "and"): string {
  if (ranks.length === 1) return `rank ${ranks[0]}`;
  return `ranks ${ranks.slice(0, -1).join(", ")} ${and} ${ranks.at(-1)}`;
}

function capital(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;
}

function isoSeconds(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}
