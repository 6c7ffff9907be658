// One scenario: the cluster starts, requests come, faults strike, everything heals, and then three things are asked: did every client that
// stayed get the undisturbed answer, did every request end in time, is everything free again?
import type { Log } from "../contracts/bus.ts";
import {
  checkAnswers,
  checkBeginnings,
  checkCacheHits,
  checkDrains,
  checkLeaks,
  checkOutages,
  checkViews,
  checkWork,
  isCalm,
  type Played,
} from "./checks.ts";
import { Client } from "./client.ts";
import { FlowWatch } from "./flow-watch.ts";
import { numericsIds, SimGateway, SimWorker, type Surroundings } from "./nodes.ts";
import { type ProtocolPoint, protocolPoint } from "./protocol-points.ts";
import { Random } from "./random.ts";
import { type Answer, closestAnswer, referenceAnswer } from "./reference.ts";
import { type Build, deadlineMs, type Fault, leaseMs, type Scenario } from "./scenario.ts";
import { Broker, type Fate, usualFate } from "./sim-bus.ts";
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
/** Where nothing is lost, all is free so soon, a call that runs included. */
const promptMs = 1_000;
/** Workers report, gateways hear. */
const warmUpMs = 100;
/** What a worker's death costs where another one is there: its silence is noticed. */
const deathMs = 5_000;

