// What must hold when all is over. Each check tells what does not, in words. How much it may ask depends on what struck: a worker that dies costs
// work and time, a single lost message may cost a little time, a late one nothing.
import type { Client } from "./client.ts";
import type { SimGateway, SimWorker } from "./nodes.ts";
import type { ProtocolPoint } from "./protocol-points.ts";
import { type Answer, soloMs } from "./reference.ts";
import { type Fault, leaseMs, promptOf, type Scenario } from "./scenario.ts";

export interface Played {
  scenario: Scenario;
  clients: readonly Client[];
  /** What is right, for each client. */
  answers: ReadonlyMap<Client, Answer>;
  /** Every life of every worker, and those that are there now. */
  lives: readonly SimWorker[];
  workers: readonly SimWorker[];
  gateways: readonly SimGateway[];
  struck: readonly Fault[];
  /** What faults and drains may cost a request. */
  faultMs: number;
}

/** Without what faults take, every request of these scenarios ends within this time: waits for silence, for a lease, for a worker to come back. */
const usualEndMs = 12_000;
/** So late is not too late for anybody. */
const littleMs = 150;

/** Messages that are lost, doubled or late here are asked for again from a position. A request for rows is not: decode computes them itself. */
const mendedPoints: ReadonlySet<ProtocolPoint> = new Set([
  "first-frame",
  "frame-k",
  "last-frame",
  "credit",
  "resend-frame",
  "complete",
  "notice",
  "first-token",
  "token-j",
  "finish",
  "ack",
  "resend-tokens",
  "lease",
  "state",
  "snapshot-request",
]);

const isLate = ({ kind, ms }: Fault) => ["delay", "reorder", "duplicate"].includes(kind) && ms <= littleMs;
const isLost = ({ kind }: Fault) => kind === "loss" || kind === "corrupt";

/** No message was lost, and nothing happened to any process. */
export function isCalm({ scenario, struck }: Pick<Played, "scenario" | "struck">): boolean {
  return scenario.drains.length === 0 && struck.every(isLate);
}

export function checkAnswers(played: Played): string[] {
  const { scenario, clients, answers, faultMs } = played;
  const violations: string[] = [];
  // One after another, and twice: preempted requests are computed again.
  const workMs = 2 * scenario.requests.reduce((sum, request) => sum + soloMs(request, scenario), 0);
  for (const client of clients) {
    const { request } = client;
    const right = answers.get(client) as Answer;
    const wrong = (what: string) => violations.push(`${request.id}: ${what}`);
    if (!client.isOver) wrong("no end");
    const tookMs = client.endedMs - client.beganMs;
    if (tookMs > faultMs + workMs + usualEndMs) {
      wrong(`ended after ${Math.round(tookMs)} ms, faults account for ${faultMs}, all work for ${Math.round(workMs)}`);
    }
    // Whatever it got is the beginning of the right answer, and all of it where the request ended well.
    // All of them, or with no token yet none.
    if (request.promptTop !== null && client.tokens.length > 0 && client.scores.join() !== right.scores.join())
      wrong(`scores of the prompt differ: ${client.scores.length} came, ${right.scores.length} are right (${client.outcome})`);
    for (const what of ["tokens", "digests", "logprobs"] as const) {
      if (what === "logprobs" && request.logprobs === null) continue;
      const got = client[what].map(String);
      const want = right[what].map(String).slice(0, client.isWhole ? undefined : got.length);
      if (got.join() === want.join()) continue;
      const at = want.findIndex((value, i) => value !== got[i]);
      wrong(`${what} differ from ${at < 0 ? want.length : at} on: ${got.length} came, ${right[what].length} are right (${client.outcome})`);
      break;
    }
    if (client.isWhole && client.outcome !== right.end) wrong(`ended with ${client.outcome} where ${right.end} is right`);
    if (!client.isWhole && client.outcome !== "left" && !client.forgiven && !allows(client, scenario)) {
      wrong(`ended with ${client.outcome}: ${client.message}`);
    }
  }
  return violations;
}

/** Errors that a scenario justifies; every other one is a violation. */
function allows(client: Client, scenario: Scenario): boolean {
  const { outcome } = client;
  // Its worker's queue was full; and so were all others' where it was accepted once and lost.
  if (outcome === "overloaded" && scenario.requests.length > scenario.maxWaiting) return true;
  // Refused before any work was spent, and rightly: no worker was there all the time to do it.
  if (!client.wasAccepted && ["no_workers", "overloaded"].includes(outcome) && !client.couldBeServed) return true;
  // Lost, and no other worker came for as long as a request waits.
  if (outcome === "worker_lost" && !client.couldBeResumed) return true;
  // Its gateway was cut off for longer than a lease lasts.
  if (outcome === "bus_unavailable" && client.longestOutageMs > leaseMs) return true;
  // A clock that jumps over a wait ends it.
  return client.clockHasJumped && ["deadline_exceeded", "bus_unavailable", "worker_lost", "no_workers", "overloaded"].includes(outcome);
}

