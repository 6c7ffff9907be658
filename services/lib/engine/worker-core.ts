// What a prefill and a decode worker have in common: identity, engine, state on the bus, control messages, drain.
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { kvBlockTokens, type CacheIdentity } from "../contracts/block-key.ts";
import { type Bus, type Clock, type FreshId, type Log, randomId, systemClock } from "../contracts/bus.ts";
import type { KvDtype } from "../contracts/frame.ts";
import { type OfferedFiles, offeredFiles } from "../contracts/model-files.ts";
import { Control, type ExpertSpan, type WorkerRole, type WorkerState } from "../contracts/messages.ts";
import { subjects, type Subjects } from "../contracts/subjects.ts";
import { unpackPlan } from "../contracts/ranks.ts";
import { decodeMessage, encodeMessage } from "../contracts/wire.ts";
import { readModelFiles } from "../model/folder.ts";
import { Engine, type EngineConfig } from "./engine.ts";
import { countWords } from "../contracts/counts-by-layer.ts";
import { FileServer } from "./file-server.ts";
import { LoadPublisher } from "./load-publisher.ts";
import { modelDigest } from "./model-digest.ts";
import { loadNativeRunner, measureNumericsId, type ModelRunner } from "./model-runner.ts";
import type { Backend, LoadOptions, WeightDtype } from "./native.ts";
import { heartbeatMs, StatePublisher } from "./state-publisher.ts";
import { engineConfig, loadOptions, type WorkerConfig } from "./worker-config.ts";

export interface WorkerOptions {
  service: string;
  workerId: string;
  role: WorkerRole;
  modelDir: string;
  modelName?: string;
  /** cpu unless given. */
  backend?: Backend;
  weightDtype?: WeightDtype;
  kvDtype: KvDtype;
  engine: EngineConfig;
  metricsPort?: number;
  freshId?: FreshId;
  /** What gateways may learn of the model; absent: nothing. */
  files?: OfferedFiles;
  /** As `status` shows it; this process's unless given. */
  pid?: number;
}

/** Kept back of drainMs for what comes after draining. */
const afterDrainMs = 1_000;
/**
 * What a prefill worker last measured says nothing after so long without a prompt: gateways then take it to be as fast as decode. One that was slow
 * for a moment would be asked nothing, and so never measure that it is quick again.
 */
const paceKeptMs = 60_000;

export type ControlHandler = (message: Control, respond: (body: object, tail?: Uint32Array) => void) => void;

export class WorkerCore {
  readonly workerId: string;
  readonly instanceId: string;
  readonly freshId: FreshId;
  readonly subjects: Subjects;
  readonly identity: CacheIdentity;
  readonly runner: ModelRunner;
  readonly engine: Engine;
  readonly clock: Clock;
  readonly log: Log;
  private readonly options: WorkerOptions;
  private readonly bus: Bus;
  private readonly state: StatePublisher;
  /** Absent: the model has no experts. */
  readonly loads: LoadPublisher | undefined;
  private phase: WorkerState["state"] = "starting";
  /** The server has our word that we are ready. */
  private isAnnounced = false;
  private transferBytesPerSecond = 0;
  /** Latents received and sent since the start. */
  receivedBytes = 0;
  sentBytes: () => number = () => 0;
  private reason: string | undefined;
  private controlHandler: ControlHandler = () => {};

  /** `identity` must be what `start` would measure: blocks move between workers on its word. */
  constructor(options: WorkerOptions, runner: ModelRunner, identity: CacheIdentity, bus: Bus, clock: Clock, log: Log) {
    this.options = options;
    this.bus = bus;
    this.freshId = options.freshId ?? randomId;
    this.instanceId = this.freshId(8);
    this.workerId = options.workerId;
    this.subjects = subjects(options.service);
    this.identity = identity;
    this.runner = runner;
    this.clock = clock;
    this.log = log;
    this.engine = new Engine(runner, identity, options.engine, clock, log);
    this.state = new StatePublisher({
      bus,
      subjects: this.subjects,
      clock,
      log,
      blocks: this.engine.blocks,
      report: () => this.report(),
    });
    const { moeLayerCount: moeLayers = 0, logicalExpertCount: logicalExperts = 0 } = runner.info;
    const about = { workerId: this.workerId, instanceId: this.instanceId, ...(runner.rankGroup && { rankGroup: runner.rankGroup }) };
    if (moeLayers > 0) {
      this.loads = new LoadPublisher({
        bus,
        subject: this.subjects.loads(this.workerId),
        clock,
        log,
        tally: this.engine.expertTally,
        about: { ...about, modelDigest: identity.modelDigest, moeLayers, logicalExperts },
      });
    }
    this.engine.onChange = () => this.state.changed();
    if (options.files !== undefined) new FileServer(bus, this.subjects.files(this.workerId), options.files);
    bus.subscribe(this.subjects.control(this.workerId), (message) => {
      const { body, tokens } = decodeMessage(Control, message.data);
      const respond = (answer: object, tail?: Uint32Array) => message.respond?.(encodeMessage(answer, tail));
      if (body.kind === "drain") {
        this.drain();
        respond({ ok: true });
      } else if (body.kind === "expert-counts") {
        const { words, ...counts } = this.expertCounts(body.span ?? "start");
        respond(counts, words);
      } else if (body.kind === "place-experts") {
        const refusal = this.placeExperts(body, tokens);
        respond(refusal === undefined ? { ok: true } : { ok: false, message: refusal });
      } else {
        this.controlHandler(body, respond);
      }
    });
  }

