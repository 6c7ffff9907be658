// Gateways and workers on a world: the product's own classes, wired as their main.ts files wire them.
import { silentLog, type Log } from "../contracts/bus.ts";
import { type PriorityClass, priorityClasses, type WorkerRole } from "../contracts/messages.ts";
import { subjects } from "../contracts/subjects.ts";
import { DispatchClient } from "../../gateway/dispatch-client.ts";
import type { Generation } from "../../gateway/generation.ts";
import { RequestRouting } from "../../gateway/request-routing.ts";
import { WorkerDirectory } from "../../gateway/worker-directory.ts";
import { DecodeWorker } from "../engine/decode-worker.ts";
import { RowServer } from "../engine/row-server.ts";
import { stepMs } from "../engine/step-work.ts";
import { WorkerCore } from "../engine/worker-core.ts";
import type { Random } from "./random.ts";
import { type Build, buildOf, deadlineMs, leaseMs, promptOf, resumeWaitMs, type Scenario, type SimRequest } from "./scenario.ts";
import type { Broker, SimBus } from "./sim-bus.ts";
import { SimRunner } from "./sim-runner.ts";
import { Node, type World } from "./world.ts";

const service = "sim";
const modelName = "sim";
/** Numerics ids of the two builds that a cluster may have. */
export const numericsIds = ["e".repeat(64), "f".repeat(64)] as const;
/** As a worker's drainMs on the laptop. */
const drainMs = 3_500;
/** Every other request wants its first token within this. */
const hurryMs = 500;

export interface Surroundings {
  world: World;
  broker: Broker;
  random: Random;
  scenario: Scenario;
  log: (node: string) => Log;
}

export class SimWorker {
  readonly node: Node;
  readonly role: WorkerRole;
  readonly build: Build;
  readonly core: WorkerCore;
  readonly rows: RowServer;
  readonly decode: DecodeWorker | null;
  readonly runner: SimRunner;
  private readonly baselineSubscriptions: number;
  private readonly baselineTimers: number;
  /** Attempts and transfers that began here after they were over. */
  readonly begunAgain: string[] = [];
  /** Requests in mid-answer that found its queue full. */
  refusedInMidAnswer = 0;
  /** Transfers to this worker that were given up. */
  failedTransfers = 0;
  /** Requests that were still here when a drain had taken as long as it may. */
  leftByDrain = 0;
  private readonly buses: SimBus[];
  private readonly broker: Broker;

  /** `life`: how many processes of this id were here before. */
  constructor({ world, broker, random, scenario, log }: Surroundings, id: string, life: number) {
    this.node = new Node(world, id);
    this.broker = broker;
    this.role = id.startsWith("decode") ? "decode" : "prefill";
    const control = broker.connect(this.node);
    const data = broker.connect(this.node);
    this.buses = [control, data];
    this.build = buildOf(scenario, id, life);
    const kvBlocks = scenario.small?.worker === id ? scenario.small.kvBlocks : scenario.kvBlocks;
    this.runner = new SimRunner(kvBlocks, this.node, scenario, this.build);
    this.core = new WorkerCore(
      {
        service,
        workerId: id,
        role: this.role,
        modelDir: modelName,
        kvDtype: "bfloat16",
        engine: {
          kvBlocks,
          tokenBudget: scenario.tokenBudget,
          chunkTokens: scenario.chunkTokens,
          chunkAlignTokens: scenario.chunkAlignTokens,
          maxSequences: scenario.maxSequences,
          maxWaiting: scenario.maxWaiting,
          stepMs,
        },
        freshId: (bytes) => random.hex(bytes),
        pid: 1,
      },
      this.runner,
      { modelDigest: "d".repeat(64), numericsId: numericsIds[this.build], kvDtype: "bfloat16" },
      control,
      this.node,
      log(id),
    );
    this.watchBeginnings();
    this.decode =
      this.role === "decode"
        ? new DecodeWorker(this.core, control, data, {
            localPrefillTokens: scenario.localPrefillTokens,
            receiveBudgetBytes: scenario.receiveBudgetBytes,
          })
        : null;
    if (this.decode) {
      this.decode.onTransferEnd = ({ outcome }) => {
        if (outcome === "failed") this.failedTransfers++;
      };
    }
    this.rows = new RowServer(this.core, control, data, { servesWhileDraining: this.role === "decode" });
    this.core.ready();
    this.baselineSubscriptions = broker.subscriptionsOf(this.node);
    this.baselineTimers = this.node.timerCount;
  }

  /** Their ids are fresh: none is taken twice. */
  private watchBeginnings(): void {
    const { engine } = this.core;
    const submit = engine.submit.bind(engine);
    const begun = new Set<string>();
    engine.submit = (request) => {
      try {
        submit(request);
      } catch (error) {
        if (request.tokens.length > request.promptLength) this.refusedInMidAnswer++;
        throw error;
      }
      if (begun.has(request.id)) this.begunAgain.push(request.id);
      begun.add(request.id);
    };
  }

