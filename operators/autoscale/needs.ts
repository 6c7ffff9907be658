// How many replicas the load needs, as numbers with fractions, and what violations of the SLOs teach about how full replicas may be.
import { type AutoscaleConfig, constants } from "./config.ts";
import { isWarm, meanOf, type Profile, stepTime } from "./profile.ts";
import type { PoolSnapshot, Snapshot } from "./snapshot.ts";

export interface PoolNeed {
  /** Replicas at what is planned for: for what arrives, and for what waits; null: not known yet. */
  replicas: { arriving: number; waiting: number } | null;
  /** Of what ready replicas could do: load without backlog. */
  utilisation: number | null;
  /** For a person: what there is to do, and what a replica does. */
  load: string;
}

/** What a replica of decode can do with TPOT within its SLO. */
interface DecodeCapacity {
  batch: number;
  tokensPerSecond: number;
  /** The SLO is below what a step of one sequence takes: no number of replicas meets it. */
  hopeless: boolean;
}

const ready = ({ replicas }: PoolSnapshot<unknown>) => replicas.filter(({ state }) => state === "ready").length;

/** The larger of what was measured and what as many requests of the usual kind are: the first sees other prompts sooner, the second a jam. */
function demand(measured: number | null, requests: number | null, each: number | null): number {
  return Math.max(0, measured ?? 0, (requests ?? 0) * Math.max(0, each ?? 0));
}

function ratio(of: number | null, by: number | null): number | null {
  return of === null || by === null || !(by > 1e-9) ? null : of / by;
}

export function prefillNeed(profile: Profile, snapshot: Snapshot, config: AutoscaleConfig, planned: number): PoolNeed {
  const pace = meanOf(profile.prefillPace);
  const each = ratio(meanOf(profile.longInput), meanOf(profile.longRequests));
  const rate = demand(meanOf(profile.input), meanOf(profile.requests), each);
  const queued =
    snapshot.prefill.replicas.reduce((sum, { sample }) => sum + Math.max(0, sample?.queuedTokens ?? 0), 0) +
    snapshot.waitingRequests * Math.max(0, each ?? 0);
  if (pace === null) return { replicas: null, utilisation: null, load: "no prompt was computed yet" };
  const usual = pace * ready(snapshot.prefill) * (config.ttftSeconds / 2);
  const backlog = Math.max(0, queued - usual) / constants.backlogSeconds;
  return {
    replicas: { arriving: rate / planned / pace, waiting: backlog / pace },
    utilisation: ratio(rate, pace * ready(snapshot.prefill)),
    load: `${count(rate)} prompt tokens/s arrive and ${count(queued)} wait; a replica computes ${count(pace)} a second, planned to ${percent(planned)}`,
  };
}

export function decodeNeed(profile: Profile, snapshot: Snapshot, config: AutoscaleConfig, planned: number): PoolNeed {
  const capacity = decodeCapacity(profile, config);
  const each = ratio(meanOf(profile.longOutput), meanOf(profile.longAnswers));
  const rate = demand(meanOf(profile.output), meanOf(profile.requests), each);
  if (capacity === null) return { replicas: null, utilisation: null, load: "no token was decoded yet" };
  const room = capacity.batch * ready(snapshot.decode);
  const excess = Math.max(0, snapshot.runningRequests + snapshot.waitingRequests - room);
  // Half of an answer is still to come, on average.
  const backlog = (excess * Math.max(0, each ?? 0)) / 2 / constants.backlogSeconds;
  const limit = capacity.hopeless
    ? `no step is short enough for a TPOT of ${config.tpotSeconds} s`
    : `with ${count(capacity.batch)} at once`;
  return {
    replicas: { arriving: rate / planned / capacity.tokensPerSecond, waiting: backlog / capacity.tokensPerSecond },
    utilisation: ratio(rate, capacity.tokensPerSecond * ready(snapshot.decode)),
    load: `${count(rate)} output tokens/s are asked for, ${count(snapshot.runningRequests)} requests run and ${count(snapshot.waitingRequests)} wait; a replica does ${count(capacity.tokensPerSecond)} a second (${limit}), planned to ${percent(planned)}`,
  };
}

