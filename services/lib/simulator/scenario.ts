// From a seed to a scenario: workers, requests and faults as plain data, so that a failing one can be printed, cut down and run again.
import { kvBlockTokens } from "../contracts/block-key.ts";
import { type ProtocolPoint, protocolPoints } from "./protocol-points.ts";
import { Random } from "./random.ts";
import { vocabSize } from "./sim-runner.ts";

export const faultKinds = [
  /** To the message at the point: it is lost, everything behind it waits, it is overtaken, comes twice, or comes damaged. */
  "loss",
  "delay",
  "reorder",
  "duplicate",
  "corrupt",
  /** To a process at that moment: its connections break, it dies and is restarted, stands still, or its clock goes forward. */
  "partition",
  "crash",
  "pause",
  "jump",
  /** The bus itself is restarted. */
  "bus-restart",
] as const;
export type FaultKind = (typeof faultKinds)[number];

export interface Fault {
  point: ProtocolPoint;
  kind: FaultKind;
  /** The how-manieth message at this point is struck. */
  nth: number;
  /** Which process, for faults of processes. */
  side: "sender" | "receiver";
  /** How long it lasts, or how far the clock jumps. */
  ms: number;
}

export interface SimRequest {
  id: string;
  atMs: number;
  gateway: number;
  tenant: string;
  /** Requests of a family have the same tokens behind so many of their own. */
  family: number;
  headTokens: number;
  sharedTokens: number;
  promptTokens: number;
  maxTokens: number;
  temperature: number;
  seed: number;
  presencePenalty: number;
  stopTokenIds: number[];
  logprobs: number | null;
  /** Of the prompt's own tokens. */
  promptTop: number | null;
  /** The client goes away after so many tokens, or after so many ms. */
  leavesAfter: { tokens: number } | { ms: number } | null;
}

export interface Scenario {
  seed: number;
  gateways: number;
  prefill: number;
  decode: number;
  kvBlocks: number;
  maxSequences: number;
  maxWaiting: number;
  tokenBudget: number;
  chunkTokens: number;
  chunkAlignTokens: 1 | 64;
  localPrefillTokens: number;
  receiveBudgetBytes: number;
  callMs: number;
  rowMs: number;
  /** One of several decode workers, or a prefill worker, that computes other bits, as another build or model does. */
  otherBuild: string | null;
  /** One that computes other bits from its second life on: it was replaced by another build. */
  rebuilt: string | null;
  /** One that has fewer blocks than the others, and cannot hold every request. */
  small: { worker: string; kvBlocks: number } | null;
  requests: SimRequest[];
  /** SIGTERM to a worker, which drains, stops, and comes back after so long. */
  drains: { worker: string; atMs: number; backAfterMs: number }[];
  faults: Fault[];
}

/** Of the code or the model: each has its own bits. */
export type Build = 0 | 1;

/** `life`: 0 is the worker's first. */
export function buildOf({ otherBuild, rebuilt }: Scenario, worker: string, life: number): Build {
  return worker === otherBuild || (worker === rebuilt && life > 0) ? 1 : 0;
}

/** The points that faults are aimed at by themselves. Nobody gives orders to drain here: workers are sent SIGTERM. */
export const struckPoints = protocolPoints.filter((point) => point !== "drain-order");

export const pairCount = struckPoints.length * faultKinds.length;

export const leaseMs = 6_000;
export const resumeWaitMs = 15_000;
export const deadlineMs = 60_000;

/** So many seeds are three ordinary scenarios in one cluster. */
const crowdedShare = 0.07;
/** In so many a worker that has much to do is drained, and its peer's queue is short. */
const busyDrainShare = 0.02;
/** And so many lose nothing, and have at most a few late messages: there everything is asked of the product. */
const calmShare = 0.07;

/** Every pair of point and fault is the first of every pairCount-th seed, and the second of another one; further faults are drawn. */
export function makeScenario(seed: number): Scenario {
  const random = new Random(seed);
  if (random.chance(crowdedShare)) return withUnequals(makeCrowded(seed, random), random);
  if (random.chance(busyDrainShare)) return makeBusyDrain(seed, random);
  return withUnequals(random.chance(calmShare) ? makeCalm(seed, random) : makeOne(seed, random), random);
}

/** In some clusters one worker is not as the others are. */
function withUnequals(scenario: Scenario, random: Random): Scenario {
  const prefill = random.chance(0.25);
  const worker = prefill ? `prefill-${random.between(0, scenario.prefill - 1)}` : `decode-${random.between(0, scenario.decode - 1)}`;
  if (!prefill && scenario.decode < 2) return scenario;
  if (random.chance(0.15)) return random.chance(0.5) ? { ...scenario, otherBuild: worker } : { ...scenario, rebuilt: worker };
  return random.chance(0.15) ? { ...scenario, small: { worker, kvBlocks: random.between(2, 6) } } : scenario;
}

