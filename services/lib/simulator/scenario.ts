// From a seed to a scenario: workers, requests and faults as plain data, so that a failing one can be printed, cut down and run again.
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
  /** Requests of a family begin with the same tokens. */
  family: number;
  sharedTokens: number;
  promptTokens: number;
  maxTokens: number;
  temperature: number;
  seed: number;
  presencePenalty: number;
  stopTokenIds: number[];
  logprobs: number | null;
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
  chunkTokens: number;
  localPrefillTokens: number;
  receiveBudgetBytes: number;
  callMs: number;
  rowMs: number;
  requests: SimRequest[];
  /** SIGTERM to a worker, which drains, stops, and comes back after so long. */
  drains: { worker: string; atMs: number; backAfterMs: number }[];
  faults: Fault[];
}

/** The points that faults are aimed at by themselves. Nobody gives orders to drain here: workers are sent SIGTERM. */
export const struckPoints = protocolPoints.filter((point) => point !== "drain-order");

export const pairCount = struckPoints.length * faultKinds.length;

export const leaseMs = 6_000;
export const resumeWaitMs = 15_000;
export const deadlineMs = 60_000;

/** Every pair of point and fault is the first fault of every pairCount-th seed; further faults are drawn. */
export function makeScenario(seed: number): Scenario {
  const random = new Random(seed);
  const pair = seed % pairCount;
  const point = struckPoints[Math.floor(pair / faultKinds.length)] as ProtocolPoint;
  const kind = faultKinds[pair % faultKinds.length] as FaultKind;
  const decode = random.between(1, 3);
  const prefill = random.between(1, 2);
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
    prefill,
    decode,
    kvBlocks: random.pick([8, 12, 40]),
    maxSequences: random.pick([2, 8]),
    chunkTokens: random.pick([64, 128]),
    localPrefillTokens: random.pick([0, 32, 64]),
    receiveBudgetBytes: random.pick([6 * 1024, 64 * 1024]),
    callMs: slow ? 20 : 2,
    rowMs: slow ? 1 : random.pick([0.05, 0.5]),
    requests,
    drains: [],
    faults: [{ ...makeFault(random), point, kind, nth: random.between(0, firstStruck(point)) }],
  };
  if (random.chance(0.25)) scenario.drains.push(makeDrain(random, scenario));
  const more = random.pick([0, 1, 1, 2, 3]);
  for (let i = 0; i < more; i++) scenario.faults.push(makeFault(random));
  reach(point, scenario, random);
  return scenario;
}

/** Of some messages a run has few: there the first is struck. */
function firstStruck(point: ProtocolPoint): number {
  const many: ProtocolPoint[] = ["frame-k", "token-j", "state", "credit"];
  return many.includes(point) ? 6 : 0;
}

/** Makes it likely that the run comes to the point at all. */
function reach(point: ProtocolPoint, scenario: Scenario, random: Random): void {
  const [first] = scenario.requests as [SimRequest];
  const ahead = (fault: Partial<Fault>) => scenario.faults.push({ ...makeFault(random), nth: 0, side: "sender", ...fault });
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
    first.promptTokens = Math.max(first.promptTokens, 260);
    scenario.kvBlocks = Math.max(scenario.kvBlocks, 12);
    scenario.localPrefillTokens = Math.min(scenario.localPrefillTokens, 64);
    first.leavesAfter = null;
  }
  if (["token-j", "resume", "abort", "abort-reply", "drain", "resend-tokens"].includes(point)) {
    first.maxTokens = Math.max(first.maxTokens, 40);
    first.stopTokenIds = [];
    first.leavesAfter = null;
  }
  switch (point) {
    case "notice":
      scenario.rowMs = 3;
      break;
    case "credit":
      scenario.receiveBudgetBytes = 6 * 1024;
      break;
    case "resend-frame":
      ahead({ point: "first-frame", kind: random.pick(["loss", "corrupt"]) });
      break;
    case "resend-tokens":
      ahead({ point: "token-j", kind: "loss" });
      break;
    case "abort-transfer":
      scenario.rowMs = Math.max(scenario.rowMs, 0.5);
      first.leavesAfter = { ms: 60 };
      break;
    case "abort":
    case "abort-reply":
      first.leavesAfter = { tokens: 10 };
      break;
    case "resume":
      ahead({ point: "token-j", kind: "crash", nth: 3, ms: 500 });
      break;
    case "drain":
      if (scenario.drains.length === 0) scenario.drains.push(makeDrain(random, scenario));
      break;
  }
}

function makeRequest(random: Random, index: number): SimRequest {
  const sharedTokens = random.pick([0, 64, 130, 200]);
  return {
    id: `r${index}`,
    atMs: random.between(0, 600),
    gateway: random.between(0, 1),
    tenant: random.pick(["a", "a", "b"]),
    family: random.between(0, 2),
    sharedTokens,
    promptTokens: Math.max(1, sharedTokens + random.between(-20, 150)),
    maxTokens: random.between(1, 70),
    temperature: random.pick([0, 1]),
    seed: random.word(),
    presencePenalty: random.pick([0, 0, 0.5]),
    stopTokenIds: random.chance(0.3) ? [random.between(0, vocabSize - 1)] : [],
    logprobs: random.chance(0.3) ? 2 : null,
    leavesAfter: random.chance(0.15) ? random.pick([{ tokens: random.between(0, 20) }, { ms: random.between(0, 200) }]) : null,
  };
}

function makeFault(random: Random): Fault {
  return {
    point: random.pick(struckPoints),
    kind: random.pick(faultKinds),
    nth: random.between(0, 4),
    side: random.pick(["sender", "receiver"]),
    ms: random.pick([10, 150, 800, 2_000, 4_500]),
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
  return Uint32Array.from({ length: request.promptTokens }, (_, i) => (i < request.sharedTokens ? shared : own).word() % vocabSize);
}
