// The autoscaler: what both pools should have, from one snapshot and what was remembered of those before. Pure.
import { type AutoscaleConfig, constants, type PoolRange } from "./config.ts";
import { decodeNeed, type Planned, plannedAtFirst, type PoolNeed, prefillNeed, teach, violation, type Violation } from "./needs.ts";
import { emptyProfile, learn, type Profile } from "./profile.ts";
import type { PoolSnapshot, Snapshot } from "./snapshot.ts";
import { limitNow, type Refusal, refusalAfter } from "./unschedulable.ts";

const poolNames = ["prefill", "decode"] as const;
type PoolName = (typeof poolNames)[number];

/** Why a pool gets what it gets. */
export type ReasonKind =
  | "More"
  | "Fewer"
  | "Enough"
  | "Stabilizing"
  | "AtMaximum"
  | "AtMinimum"
  | "Unschedulable"
  | "Cancelled"
  | "OtherPoolLimits"
  | "Idle"
  | "Woken"
  | "NoFigures"
  | "FiguresMissing";

export interface PoolDecision {
  replicas: number;
  kind: ReasonKind;
  /** For a person. The words of a choice, with its figures, stay until another one is made, so that status and events are quiet. */
  reason: string;
}

interface PoolMemory {
  /** Recommended numbers, each with when it was the latest; larger ones before smaller ones. */
  recommended: readonly { atSeconds: number; replicas: number }[];
  refusal: Refusal | null;
  decision: PoolDecision | null;
  /** When it got fewer last, until that was regretted. */
  fewerAtSeconds: number | null;
  /** Fewer must have been enough for so many times stabilizationSeconds: more than 1 where that was regretted. */
  hold: number;
}

/** Kept by the operator from one snapshot to the next; null after a start. */
export interface AutoscaleState {
  profile: Profile;
  planned: Planned;
  busyAtSeconds: number;
  prefill: PoolMemory;
  decode: PoolMemory;
}

export interface AutoscaleDecision {
  prefill: PoolDecision;
  decode: PoolDecision;
  state: AutoscaleState;
}

export function planAutoscale(snapshot: Snapshot, config: AutoscaleConfig, before: AutoscaleState | null): AutoscaleDecision {
  const profile = learn(before?.profile ?? emptyProfile, snapshot);
  const plannedBefore = before?.planned ?? plannedAtFirst;
  const found = violation(snapshot, config);
  const planned = teach(plannedBefore, snapshot, found, needsAt(profile, snapshot, config, plannedBefore));
  const needs = needsAt(profile, snapshot, config, planned);
  const asked = (snapshot.requestsPerSecond ?? 0) > 0 || snapshot.runningRequests > 0 || snapshot.waitingRequests > 0;
  // Who does not know whether there are requests does not call it idle.
  const idle = !asked && snapshot.requestsPerSecond !== null && snapshot.unheard.length === 0;
  const busyAtSeconds = idle ? (before?.busyAtSeconds ?? snapshot.atSeconds) : snapshot.atSeconds;
  const memoryOf = (pool: PoolName) =>
    regret(remember(before?.[pool], snapshot[pool], config[pool], snapshot.atSeconds), snapshot, found?.pool === pool);
  const memories = { prefill: memoryOf("prefill"), decode: memoryOf("decode") };
  const shares = {
    prefill: possibleShare(needs.prefill, config.prefill, memories.prefill, snapshot.atSeconds),
    decode: possibleShare(needs.decode, config.decode, memories.decode, snapshot.atSeconds),
  };
  const asleep = snapshot.prefill.wanted === 0 && snapshot.decode.wanted === 0;
  const { scaleToZeroAfterSeconds } = config;
  const idleLong = idle && scaleToZeroAfterSeconds !== null && snapshot.atSeconds - busyAtSeconds >= scaleToZeroAfterSeconds;
  const sleeps = idleLong || (asleep && !asked && scaleToZeroAfterSeconds !== null);
  // A request may wait at a gateway that does not say so.
  const deaf = !idleLong && (snapshot.gatewaysHeard === 0 || snapshot.unheard.length > 0);
  const decide = (pool: PoolName, other: PoolName): { decision: PoolDecision; memory: PoolMemory } => {
    const memory = memories[pool];
    const made = sleeps
      ? { decision: deaf ? asleepDeaf : asleepFor(scaleToZeroAfterSeconds as number), recommended: [] }
      : decidePool({
          pool,
          snapshot,
          range: config[pool],
          stabilizationSeconds: Math.round(config.stabilizationSeconds * memory.hold),
          memory,
          need: needs[pool],
          share: shares[other],
          wakes: asleep && asked && scaleToZeroAfterSeconds !== null,
          found: found?.pool === pool || (found?.pool === null && pool === "prefill") ? found : null,
        });
    const decision = sameWords(memory.decision, made.decision);
    const fewerAtSeconds =
      decision.kind === "Fewer" && decision.replicas < snapshot[pool].wanted ? snapshot.atSeconds : memory.fewerAtSeconds;
    return { decision, memory: { ...memory, recommended: made.recommended, decision, fewerAtSeconds } };
  };
  const prefill = decide("prefill", "decode");
  const decode = decide("decode", "prefill");
  return {
    prefill: prefill.decision,
    decode: decode.decision,
    state: { profile, planned, busyAtSeconds, prefill: prefill.memory, decode: decode.memory },
  };
}