function makeCalm(seed: number, random: Random): Scenario {
  const scenario = makeOne(seed, random);
  const late = scenario.faults.filter(({ kind }) => kind === "delay" || kind === "reorder" || kind === "duplicate");
  return { ...scenario, faults: late.map((fault) => ({ ...fault, ms: 10 })) };
}

function makeBusyDrain(seed: number, random: Random): Scenario {
  const scenario = makeOne(seed, random);
  const requests = Array.from({ length: random.between(7, 12) }, (_, i) => makeRequest(random, i)).map((request) => ({
    ...request,
    atMs: random.between(0, 150),
    maxTokens: random.between(40, 150),
    leavesAfter: null,
  }));
  const drain = { worker: `decode-${random.between(0, 1)}`, atMs: random.between(350, 600), backAfterMs: 500 };
  return withRoom({
    ...scenario,
    gateways: 1,
    decode: 2,
    maxWaiting: 4,
    maxSequences: 2,
    kvBlocks: 40,
    callMs: 20,
    requests,
    drains: [drain],
    faults: [],
  });
}

function makeOne(seed: number, random: Random): Scenario {
  const slow = random.chance(0.3);
  const requests = Array.from({ length: random.between(2, 7) }, (_, i) => makeRequest(random, i));
  // One asks what another asked: its prompt is cached to the last block.
  const [twin, original] = [random.pick(requests), random.pick(requests)];
  if (twin !== original && random.chance(0.5)) {
    const promptTokens = random.chance(0.5) ? 64 * random.between(1, 4) : original.promptTokens;
    Object.assign(original, { promptTokens });
    Object.assign(twin, { ...original, id: twin.id, atMs: original.atMs + random.between(0, 900), leavesAfter: null });
  }
  const scenario: Scenario = {
    seed,
    gateways: random.between(1, 2),
    prefill: random.between(1, 2),
    decode: random.between(1, 3),
    kvBlocks: random.pick([8, 12, 40]),
    maxSequences: random.pick([2, 8]),
    maxWaiting: random.chance(0.25) ? 4 : 16,
    tokenBudget: random.pick([40, 100, 128]),
    chunkTokens: random.pick([64, 128]),
    chunkAlignTokens: random.pick([1, 64]),
    localPrefillTokens: random.pick([0, 32, 64]),
    receiveBudgetBytes: random.pick([6 * 1024, 64 * 1024]),
    callMs: slow ? random.pick([20, 20, 60]) : 2,
    rowMs: slow ? 1 : random.pick([0.05, 0.5]),
    otherBuild: null,
    rebuilt: null,
    small: null,
    requests,
    drains: [],
    faults: [],
  };
  if (random.chance(0.25)) scenario.drains.push(makeDrain(random, scenario));
  const round = Math.floor(seed / pairCount);
  for (const [i, pair] of [seed, seed + 1 + 53 * round].entries()) {
    const point = struckPoints[Math.floor((pair % pairCount) / faultKinds.length)] as ProtocolPoint;
    const kind = faultKinds[pair % faultKinds.length] as FaultKind;
    scenario.faults.push(makeFault(random, { point, kind, nth: random.between(0, firstStruck(point)) }));
    reach(point, scenario, requests[i] as SimRequest, random);
  }
  const more = random.pick([0, 0, 0, 1, 2]);
  for (let i = 0; i < more; i++) scenario.faults.push(makeFault(random));
  return withRoom(scenario);
}

/** A cache that holds the longest request alone. */
function withRoom(scenario: Scenario): Scenario {
  const most = Math.max(...scenario.requests.map(({ promptTokens, maxTokens }) => promptTokens + maxTokens));
  return { ...scenario, kvBlocks: Math.max(scenario.kvBlocks, Math.ceil(most / kvBlockTokens)) };
}

/** More requests, processes and faults at once than one of the others has, clients that all go away together, and workers restarted one by one. */
function makeCrowded(seed: number, random: Random): Scenario {
  const parts = [0, 1, 2].map((i) => makeOne(seed + i * 1_001, random));
  const scenario: Scenario = {
    ...(parts[0] as Scenario),
    seed,
    gateways: random.between(1, 3),
    prefill: random.between(1, 3),
    decode: random.between(1, 3),
    requests: parts.flatMap(({ requests }, i) =>
      requests.map((request) => ({ ...request, id: `${request.id}${"abc"[i]}`, gateway: random.between(0, 2) })),
    ),
    faults: parts.flatMap(({ faults }) => faults),
    drains: parts.flatMap(({ drains }) => drains),
  };
  const workers = [scenario.decode, scenario.prefill].flatMap((count, role) =>
    Array.from({ length: count }, (_, i) => `${role === 0 ? "decode" : "prefill"}-${i}`),
  );
  if (random.chance(0.3)) {
    for (const worker of workers) scenario.drains.push({ worker, atMs: random.between(0, 1_500), backAfterMs: random.between(50, 1_500) });
  }
  scenario.drains = scenario.drains.filter(({ worker }) => workers.includes(worker));
  if (random.chance(0.2)) {
    const ms = random.between(0, 400);
    for (const request of scenario.requests) if (random.chance(0.7)) request.leavesAfter = { ms };
  }
  return withRoom(scenario);
}

