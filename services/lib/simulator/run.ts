// One scenario: the cluster starts, requests come, faults strike, everything heals, and then three things are asked: did every client that
// stayed get the undisturbed answer, did every request end in time, is everything free again?
import type { Log } from "../contracts/bus.ts";
import { PelagicError } from "../contracts/errors.ts";
import type { Generation } from "../../gateway/dispatch-client.ts";
import { SimGateway, SimWorker, type Surroundings } from "./nodes.ts";
import { type ProtocolPoint, protocolPoint } from "./protocol-points.ts";
import { Random } from "./random.ts";
import { deadlineMs, type Fault, leaseMs, promptOf, type Scenario, type SimRequest } from "./scenario.ts";
import { Broker, type Fate, usualFate } from "./sim-bus.ts";
import type { RunResult as RunnerResult } from "../engine/model-runner.ts";
import { SimRunner } from "./sim-runner.ts";
import { type Node, World } from "./world.ts";

export interface RunResult {
  seed: number;
  violations: string[];
  /** Equal for equal runs, message by message. */
  historyHash: string;
  struck: { point: ProtocolPoint; kind: Fault["kind"] }[];
  outcomes: Record<string, number>;
  resumes: number;
  simulatedMs: number;
  messages: number;
  /** Where asked for. */
  history: string[];
}

/** After the last fault has healed and the last request has ended, all must be free within the lease and a second. */
const freeWithinMs = leaseMs + 1_000;
/** A request may end so much later than its deadline: the gateway looks every 50 ms, and may be paused. */
const endGraceMs = 1_000;
/** Without what faults take, every request of these scenarios ends within this time: waits for silence, for a lease, for a worker to come back. */
const usualEndMs = 12_000;
/** Workers report, gateways hear. */
const warmUpMs = 100;

/** What is lost, doubled or late here is asked for again from a position. A request for rows is not: decode computes them itself. */
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
const mendedKinds: ReadonlySet<Fault["kind"]> = new Set(["loss", "delay", "reorder", "duplicate", "corrupt"]);

export async function runScenario(scenario: Scenario, options: { history?: boolean } = {}): Promise<RunResult> {
  const run = new Run(scenario, options.history ?? false);
  return run.play();
}

class Run {
  private readonly scenario: Scenario;
  private readonly world = new World();
  private readonly random: Random;
  private readonly broker: Broker;
  private readonly surroundings: Surroundings;
  private readonly gateways: SimGateway[] = [];
  private readonly workers = new Map<string, SimWorker>();
  private readonly clients: Client[] = [];
  private readonly seen = new Map<ProtocolPoint, number>();
  private readonly waitingFaults: Set<Fault>;
  private readonly result: RunResult;
  private readonly keepsHistory: boolean;
  private hash = 0x811c9dc5;
  private healedAtMs = 0;
  private readonly struckFaults: Fault[] = [];
  private faultMs = 0;

  constructor(scenario: Scenario, keepsHistory: boolean) {
    this.scenario = scenario;
    this.keepsHistory = keepsHistory;
    this.random = new Random(scenario.seed ^ 0x5eed);
    this.broker = new Broker(this.world, this.random);
    this.waitingFaults = new Set(scenario.faults);
    this.result = {
      seed: scenario.seed,
      violations: [],
      historyHash: "",
      struck: [],
      outcomes: {},
      resumes: 0,
      simulatedMs: 0,
      messages: 0,
      history: [],
    };
    this.broker.judge = (sender, subject, data) => this.judge(sender, subject, data);
    this.surroundings = { world: this.world, broker: this.broker, random: this.random, scenario, log: (node) => this.logOf(node) };
  }