function needsAt(profile: Profile, snapshot: Snapshot, config: AutoscaleConfig, planned: Planned) {
  return {
    prefill: prefillNeed(profile, snapshot, config, planned.prefill),
    decode: decodeNeed(profile, snapshot, config, planned.decode),
  };
}

/** After a start what is there now counts as recommended now: nothing goes before stabilizationSeconds have passed. */
function remember(before: PoolMemory | undefined, pool: PoolSnapshot<unknown>, range: PoolRange, atSeconds: number): PoolMemory {
  const memory = before ?? {
    recommended: [{ atSeconds, replicas: pool.wanted }],
    refusal: null,
    decision: null,
    fewerAtSeconds: null,
    hold: 1,
  };
  return { ...memory, refusal: refusalAfter(memory.refusal, pool, range, atSeconds) };
}

/** Load that comes back sooner than workers start: what was taken away too soon is held longer the next time. */
function regret(memory: PoolMemory, { atSeconds, intervalSeconds }: Snapshot, violated: boolean): PoolMemory {
  const faded = 1 + (memory.hold - 1) * Math.exp(-Math.max(0, intervalSeconds) / constants.utilisationSeconds);
  if (!violated || memory.fewerAtSeconds === null || atSeconds - memory.fewerAtSeconds > constants.regretSeconds)
    return { ...memory, hold: faded };
  return { ...memory, hold: Math.min(constants.mostHold, faded * 2), fewerAtSeconds: null };
}

/** What part of its need a pool can get at all. The other one gets no more than the same part of what arrives: it would wait for this one. */
function possibleShare({ replicas }: PoolNeed, { maxReplicas }: PoolRange, { refusal }: PoolMemory, atSeconds: number): number {
  const wanted = replicas === null ? 0 : replicas.arriving + replicas.waiting;
  return wanted > 0 ? Math.min(1, Math.min(maxReplicas, limitNow(refusal, atSeconds)) / wanted) : 1;
}

interface PoolQuestion {
  pool: PoolName;
  snapshot: Snapshot;
  range: PoolRange;
  stabilizationSeconds: number;
  memory: PoolMemory;
  need: PoolNeed;
  /** Of the load, what the other pool can take. */
  share: number;
  wakes: boolean;
  found: Violation | null;
}

interface Made {
  decision: PoolDecision;
  recommended: PoolMemory["recommended"];
}