function decodeCapacity(profile: Profile, config: AutoscaleConfig): DecodeCapacity | null {
  const step = stepTime(profile.steps);
  if (step === null) return null;
  const wanted = config.tpotSeconds * constants.tpotMargin;
  const hopeless = step.base + step.each > wanted;
  const seconds = Math.max(wanted, 1.25 * step.base + step.each);
  const cacheEach = meanOf(profile.cacheOfRequest);
  const bySteps = (seconds - step.base) / step.each;
  const byCache = cacheEach === null ? bySteps : constants.cacheLimit / cacheEach;
  const batch = Math.max(1, Math.min(bySteps, byCache));
  return { batch, tokensPerSecond: batch / (step.base + step.each * batch), hopeless };
}

/** What part of a replica's capacity is planned for, by pool, and what was learnt when. */
export interface Planned {
  prefill: number;
  decode: number;
  /** Snapshots in a row with a violation that says something. */
  violations: number;
  taughtAtSeconds: number | null;
}

export const plannedAtFirst: Planned = {
  ...constants.utilisation,
  violations: 0,
  taughtAtSeconds: null,
};

export interface Violation {
  pool: "prefill" | "decode" | null;
  /** For a person. */
  what: string;
}

/** Which pool a violated SLO speaks of; null in it: none that replicas would help. */
export function violation(snapshot: Snapshot, config: AutoscaleConfig): Violation | null {
  const { ttftSeconds, tpotSeconds, prefillQueueSeconds, admissionSeconds } = snapshot;
  if (tpotSeconds !== null && tpotSeconds > config.tpotSeconds)
    return { pool: "decode", what: `TPOT p90 was ${seconds(tpotSeconds)} (SLO ${config.tpotSeconds} s)` };
  if (ttftSeconds === null || !(ttftSeconds > config.ttftSeconds)) return null;
  const what = `TTFT p90 was ${seconds(ttftSeconds)} (SLO ${config.ttftSeconds} s)`;
  const queue = prefillQueueSeconds ?? 0;
  const admission = admissionSeconds ?? 0;
  if (Math.max(queue, admission) < 0.1 * config.ttftSeconds)
    return { pool: null, what: `${what}, but not for waiting: more replicas would not help` };
  return queue >= admission
    ? { pool: "prefill", what: `${what}, of it ${seconds(queue)} in prefill's queue` }
    : { pool: "decode", what: `${what}, of it ${seconds(admission)} waiting for room at decode` };
}

/** A pool that is as its number says it should be, with nobody in it too young to judge by. */
function isSettled({ wanted, replicas }: PoolSnapshot<unknown>): boolean {
  return replicas.length === wanted && replicas.every(isWarm);
}

/**
 * Violations while the load was no more than planned for: replicas must be less full. Only of settled pools, twice in a row, and not again
 * before what followed could show. It fades slowly.
 */
export function teach(
  planned: Planned,
  snapshot: Snapshot,
  found: Violation | null,
  needs: { prefill: PoolNeed; decode: PoolNeed },
): Planned {
  const kept = Math.exp(-Math.max(0, snapshot.intervalSeconds) / constants.utilisationSeconds);
  const faded = (part: number, full: number) => full - (full - part) * kept;
  const { utilisation: full } = constants;
  const next: Planned = {
    ...planned,
    prefill: faded(planned.prefill, full.prefill),
    decode: faded(planned.decode, full.decode),
    violations: 0,
  };
  const pool = found?.pool ?? null;
  if (pool === null || !isSettled(snapshot.prefill) || !isSettled(snapshot.decode)) return next;
  const utilisation = needs[pool].utilisation;
  if (utilisation === null || utilisation >= next[pool] || utilisation < constants.leastUtilisation / 2) return next;
  const rests = planned.taughtAtSeconds !== null && snapshot.atSeconds - planned.taughtAtSeconds < 2 * constants.warmupSeconds;
  if (rests || planned.violations < 1) return { ...next, violations: planned.violations + 1 };
  const cut = Math.max(constants.leastUtilisation, next[pool] * constants.utilisationCut);
  return { ...next, [pool]: cut, taughtAtSeconds: snapshot.atSeconds };
}

const count = (value: number) => (value < 10 ? String(Number(value.toFixed(1))) : Math.round(value).toLocaleString("en-US"));
const percent = (part: number) => `${Math.round(part * 100)}%`;
const seconds = (value: number) => `${Number(value.toPrecision(2))} s`;