  async play(): Promise<RunResult> {
    const { scenario, world, result } = this;
    for (let i = 0; i < scenario.prefill; i++) this.startWorker(`prefill-${i}`);
    for (let i = 0; i < scenario.decode; i++) this.startWorker(`decode-${i}`);
    for (let i = 0; i < scenario.gateways; i++) this.startGateway(i);
    for (const request of scenario.requests) {
      const client = new Client(request, (startedMs, gateway) => this.couldServe(startedMs, gateway));
      this.clients.push(client);
      world.at(warmUpMs + request.atMs, () => client.start(this.gateways[request.gateway % scenario.gateways] as SimGateway));
    }
    for (const drain of scenario.drains) world.at(warmUpMs + drain.atMs, () => this.drain(drain));
    const lastMs = warmUpMs + Math.max(...scenario.requests.map(({ atMs }) => atMs));
    await world.run(lastMs + deadlineMs + endGraceMs, () => this.clients.every((client) => client.isOver));
    await this.compare();
    this.compareWork();
    // A fault that strikes while we wait has to heal, too.
    const overAtMs = world.nowMs;
    for (let untilMs = 0; untilMs !== Math.max(overAtMs, this.healedAtMs); await world.run(untilMs + freeWithinMs)) {
      untilMs = Math.max(overAtMs, this.healedAtMs);
    }
    for (const node of [...this.workers.values(), ...this.gateways]) result.violations.push(...node.leaks());
    this.compareViews();
    result.simulatedMs = world.nowMs;
    result.historyHash = (this.hash >>> 0).toString(16);
    return result;
  }

  // The cluster

  private startWorker(id: string): void {
    this.workers.set(id, new SimWorker(this.surroundings, id));
  }

  private startGateway(index: number): void {
    this.gateways[index] = new SimGateway(this.surroundings, `gateway-${index}`);
  }

  private nodeOf(id: string): Node | undefined {
    return this.workers.get(id)?.node ?? this.gateways.find(({ node }) => node.id === id)?.node;
  }

  private crash(id: string, backAfterMs: number): void {
    this.note(`${id} dies`);
    const worker = this.workers.get(id);
    const gateway = this.gateways.findIndex(({ node }) => node.id === id);
    if (worker?.node.alive) {
      worker.kill();
      this.heals(backAfterMs, () => this.startWorker(id));
    } else if (gateway >= 0 && this.gateways[gateway]?.node.alive) {
      (this.gateways[gateway] as SimGateway).kill();
      for (const client of this.clients) client.gatewayDied();
      this.heals(backAfterMs, () => this.startGateway(gateway));
    }
  }

  private drain({ worker: id, backAfterMs }: Scenario["drains"][number]): void {
    const worker = this.workers.get(id);
    if (!worker?.node.alive) return;
    this.note(`${id} is sent SIGTERM`);
    this.faultMs += backAfterMs;
    worker.node.unwell(Number.POSITIVE_INFINITY);
    // Its drain is bounded; until it is back it has not healed.
    this.healedAtMs = Math.max(this.healedAtMs, this.world.nowMs + 20_000);
    void worker.terminate().then(() => {
      if (this.workers.get(id) === worker) this.heals(backAfterMs, () => this.startWorker(id));
    });
  }

  private heals(afterMs: number, mend: () => void): void {
    this.healedAtMs = Math.max(this.healedAtMs, this.world.nowMs + afterMs);
    this.world.after(afterMs, mend);
  }

  // Faults

  private judge(sender: Node, subject: string, data: Uint8Array): Fate {
    this.result.messages++;
    this.hash = fold(this.hash, this.world.nowMs * 1_000, subject, data);
    if (this.waitingFaults.size === 0 && !this.keepsHistory) return usualFate;
    const sighting = protocolPoint(subject, data);
    if (sighting === null) return usualFate;
    const { point, receiver } = sighting;
    const nth = this.seen.get(point) ?? 0;
    this.seen.set(point, nth + 1);
    if (this.keepsHistory && point !== "state") this.note(`${sender.id} -> ${receiver ?? "all"}: ${point} ${nth}`);
    for (const fault of this.waitingFaults) {
      if (fault.point !== point || fault.nth > nth) continue;
      this.waitingFaults.delete(fault);
      return this.strike(fault, sender, receiver);
    }
    return usualFate;
  }