/** Of some messages a run has few: there the first is struck. */
function firstStruck(point: ProtocolPoint): number {
  const many: ProtocolPoint[] = ["frame-k", "token-j", "state"];
  return many.includes(point) ? 6 : 0;
}

/** Makes it likely that the run comes to the point at all. */
function reach(point: ProtocolPoint, scenario: Scenario, request: SimRequest, random: Random): void {
  const ahead = (fault: Partial<Fault>) => scenario.faults.push(makeFault(random, { nth: 0, side: "sender", ...fault }));
  const prefilled = [
    "after-reserve",
    "rows-reply",
    "first-frame",
    "frame-k",
    "last-frame",
    "credit",
    "complete",
    "notice",
    "abort-transfer",
    "resend-frame",
  ];
  if (prefilled.includes(point)) {
    request.promptTokens = Math.max(request.promptTokens, 260);
    scenario.kvBlocks = Math.max(scenario.kvBlocks, 12);
    scenario.localPrefillTokens = Math.min(scenario.localPrefillTokens, 64);
    request.leavesAfter = null;
  }
  if (["token-j", "resume", "abort", "abort-reply", "drain", "resend-tokens"].includes(point)) {
    request.maxTokens = Math.max(request.maxTokens, 40);
    request.stopTokenIds = [];
    request.leavesAfter = null;
  }
  switch (point) {
    case "notice":
      scenario.rowMs = 3;
      break;
    case "credit":
      request.promptTokens = Math.max(request.promptTokens, 400);
      scenario.receiveBudgetBytes = 6 * 1024;
      break;
    case "resend-frame":
      ahead({ point: "first-frame", kind: random.pick(["loss", "corrupt"]) });
      break;
    case "resend-tokens":
      ahead({ point: "token-j", kind: "loss" });
      break;
    case "abort-transfer":
      request.atMs = 0;
      request.promptTokens = Math.max(request.promptTokens, 400);
      scenario.rowMs = Math.max(scenario.rowMs, 1);
      request.leavesAfter = { ms: random.between(20, 60) };
      break;
    case "abort":
    case "abort-reply":
      request.leavesAfter = { tokens: 10 };
      break;
    case "resume":
      ahead({ point: "token-j", kind: "crash", nth: random.between(0, 3), ms: 500 });
      break;
    case "drain":
      // It is said where there is something to wait for.
      for (let i = 0; i < scenario.decode; i++) {
        scenario.drains.push({
          worker: `decode-${i}`,
          atMs: request.atMs + random.between(10, 60),
          backAfterMs: random.between(100, 3_000),
        });
      }
      break;
  }
}

function makeRequest(random: Random, index: number): SimRequest {
  const sharedTokens = random.pick([0, 64, 130, 200]);
  const request = {
    id: `r${index}`,
    atMs: random.between(0, 600),
    gateway: random.between(0, 1),
    tenant: random.pick(["a", "a", "b"]),
    family: random.between(0, 2),
    headTokens: random.pick([0, 0, 0, 64]),
    sharedTokens,
    promptTokens: Math.max(1, sharedTokens + random.between(-20, 150)),
    maxTokens: random.chance(0.1) ? random.between(100, 250) : random.between(1, 70),
    temperature: random.pick([0, 1]),
    seed: random.word(),
    presencePenalty: random.pick([0, 0, 0.5]),
    stopTokenIds: random.chance(0.3) ? [random.between(0, vocabSize - 1)] : [],
    logprobs: random.chance(0.3) ? 2 : null,
    leavesAfter: random.chance(0.15) ? random.pick([{ tokens: random.between(0, 20) }, { ms: random.between(0, 200) }]) : null,
  };
  return { ...request, promptTop: request.seed % 6 === 0 ? 2 : null };
}

function makeFault(random: Random, aim: Partial<Fault> = {}): Fault {
  const kind = aim.kind ?? random.pick(faultKinds);
  return {
    point: random.pick(struckPoints),
    nth: random.between(0, 4),
    side: random.pick(["sender", "receiver"]),
    // Some of the dead are not back before others notice.
    ms: kind === "crash" && random.chance(0.15) ? 20_000 : random.pick([10, 150, 800, 2_000, 4_500]),
    ...aim,
    kind,
  };
}

function makeDrain(random: Random, scenario: Scenario): Scenario["drains"][number] {
  const role = random.chance(0.8) ? "decode" : "prefill";
  return {
    worker: `${role}-${random.between(0, scenario[role] - 1)}`,
    atMs: random.between(20, 900),
    backAfterMs: random.between(100, 3_000),
  };
}

export function promptOf(request: SimRequest): Uint32Array {
  const shared = new Random(1_000 + request.family);
  const own = new Random(request.seed);
  const { headTokens, sharedTokens } = request;
  const isShared = (i: number) => i >= headTokens && i < headTokens + sharedTokens;
  return Uint32Array.from({ length: request.promptTokens }, (_, i) => (isShared(i) ? shared : own).word() % vocabSize);
}