export async function runScenario(scenario: Scenario, options: { history?: boolean } = {}): Promise<RunResult> {
  const run = new Run(scenario, options.history ?? false);
  try {
    return await run.play();
  } catch (error) {
    run.result.violations.push(`the run itself failed: ${error instanceof Error ? error.stack : String(error)}`);
    return run.result;
  }
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
  readonly result: RunResult;
  private readonly keepsHistory: boolean;
  private hash = 0x811c9dc5;
  private healedAtMs = 0;
  /** Every life of every worker. */
  private readonly lives: SimWorker[] = [];
  private readonly struck: Fault[] = [];
  private readonly answers = new Map<Client, Answer>();
  private readonly flows = new FlowWatch();
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
    this.broker.onHandlerError = (node, error) => this.result.violations.push(`${node.id}: a handler threw ${String(error)}`);
    this.broker.judge = (sender, subject, data) => this.judge(sender, subject, data);
    this.surroundings = { world: this.world, broker: this.broker, random: this.random, scenario, log: (node) => this.logOf(node) };
  }

  async play(): Promise<RunResult> {
    const { scenario, world, result, clients } = this;
    for (let i = 0; i < scenario.prefill; i++) this.startWorker(`prefill-${i}`);
    for (let i = 0; i < scenario.decode; i++) this.startWorker(`decode-${i}`);
    for (let i = 0; i < scenario.gateways; i++) this.startGateway(i);
    for (const request of scenario.requests) {
      const client = new Client(request, {
        couldServe: (startedMs, gateway) => this.couldServe(startedMs - this.noticeMs, gateway, () => true),
        couldResume: (numericsId, gateway) =>
          this.couldServe(world.nowMs - this.noticeMs, gateway, ({ build }) => numericsIds[build] === numericsId),
      });
      clients.push(client);
      world.at(warmUpMs + request.atMs, () => client.start(this.gateways[request.gateway % scenario.gateways] as SimGateway));
    }
    for (const drain of scenario.drains) world.at(warmUpMs + drain.atMs, () => this.drain(drain));
    const lastMs = warmUpMs + Math.max(...scenario.requests.map(({ atMs }) => atMs));
    await world.run(lastMs + deadlineMs + endGraceMs, () => clients.every((client) => client.isOver));
    for (const client of clients) {
      const right = await Promise.all(this.decodeBuilds.map((build) => referenceAnswer(client.request, scenario, build)));
      this.answers.set(client, closestAnswer(client.digests, right));
    }
    for (const check of [checkAnswers, checkWork, checkDrains, checkOutages, checkCacheHits]) result.violations.push(...check(this.played));

    const overAtMs = world.nowMs;
    if (isCalm(this.played)) {
      await world.run(overAtMs + promptMs + scenario.callMs + scenario.tokenBudget * scenario.rowMs);
      if (isCalm(this.played)) result.violations.push(...checkLeaks(this.played).map((leak) => `${leak}, although nothing was lost`));
    }
    // A fault that strikes while we wait has to heal, too.
    for (let untilMs = 0; untilMs !== Math.max(overAtMs, this.healedAtMs); await world.run(untilMs + freeWithinMs)) {
      untilMs = Math.max(overAtMs, this.healedAtMs);
    }
    result.violations.push(...checkLeaks(this.played), ...checkViews(this.played), ...checkBeginnings(this.played));
    for (const client of clients) {
      result.outcomes[client.outcome] = (result.outcomes[client.outcome] ?? 0) + 1;
      result.resumes += client.resumes;
    }
    result.simulatedMs = world.nowMs;
    result.historyHash = (this.hash >>> 0).toString(16);
    return result;
  }

  // The cluster

  private startWorker(id: string): void {
    const worker = new SimWorker(this.surroundings, id, this.lives.filter(({ node }) => node.id === id).length);
    this.workers.set(id, worker);
    this.lives.push(worker);
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
    this.watch(subject, data);
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

  private watch(subject: string, data: Uint8Array): void {
    const flaw = this.flows.observe(subject, data);
    if (flaw !== null) this.result.violations.push(flaw);
    const [, , kind, receiver = ""] = subject.split(".");
    const budget = this.scenario.receiveBudgetBytes;
    const granted = kind === "kv" ? (this.workers.get(receiver)?.decode?.receivingBytes ?? 0) : 0;
    if (granted > budget) this.result.violations.push(`${receiver} has granted ${granted} bytes of ${budget}`);
  }

  /** What a fault may cost a request. */
  private costMs({ kind, ms }: Fault): number {
    if (kind === "jump") return 5 * ms;
    const others =
      this.scenario.decode > 1 && this.scenario.drains.length === 0 && this.struck.filter((fault) => fault.kind === kind).length === 1;
    return kind === "crash" && others ? Math.min(ms, deathMs) : ms;
  }

  /** Heartbeats and snapshots go astray, too: then it takes one or two more to be known. */
  private get noticeMs(): number {
    return this.struck.length === 0 ? 60 : 2_500;
  }

  private strike(fault: Fault, sender: Node, receiver: string | null): Fate {
    const { kind, ms } = fault;
    const victim = fault.side === "receiver" ? ((receiver === null ? undefined : this.nodeOf(receiver)) ?? sender) : sender;
    this.result.struck.push({ point: fault.point, kind });
    this.struck.push(fault);
    this.faultMs += this.costMs(fault);
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

  /** Some decode worker that suits, however many blocks it takes, and the way to it have been well from this time until now. */
  private couldServe(sinceMs: number, gateway: Node, suits: (worker: SimWorker) => boolean): boolean {
    const well = (node: Node) => node.alive && node.wellSinceMs <= sinceMs;
    const workers = [...this.workers.values()].filter(({ role, node }) => role === "decode" && node.id !== this.scenario.small?.worker);
    return well(gateway) && workers.some((worker) => suits(worker) && well(worker.node));
  }

  private get decodeBuilds(): Build[] {
    return [...new Set(this.lives.filter(({ role }) => role === "decode").map(({ build }) => build))];
  }

  private get played(): Played {
    const { scenario, clients, answers, lives, gateways, struck, faultMs } = this;
    return { scenario, clients, answers, lives, workers: [...this.workers.values()], gateways, struck, faultMs };
  }

  private note(line: string): void {
    if (this.keepsHistory) this.result.history.push(`${this.world.nowMs.toFixed(1).padStart(9)} ${line}`);
  }

  private logOf(node: string): Log {
    const note = (fields: object, message: string) => this.note(`${node}: ${message} ${JSON.stringify(fields)}`);
    return { debug: note, info: note, warn: note, error: note };
  }
}

/** FNV-1a over time, subject and bytes. */
function fold(hash: number, time: number, subject: string, data: Uint8Array): number {
  let h = Math.imul(hash ^ Math.round(time), 0x01000193);
  for (let i = 0; i < subject.length; i++) h = Math.imul(h ^ subject.charCodeAt(i), 0x01000193);
  for (let i = 0; i < data.length; i++) h = Math.imul(h ^ (data[i] as number), 0x01000193);
  return h;
}