function decidePool(question: PoolQuestion): Made {
  const { pool, snapshot, range, memory, need, share, found } = question;
  const { wanted, replicas } = snapshot[pool];
  const { atSeconds } = snapshot;
  const within = (number: number) => Math.min(range.maxReplicas, Math.max(range.minReplicas, number));
  const say = (kind: ReasonKind, number: number, reason: string): PoolDecision => ({ kind, replicas: number, reason });
  if (snapshot.requestsPerSecond === null && !question.wakes)
    return {
      decision: say("NoFigures", within(wanted), "the gateways gave no figures: the number stays"),
      recommended: memory.recommended,
    };

  const why = found === null ? need.load : `${found.what}; ${need.load}`;
  const { number: spoken, limitedByOther } = recommend(need, wanted, share, within);
  // Who does not answer may be the one with the load.
  const blind = snapshot.unheard.length > 0 && spoken < within(wanted);
  const number = blind ? within(wanted) : spoken;
  const needed = need.replicas === null ? 0 : need.replicas.arriving + need.replicas.waiting;
  const cut = atSeconds - question.stabilizationSeconds;
  const recommended = [
    ...memory.recommended.filter((entry) => entry.atSeconds > cut && entry.replicas > number),
    { atSeconds, replicas: number },
  ];
  // As sorted: the first is the largest of the time.
  const stable = Math.max(number, recommended[0]?.replicas ?? number);

  if (wanted < range.minReplicas) {
    if (question.wakes)
      return { decision: say("Woken", Math.max(range.minReplicas, Math.min(number, within(wanted + 2))), "a request waits"), recommended };
    return {
      decision: say("AtMinimum", within(Math.min(number, step(wanted))), `fewer than minReplicas (${range.minReplicas}) are there; ${why}`),
      recommended,
    };
  }
  if (wanted > range.maxReplicas)
    return { decision: say("AtMaximum", range.maxReplicas, `maxReplicas is ${range.maxReplicas}; ${why}`), recommended };

  const limit = limitNow(memory.refusal, atSeconds);
  if (limit < Math.max(wanted, number)) {
    const backOff = memory.refusal?.backOffSeconds ?? 0;
    const reason = `only ${limit} found a node: more are not asked for again before ${backOff} s have passed; ${why}`;
    // Those that wait for a node do nothing that could be missed.
    const next = Math.min(limit, Math.max(stable, number), step(wanted));
    return { decision: say("Unschedulable", Math.max(range.minReplicas, next), reason), recommended };
  }
  if (number > wanted) {
    const next = Math.min(number, step(wanted));
    const most = number === range.maxReplicas && needed > number ? `; maxReplicas is ${range.maxReplicas}` : "";
    return { decision: say("More", next, `${why}${most}`), recommended };
  }
  if (number < wanted) {
    const unplaced = replicas.filter(({ state }) => state === "unschedulable").length;
    if (unplaced > 0) {
      const next = Math.max(number, wanted - unplaced);
      return { decision: say("Cancelled", next, `pods wait for a node that nobody needs any more; ${why}`), recommended };
    }
    if (stable < wanted) {
      const removed = Math.min(wanted - stable, Math.max(1, Math.floor(wanted * constants.mostRemovedShare)));
      return { decision: say("Fewer", wanted - removed, why), recommended };
    }
    if (lately(recommended, atSeconds - question.stabilizationSeconds / 2) < wanted) {
      const reason = `fewer would do, but have not yet for long enough (stabilizationSeconds, longer after an SLO was missed with fewer)`;
      return { decision: say("Stabilizing", wanted, reason), recommended };
    }
  }
  if (blind) {
    const reason = `fewer might do, but not all give figures (${snapshot.unheard.slice(0, 3).join(", ")}): none is taken away`;
    return { decision: say("FiguresMissing", wanted, reason), recommended };
  }
  if (limitedByOther)
    return {
      decision: say("OtherPoolLimits", wanted, "the load needs more, but the other pool cannot get what it would need, too"),
      recommended,
    };
  if (needed > range.maxReplicas)
    return { decision: say("AtMaximum", wanted, `the load needs more than maxReplicas (${range.maxReplicas})`), recommended };
  return { decision: say("Enough", wanted, "the load needs neither more nor fewer"), recommended };
}

const step = (wanted: number) => Math.max(wanted * 2, wanted + constants.mostAdded);

/** The largest number recommended since. */
function lately(recommended: PoolMemory["recommended"], sinceSeconds: number): number {
  return recommended.find(({ atSeconds }) => atSeconds > sinceSeconds)?.replicas ?? 0;
}

/** The number that the need speaks for, within a band around what is there. */
function recommend(need: PoolNeed, wanted: number, share: number, within: (number: number) => number) {
  if (need.replicas === null) return { number: within(wanted), limitedByOther: false };
  const { arriving, waiting } = need.replicas;
  const up = within(ceil(arriving + waiting));
  if (up > wanted) {
    const shared = within(ceil(arriving * share + waiting));
    return { number: Math.max(within(wanted), Math.min(up, shared)), limitedByOther: shared < up };
  }
  const down = within(ceil((arriving + waiting) / constants.downBand));
  return { number: Math.min(within(wanted), down), limitedByOther: false };
}

/** Not one more for what arithmetic lost. */
const ceil = (value: number) => Math.ceil(value - 1e-9);

function asleepFor(afterSeconds: number): PoolDecision {
  return {
    kind: "Idle",
    replicas: 0,
    reason: `no request came for scaleToZeroAfterSeconds (${afterSeconds}); the next one brings the workers back`,
  };
}

const asleepDeaf: PoolDecision = {
  kind: "NoFigures",
  replicas: 0,
  reason: "not all gateways gave figures, so that nobody knows whether a request waits: the workers sleep on",
};

/** Kinds that say of a number why it was chosen: kept as long as it stays right. */
const choices: readonly ReasonKind[] = ["More", "Fewer", "Woken", "AtMinimum"];

function sameWords(before: PoolDecision | null, now: PoolDecision): PoolDecision {
  if (before === null || before.replicas !== now.replicas) return now;
  return before.kind === now.kind || (now.kind === "Enough" && choices.includes(before.kind)) ? before : now;
}