  private strike(fault: Fault, sender: Node, receiver: string | null): Fate {
    const { kind, ms } = fault;
    const victim = fault.side === "receiver" ? ((receiver === null ? undefined : this.nodeOf(receiver)) ?? sender) : sender;
    this.result.struck.push({ point: fault.point, kind });
    this.struckFaults.push(fault);
    this.faultMs += kind === "jump" ? 5 * ms : ms;
    this.note(`FAULT ${kind} at ${fault.point}${["loss", "corrupt", "duplicate"].includes(kind) ? "" : `, ${ms} ms`} (${victim.id})`);
    const copy = { lateMs: 0, damaged: false };
    const unwell =
      kind === "bus-restart" ? [...this.gateways, ...this.workers.values()].map(({ node }) => node) : [kind === "delay" ? sender : victim];
    // Reconnecting takes a while.
    if (!["loss", "reorder", "duplicate", "corrupt"].includes(kind)) for (const node of unwell) node.unwell(ms + 500);
    switch (kind) {
      case "loss":
        return { copies: [], stallMs: 0 };
      case "delay":
        this.heals(ms, () => undefined);
        return { copies: [copy], stallMs: ms };
      case "reorder":
        this.heals(ms, () => undefined);
        return { copies: [{ lateMs: ms, damaged: false }], stallMs: 0 };
      case "duplicate":
        this.heals(ms, () => undefined);
        return { copies: [copy, { lateMs: this.random.pick([0, ms]), damaged: false }], stallMs: 0 };
      case "corrupt":
        return { copies: [{ lateMs: 0, damaged: true }], stallMs: 0 };
      case "partition":
        this.heals(ms, () => undefined);
        this.world.after(0, () => victim.alive && this.broker.part(victim, ms));
        return usualFate;
      case "crash":
        this.world.after(0, () => this.crash(victim.id, Math.max(100, ms)));
        return usualFate;
      case "pause":
        this.heals(ms, () => undefined);
        victim.pause(ms);
        return usualFate;
      case "jump":
        if (victim.id.startsWith("gateway")) for (const client of this.clients) client.clockJumped(victim.id);
        this.world.after(0, () => victim.jump(ms * 5));
        return usualFate;
      case "bus-restart":
        this.heals(ms, () => undefined);
        this.world.after(0, () => this.broker.restart(ms));
        return usualFate;
    }
  }

  // What must hold

  private async compare(): Promise<void> {
    const { result, scenario } = this;
    for (const client of this.clients) {
      const { request } = client;
      result.outcomes[client.outcome] = (result.outcomes[client.outcome] ?? 0) + 1;
      result.resumes += client.resumes;
      const wrong = (what: string) => result.violations.push(`${request.id}: ${what}`);
      if (!client.isOver) wrong("no end");
      // What the faults took, and what the product's own waits take on top.
      const boundMs = this.faultMs + usualEndMs;
      if (client.endedMs - client.beganMs > boundMs)
        wrong(`ended after ${client.endedMs - client.beganMs} ms, faults account for ${this.faultMs}`);
      const right = await referenceAnswer(request, scenario);
      const whole = client.outcome === "stop" || client.outcome === "length";
      // Whatever it got is the beginning of the right answer, and all of it where the request ended well.
      for (const what of ["tokens", "digests", "logprobs"] as const) {
        if (what === "logprobs" && request.logprobs === null) continue;
        const got = client[what].map(String);
        const want = right[what].map(String).slice(0, whole ? undefined : got.length);
        if (got.join() !== want.join()) {
          const at = want.findIndex((value, i) => value !== got[i]);
          wrong(
            `${what} differ from ${at < 0 ? want.length : at} on: ${got.length} came, ${right[what].length} are right (${client.outcome})`,
          );
          break;
        }
      }
      if (whole && client.outcome !== right.end) wrong(`ended with ${client.outcome} where ${right.end} is right`);
      if (!whole && client.outcome !== "left" && !client.forgiven && !this.allows(client))
        wrong(`ended with ${client.outcome}: ${client.message}`);
    }
  }

  /** Where single messages went astray on the way and nothing worse happened, no work is done twice: the positions mend it. */
  private compareWork(): void {
    const { scenario, result, clients } = this;
    const workers = [...this.workers.values()];
    const gentle =
      scenario.drains.length === 0 &&
      scenario.kvBlocks >= 40 &&
      this.struckFaults.every(({ point, kind, ms }) => mendedPoints.has(point) && mendedKinds.has(kind) && ms <= 150) &&
      clients.every(({ outcome }) => outcome === "stop" || outcome === "length") &&
      workers.every(({ core }) => core.engine.stats().preemptions === 0);
    if (!gentle) return;
    const failed = workers.reduce((sum, worker) => sum + worker.failedTransfers, 0);
    if (failed > 0) result.violations.push(`${failed} transfers were given up where only single messages were lost`);
    if (result.resumes > 0) result.violations.push(`${result.resumes} resumes where only single messages were lost`);
    const rows = workers.reduce((sum, { runner }) => sum + runner.rows, 0);
    const needed = clients.reduce((sum, { request, tokens }) => sum + request.promptTokens + tokens.length - 1, 0);
    if (rows > needed) result.violations.push(`${rows} rows were computed where ${needed} are enough`);
  }