  /**
   * Measures the numerics id and goes on the bus. A model folder may carry the expected ids (numerics.json, by KV dtype): a worker that
   * differs stays unready and says so.
   */
  static async start(options: WorkerOptions, runner: ModelRunner, bus: Bus, clock: Clock, log: Log): Promise<WorkerCore> {
    const identity = {
      modelDigest: await modelDigest(options.modelDir),
      numericsId: await measureNumericsId(runner),
      kvDtype: options.kvDtype,
    };
    const files = offeredFiles(readModelFiles(options.modelDir).files);
    const core = new WorkerCore({ ...options, files }, runner, identity, bus, clock, log);
    const expected = await expectedNumericsId(options.modelDir, options);
    if (expected !== undefined && expected !== identity.numericsId) {
      core.reason = `numerics id ${identity.numericsId} where ${options.modelDir}/numerics.json expects ${expected}: this build or processor computes other bits`;
      log.error({}, core.reason);
    }
    const positions = options.engine.kvBlocks * kvBlockTokens;
    if (positions < runner.info.maxPositionEmbeddings) {
      log.warn(
        { positions, modelPositions: runner.info.maxPositionEmbeddings },
        `the cache holds ${positions} positions of the ${runner.info.maxPositionEmbeddings} that the model allows: longer requests are refused; see PELAGIC_KV_MEMORY_MIB and PELAGIC_KV_BLOCKS`,
      );
    }
    log.info({ numericsId: identity.numericsId, modelDigest: identity.modelDigest, ...options.engine }, "worker started");
    return core;
  }

  /** Loads the model and starts a worker of this process. */
  static async load(
    role: WorkerRole,
    config: WorkerConfig & { service: string },
    metricsPort: number,
    bus: Bus,
    log: Log,
    loadRunner: (options: LoadOptions) => Promise<ModelRunner> = loadNativeRunner,
  ): Promise<WorkerCore> {
    const options = await loadOptions(config);
    const runner = await loadRunner(options);
    return WorkerCore.start(
      {
        service: config.service,
        workerId: config.workerId,
        role,
        modelDir: config.model,
        ...(config.modelName === undefined ? {} : { modelName: config.modelName }),
        backend: config.backend,
        ...(config.weightDtype === undefined ? {} : { weightDtype: config.weightDtype }),
        kvDtype: config.kvDtype,
        engine: engineConfig(config, options.kvBlocks),
        metricsPort,
      },
      runner,
      bus,
      systemClock,
      log,
    );
  }