/** Where single messages went astray and nothing worse happened, nobody's work is done elsewhere, or twice: positions mend it. */
export function checkWork({ scenario, clients, lives, struck }: Played): string[] {
  // What comes twice is known by its id, wherever it strikes.
  const mended = struck.every((fault) => fault.kind === "duplicate" || (mendedPoints.has(fault.point) && (isLost(fault) || isLate(fault))));
  if (!mended || scenario.drains.length > 0) return [];
  const violations: string[] = [];
  for (const { request, resumes } of clients) {
    if (resumes > 0) violations.push(`${request.id}: went elsewhere where only single messages were lost`);
  }
  const roomy = scenario.kvBlocks >= 40 && scenario.small === null && lives.every(({ core }) => core.engine.stats().preemptions === 0);
  if (!roomy || !clients.every(({ isWhole }) => isWhole)) return violations;
  const failed = lives.reduce((sum, worker) => sum + worker.failedTransfers, 0);
  if (failed > 0) violations.push(`${failed} transfers were given up where only single messages were lost`);
  const rows = lives.reduce((sum, { runner }) => sum + runner.rows, 0);
  const needed = clients.reduce((sum, { request, tokens }) => sum + request.promptTokens + tokens.length - 1, 0);
  if (rows > needed) violations.push(`${rows} rows were computed where ${needed} are enough`);
  return violations;
}

/** What is over does not begin again. */
export function checkBeginnings({ lives }: Pick<Played, "lives">): string[] {
  return lives.flatMap(({ node, begunAgain }) => begunAgain.map((id) => `${node.id}: ${id} began again`));
}

/** A drain moves what runs, in time, where somebody else can take it. */
export function checkDrains({ scenario, lives, struck }: Played): string[] {
  const equal = scenario.otherBuild === null && scenario.rebuilt === null && scenario.small === null;
  if (scenario.drains.length !== 1 || scenario.decode < 2 || !equal || !struck.every(isLate)) return [];
  const roomy = scenario.requests.length < scenario.maxWaiting;
  const left = lives
    .filter(({ leftByDrain }) => leftByDrain > 0 && roomy)
    .map(({ node, leftByDrain }) => `${node.id}: ${leftByDrain} requests at the end of its drain`);
  // Nobody stops where it is for a place that it does not get. New requests, other gateways, and what a drain's bound cut off may take it meanwhile.
  const alone =
    lives.every(({ leftByDrain }) => leftByDrain === 0) &&
    scenario.gateways === 1 &&
    scenario.requests.every(({ atMs }) => atMs + littleMs < (scenario.drains[0]?.atMs ?? 0));
  const refused = alone ? lives.filter(({ refusedInMidAnswer }) => refusedInMidAnswer > 0) : [];
  return [...left, ...refused.map(({ node, refusedInMidAnswer }) => `${node.id}: ${refusedInMidAnswer} requests moved to it in vain`)];
}

/** Restarts of the bus that are shorter than a lease fail no request, and move none. */
export function checkOutages({ scenario, clients, struck }: Played): string[] {
  const outagesMs = struck.reduce((sum, { ms }) => sum + ms + 500, 0);
  const only =
    struck.length > 0 && struck.every(({ kind, point }) => kind === "bus-restart" && point !== "state" && point !== "snapshot-request");
  if (!only || outagesMs >= leaseMs || scenario.drains.length > 0) return [];
  return clients.flatMap((client) => [
    ...(client.isWhole || client.outcome === "left"
      ? []
      : [`${client.request.id}: ${client.outcome} after an outage shorter than the lease`]),
    ...(client.resumes > 0 ? [`${client.request.id}: went elsewhere after an outage shorter than the lease`] : []),
  ]);
}

/** A cache hit is rows that somebody of the same tenant computed before, for another request. */
export function checkCacheHits({ scenario, clients, answers, struck }: Played): string[] {
  // After these a request may find what it computed itself.
  const rough = scenario.drains.length > 0 || struck.some((fault) => !mendedPoints.has(fault.point) || !(isLost(fault) || isLate(fault)));
  const known = new Map(clients.map((client) => [client, [...promptOf(client.request), ...(answers.get(client) as Answer).tokens]]));
  const violations: string[] = [];
  for (const client of clients) {
    if (client.cacheHitTokens === 0) continue;
    const prompt = promptOf(client.request);
    const others = clients.filter(
      (other) => other.request.tenant === client.request.tenant && (rough || client.resumes > 0 || other !== client),
    );
    const most = Math.max(0, ...others.map((other) => commonLength(prompt, known.get(other) as number[])));
    if (client.cacheHitTokens > most) {
      violations.push(`${client.request.id}: ${client.cacheHitTokens} tokens were cached where its tenant had computed ${most}`);
    }
  }
  return violations;
}

function commonLength(left: ArrayLike<number>, right: ArrayLike<number>): number {
  let length = 0;
  while (length < left.length && length < right.length && left[length] === right[length]) length++;
  return length;
}

/** Everybody's blocks, leases, credits and subscriptions are given back. */
export function checkLeaks({ workers, gateways }: Pick<Played, "workers" | "gateways">): string[] {
  return [...workers, ...gateways].flatMap((node) => node.leaks());
}

/** What gateways believe of the workers is the truth. */
export function checkViews({ workers, gateways }: Pick<Played, "workers" | "gateways">): string[] {
  const violations: string[] = [];
  for (const worker of workers) {
    const { blocks } = worker.core.engine;
    const truth = [...new Set(blocks.keys().map((key) => key.slice(0, 16)))].sort().join();
    for (const gateway of gateways) {
      const view = gateway.directory.snapshot().workers.find(({ workerId }) => workerId === worker.node.id);
      if (view === undefined || view.instanceId !== worker.core.instanceId) {
        violations.push(`${gateway.node.id} does not know ${worker.node.id}`);
      } else if ([...view.blockKeys].sort().join() !== truth) {
        violations.push(`${gateway.node.id} knows ${view.blockKeys.size} blocks of ${worker.node.id}, which has ${blocks.keys().length}`);
      }
    }
  }
  return violations;
}