  /** Errors that a scenario justifies; every other one is a violation. */
  private allows(client: Client): boolean {
    // Refused before any work was spent, and rightly: no worker was there all the time to do it.
    if (!client.wasAccepted && ["no_workers", "overloaded"].includes(client.outcome) && !client.couldBeServed) return true;
    // Its gateway was cut off for longer than a lease lasts.
    if (client.outcome === "bus_unavailable" && client.longestOutageMs > leaseMs) return true;
    // A clock that jumps over a wait ends it.
    if (client.clockHasJumped)
      return ["deadline_exceeded", "bus_unavailable", "worker_lost", "no_workers", "overloaded"].includes(client.outcome);
    return false;
  }

  /** Some decode worker, and the way to it, have been well from before this time until now. */
  private couldServe(startedMs: number, gateway: Node): boolean {
    // Heartbeats and snapshots go astray, too: then it takes one or two more to be known.
    const sinceMs = startedMs - (this.struckFaults.length === 0 ? 60 : 2_500);
    const well = (node: Node) => node.alive && node.wellSinceMs <= sinceMs;
    return well(gateway) && [...this.workers.values()].some(({ role, node }) => role === "decode" && well(node));
  }

  /** Gateways that have heard as much of a worker know the same, and it is the truth. */
  private compareViews(): void {
    for (const worker of this.workers.values()) {
      const { blocks } = worker.core.engine;
      const truth = [...new Set(blocks.keys().map((key) => key.slice(0, 16)))].sort().join();
      for (const gateway of this.gateways) {
        const view = gateway.directory.snapshot().workers.find(({ workerId }) => workerId === worker.node.id);
        if (view === undefined || view.instanceId !== worker.core.instanceId) {
          this.result.violations.push(`${gateway.node.id} does not know ${worker.node.id}`);
        } else if ([...view.blockKeys].sort().join() !== truth) {
          this.result.violations.push(
            `${gateway.node.id} knows ${view.blockKeys.size} blocks of ${worker.node.id}, which has ${blocks.keys().length}`,
          );
        }
      }
    }
  }

  private note(line: string): void {
    if (this.keepsHistory) this.result.history.push(`${this.world.nowMs.toFixed(1).padStart(9)} ${line}`);
  }

  private logOf(node: string): Log {
    const note = (fields: object, message: string) => this.note(`${node}: ${message} ${JSON.stringify(fields)}`);
    return { debug: note, info: note, warn: note, error: note };
  }
}

/** Reads one answer to its end, or leaves before. */
class Client {
  readonly request: SimRequest;
  readonly tokens: number[] = [];
  readonly digests: string[] = [];
  readonly logprobs: number[] = [];
  outcome = "not begun";
  message = "";
  isOver = false;
  /** Its gateway died: its connection with it. */
  forgiven = false;
  clockHasJumped = false;
  /** At its end: a worker was there all the time that could have served it. */
  couldBeServed = false;
  /** Of its gateway's connection, while the request ran. */
  longestOutageMs = 0;
  beganMs = 0;
  endedMs = 0;
  private readonly couldServe: (startedMs: number, gateway: Node) => boolean;
  private generation: Generation | null = null;
  private gateway: SimGateway | null = null;

  constructor(request: SimRequest, couldServe: (startedMs: number, gateway: Node) => boolean) {
    this.request = request;
    this.couldServe = couldServe;
  }

  get wasAccepted(): boolean {
    return this.generation?.wasAccepted ?? false;
  }

  get resumes(): number {
    return this.generation?.resumes ?? 0;
  }