  private placeExperts(body: Omit<Extract<Control, { kind: "place-experts" }>, "v">, tail: Uint32Array): string | undefined {
    const { runner } = this;
    if (runner.placeExperts === undefined) return "this worker shares experts with no other";
    try {
      return runner.placeExperts(unpackPlan({ ...body, version: 1 }, tail).layers);
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  onControl(handler: ControlHandler): void {
    this.controlHandler = handler;
  }

  /** Called when the role's own subscriptions stand. */
  ready(): void {
    if (this.reason === undefined && this.phase === "starting") this.phase = "ready";
    this.announce();
  }

  /** A pool ends an old worker as soon as a new one says that it is ready: by then every gateway is to be told of it first. */
  private announce(): void {
    if (this.draining) return;
    this.state.publish();
    this.bus.flush().then(
      () => {
        this.isAnnounced = true;
      },
      () => this.clock.setTimer(heartbeatMs, () => this.announce()),
    );
  }

  /** A transfer arrived. Most wait for prefill and not for the bus, so the quickest of late ones says what the bus carries. */
  noteTransfer(bytes: number, seconds: number): void {
    this.transferBytesPerSecond = Math.max(bytes / Math.max(1e-6, seconds), 0.9 * this.transferBytesPerSecond);
  }

  get readiness(): { ready: boolean; reason?: string } {
    const ready = this.phase === "ready" && this.isAnnounced;
    return { ready, reason: this.reason ?? (ready ? undefined : this.phase === "ready" ? "telling the gateways" : this.phase) };
  }

  get draining(): boolean {
    return this.phase === "draining" || this.phase === "stopped";
  }

  /** No new work; what runs goes on. */
  drain(): void {
    if (this.draining) return;
    this.phase = "draining";
    this.log.info({}, "draining");
    this.state.changed();
  }

  /**
   * Drains, and resolves when `done`, or a little before the process's drainMs is over: what still runs then ends with `shutting_down`, which
   * takes its time too.
   */
  async drainUntil(done: () => boolean, drainMs: number): Promise<void> {
    this.drain();
    const endMs = this.clock.nowMs() + drainMs - afterDrainMs;
    while (!done() && this.clock.nowMs() < endMs) await new Promise<void>((resolve) => this.clock.setTimer(20, resolve));
  }

  async stop(): Promise<void> {
    await this.engine.close();
    this.phase = "stopped";
    this.state.stop();
    this.loads?.stop();
    await this.runner.close();
  }

  private expertCounts(span: ExpertSpan) {
    const { layerCount, moeLayerCount = 0, logicalExpertCount = 0, expertsPerToken = 0 } = this.runner.info;
    const late = span === "late" && this.loads !== undefined ? this.loads.late().map(Math.round) : undefined;
    const { totals } = this.engine.expertTally;
    // Before the first step nobody got any.
    const sinceStart = totals.length > 0 ? totals : new Float64Array(moeLayerCount * logicalExpertCount);
    const balancedness = this.runner.balancedness?.();
    return {
      workerId: this.workerId,
      instanceId: this.instanceId,
      firstLayer: layerCount - moeLayerCount,
      moeLayers: moeLayerCount,
      logicalExperts: logicalExpertCount,
      expertsPerToken,
      span: late === undefined ? "start" : "late",
      ...(balancedness && { balancedness }),
      words: countWords(late ?? sinceStart),
    };
  }

  get modelName(): string {
    return this.options.modelName ?? basename(this.options.modelDir);
  }

  private report() {
    const { blocks } = this.engine;
    const stats = this.engine.stats();
    const { role } = this.options;
    return {
      workerId: this.workerId,
      instanceId: this.instanceId,
      role,
      state: this.phase,
      ...(this.reason === undefined ? {} : { reason: this.reason }),
      modelName: this.modelName,
      modelDigest: this.identity.modelDigest,
      ...(this.options.files === undefined ? {} : { filesDigest: this.options.files.digest }),
      numericsId: this.identity.numericsId,
      kvDtype: this.options.kvDtype,
      // Not more than the blocks hold.
      maxPositions: Math.min(this.runner.info.maxPositionEmbeddings, blocks.total * kvBlockTokens),
      blocks: { total: blocks.total, free: blocks.free, cached: blocks.cached },
      requests: {
        running: stats.running,
        waiting: stats.waiting,
        maxRunning: this.options.engine.maxSequences,
        maxWaiting: this.options.engine.maxWaiting,
        waitingOf: stats.waitingOf,
      },
      queuedPrefillTokens: stats.queuedPrefillTokens,
      rates: {
        prefillTokensPerSecond: role === "prefill" && stats.prefillIdleMs > paceKeptMs ? 0 : stats.prefillTokensPerSecond,
        decodeStepSeconds: stats.decodeStepSeconds,
        transferBytesPerSecond: this.transferBytesPerSecond,
      },
      kvBytesPerToken: this.runner.rowBytes * this.runner.info.layerCount,
      totals: {
        prefilledTokens: stats.prefilledTokens,
        sampledTokens: stats.sampledTokens,
        receivedBytes: this.receivedBytes,
        sentBytes: this.sentBytes(),
        preemptions: stats.preemptions,
      },
      ...(this.options.metricsPort === undefined ? {} : { metricsPort: this.options.metricsPort }),
      pid: this.options.pid ?? process.pid,
    };
  }
}

/** By KV dtype; of the CUDA backend under "cuda-" and the dtype, with FP8 weights under "cuda-fp8-" and the dtype. */
async function expectedNumericsId(
  dir: string,
  { backend = "cpu", weightDtype, kvDtype }: Pick<WorkerOptions, "backend" | "weightDtype" | "kvDtype">,
): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(join(dir, "numerics.json"), "utf8");
  } catch {
    return undefined;
  }
  const ids = z.record(z.string(), z.string()).safeParse(jsonOf(text));
  if (!ids.success) throw new Error(`${join(dir, "numerics.json")}: an object of KV dtype to numerics id expected`);
  const weights = weightDtype === "fp8" ? ["fp8"] : [];
  return ids.data[[...(backend === "cpu" ? [] : [backend]), ...weights, kvDtype].join("-")];
}

/** undefined: it is none. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