  kill(): void {
    this.node.crash();
    this.broker.forget(this.node);
  }

  /** SIGTERM: the order of stops is that of main.ts. */
  async terminate(): Promise<void> {
    await this.core.drainUntil(() => (this.decode?.drained ?? true) && this.rows.activeTransfers === 0, drainMs);
    this.leftByDrain = this.decode?.liveAttempts ?? 0;
    this.rows.stop();
    this.decode?.stop();
    await this.core.stop();
    // What was published last is on its way when the connections close.
    await Promise.all(this.buses.map((bus) => bus.flush().catch(() => undefined)));
    if (this.node.alive) this.kill();
  }

  /** What should not be there when nothing runs any more. */
  leaks(): string[] {
    const { engine } = this.core;
    const found: string[] = [];
    const expectZero = (what: string, value: number) => {
      if (value !== 0) found.push(`${this.node.id}: ${value} ${what}`);
    };
    for (const owner of engine.blocks.owners()) found.push(`${this.node.id}: blocks of ${owner}`);
    expectZero("attempts", this.decode?.liveAttempts ?? 0);
    expectZero("bytes of credit", this.decode?.receivingBytes ?? 0);
    expectZero("fetches of rows", this.decode?.fetching ?? 0);
    expectZero("transfers", this.rows.activeTransfers);
    const { running, waiting } = engine.stats();
    expectZero("requests running", running);
    expectZero("requests waiting", waiting);
    expectZero("subscriptions more than at the start", this.broker.subscriptionsOf(this.node) - this.baselineSubscriptions);
    expectZero("timers more than at the start", this.node.timerCount - this.baselineTimers);
    try {
      engine.blocks.check();
    } catch (error) {
      found.push(`${this.node.id}: ${String(error)}`);
    }
    return found;
  }
}

export class SimGateway {
  readonly node: Node;
  readonly client: DispatchClient;
  readonly directory: WorkerDirectory;
  readonly bus: SimBus;
  private readonly baselineSubscriptions: number;
  private readonly baselineTimers: number;
  private readonly broker: Broker;
  private readonly scenario: Scenario;

  constructor({ world, broker, random, scenario, log }: Surroundings, id: string) {
    this.node = new Node(world, id);
    this.broker = broker;
    this.scenario = scenario;
    const bus = broker.connect(this.node);
    this.bus = bus;
    const named = subjects(service);
    this.client = new DispatchClient({
      bus,
      clock: this.node,
      subjects: named,
      gatewayId: id,
      leaseMs,
      resumeWaitMs,
      log: log(id),
      freshId: (bytes) => random.hex(bytes),
    });
    this.directory = new WorkerDirectory({
      bus,
      clock: this.node,
      subjects: named,
      log: silentLog,
      onGone: (instance) => this.client.workerGone(instance),
      onDraining: (instance) => this.client.workerDraining(instance),
    });
    this.baselineSubscriptions = broker.subscriptionsOf(this.node);
    this.baselineTimers = this.node.timerCount;
  }

  start(request: SimRequest): { generation: Generation; routing: RequestRouting } {
    const prompt = promptOf(request);
    const routing = new RequestRouting(this.directory, {
      modelName,
      promptLength: prompt.length,
      maxTokens: request.maxTokens,
      cacheSalt: request.tenant,
      localPrefillTokens: this.scenario.localPrefillTokens,
      isScored: request.promptTop !== null,
    });
    const generation = this.client.start(
      {
        requestId: request.id,
        prompt,
        maxTokens: request.maxTokens,
        stopTokenIds: request.stopTokenIds,
        sampling: {
          temperature: request.temperature,
          seed: String(request.seed),
          choice: 0,
          ...(request.presencePenalty === 0 ? {} : { presencePenalty: request.presencePenalty }),
          ...(request.logprobs === null ? {} : { logprobs: request.logprobs }),
        },
        cacheSalt: request.tenant,
        standing: {
          priority: priorityClasses[request.seed % priorityClasses.length] as PriorityClass,
          ...(request.seed % 2 === 0 && { ttftMs: hurryMs }),
        },
        deadlineMs,
        ...(request.promptTop !== null && { promptTop: request.promptTop }),
        digests: true,
      },
      routing,
    );
    return { generation, routing };
  }

  kill(): void {
    this.node.crash();
    this.broker.forget(this.node);
  }

  leaks(): string[] {
    const found: string[] = [];
    const expectZero = (what: string, value: number) => {
      if (value !== 0) found.push(`${this.node.id}: ${value} ${what}`);
    };
    expectZero("requests", this.client.running);
    expectZero("cancellations", this.client.cancellationsPending);
    expectZero("attempts listened to", this.client.listening);
    expectZero("subscriptions more than at the start", this.broker.subscriptionsOf(this.node) - this.baselineSubscriptions);
    expectZero("timers more than at the start", this.node.timerCount - this.baselineTimers);
    return found;
  }
}