  start(gateway: SimGateway): void {
    if (!gateway.node.alive) {
      this.end("gateway is down");
      this.forgiven = true;
      return;
    }
    this.gateway = gateway;
    this.beganMs = gateway.node.world.nowMs;
    gateway.node.deliver(() => {
      this.outcome = "running";
      const generation = gateway.start(this.request);
      this.generation = generation;
      const { leavesAfter } = this.request;
      if (leavesAfter !== null && "ms" in leavesAfter) gateway.node.setTimer(leavesAfter.ms, () => this.leave());
      void this.read(generation);
    });
  }

  gatewayDied(): void {
    if (this.isOver || this.gateway?.node.alive !== false) return;
    this.forgiven = true;
    this.end("gateway died");
  }

  clockJumped(gatewayId: string): void {
    if (this.gateway?.node.id === gatewayId) this.clockHasJumped = true;
  }

  private async read(generation: Generation): Promise<void> {
    const { leavesAfter } = this.request;
    try {
      for await (const batch of generation) {
        this.tokens.push(...batch.tokens);
        this.digests.push(...batch.digests);
        this.logprobs.push(...batch.logprobs.map(({ logprob }) => logprob));
        if (leavesAfter !== null && "tokens" in leavesAfter && this.tokens.length >= leavesAfter.tokens) {
          this.leave();
          return;
        }
      }
      this.end(generation.end?.reason ?? "no reason");
    } catch (error) {
      if (this.isOver) return;
      this.message = error instanceof Error ? error.message : String(error);
      this.end(error instanceof PelagicError ? error.code : "an error without a name");
    }
  }

  private leave(): void {
    if (this.isOver) return;
    this.generation?.cancel();
    this.end("left");
  }

  private end(outcome: string): void {
    this.isOver = true;
    this.outcome = outcome;
    if (this.gateway === null) return;
    this.endedMs = this.gateway.node.world.nowMs;
    this.longestOutageMs = this.gateway.bus.longestOutageMs;
    this.couldBeServed = this.couldServe(this.beganMs, this.gateway.node);
  }
}

interface Answer {
  tokens: number[];
  digests: string[];
  logprobs: number[];
  end: "stop" | "length";
}

/** What one model computes that shares nothing with anybody: all rows at once, then token by token. */
async function referenceAnswer(request: SimRequest, scenario: Scenario): Promise<Answer> {
  const prompt = promptOf(request);
  const blocks = Array.from({ length: Math.ceil((prompt.length + request.maxTokens) / 64) }, (_, i) => i);
  const runner = new SimRunner(blocks.length, null, scenario);
  const output: number[] = [];
  const answer: Answer = { tokens: output, digests: [], logprobs: [], end: "length" };
  let tokens = prompt;
  let firstRow = 0;
  while (output.length < request.maxTokens) {
    const end = firstRow + tokens.length;
    const [result] = await runner.run(
      [
        {
          tokens,
          firstRow,
          promptLength: prompt.length,
          blocks,
          logitsFrom: end - 1,
          sampling: {
            temperature: request.temperature,
            seed: BigInt(request.seed),
            choice: 0,
            ...(request.presencePenalty === 0
              ? {}
              : { presencePenalty: request.presencePenalty, promptTokens: prompt, outputTokens: Uint32Array.from(output) }),
            ...(request.logprobs === null ? {} : { logprobs: request.logprobs }),
          },
        },
      ],
      { digests: true },
    );
    const { sampled, digests } = (result as RunnerResult).sequences[0] as {
      sampled: { token: number; logprob: number };
      digests: bigint[];
    };
    output.push(sampled.token);
    answer.digests.push((digests[0] as bigint).toString(16).padStart(16, "0"));
    answer.logprobs.push(sampled.logprob);
    if (request.stopTokenIds.includes(sampled.token)) {
      answer.end = "stop";
      break;
    }
    tokens = Uint32Array.of(sampled.token);
    firstRow = end;
  }
  return answer;
}

/** FNV-1a over time, subject and bytes. */
function fold(hash: number, time: number, subject: string, data: Uint8Array): number {
  let h = Math.imul(hash ^ Math.round(time), 0x01000193);
  for (let i = 0; i < subject.length; i++) h = Math.imul(h ^ subject.charCodeAt(i), 0x01000193);
  for (let i = 0; i < data.length; i++) h = Math.imul(h ^ (data[i] as number), 0x01000193);
  return h;
}
