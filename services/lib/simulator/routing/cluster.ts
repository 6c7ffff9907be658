// Prefill and decode workers as queues in simulated time: what a request waits for, what it computes, what it holds. Each worker keeps a real
// BlockManager, so hits and evictions are the product's own, and reports itself as the product does: 20 ms after a change, every 500 ms
// otherwise. Rates are those of one node of a large model; only their proportions matter.
import { kvBlockTokens } from "../../contracts/block-key.ts";
import type { WorkerState } from "../../contracts/messages.ts";
import { protocolVersion } from "../../contracts/wire.ts";
import { BlockManager } from "../../engine/block-manager.ts";
import { StateView } from "../../../gateway/state-view.ts";
import type { TraceRequest } from "./trace.ts";

export interface ClusterConfig {
  prefill: number;
  decode: number;
  prefillTokensPerSecond: number;
  /** A decode step takes so long, and so much longer for each request in it. */
  stepSeconds: number;
  stepSecondsPerRequest: number;
  /** While decode prefills, its chunks share the steps: prefill runs at this part of its rate, and steps take this many times as long. */
  mixedPrefillShare: number;
  mixedStepFactor: number;
  transferBytesPerSecond: number;
  kvBytesPerToken: number;
  prefillBlocks: number;
  decodeBlocks: number;
  localPrefillTokens: number;
}

/** About a DeepSeek-V3 prefill node and decode node of eight GPUs. */
export const nodeScale: ClusterConfig = {
  prefill: 5,
  decode: 5,
  prefillTokensPerSecond: 12_000,
  stepSeconds: 0.02,
  stepSecondsPerRequest: 0.000_15,
  mixedPrefillShare: 0.6,
  mixedStepFactor: 2.7,
  transferBytesPerSecond: 5e9,
  kvBytesPerToken: 70_272,
  prefillBlocks: 8_192,
  decodeBlocks: 16_384,
  localPrefillTokens: 256,
};

export interface Choice {
  decodeId: string;
  prefillId: string | null;
}

/** Chooses for one request, knowing the cluster as `policy.ts` says. */
export type Policy = (request: TraceRequest, cluster: Cluster) => Choice;

export interface Measured {
  ttftSeconds: number;
  /** Per output token after the first. */
  tpotSeconds: number;
  computedTokens: number;
}

const gatherMs = 20;
const heartbeatMs = 500;

/** Runs a trace under a policy; times in ms from here on. */
export class Cluster {
  readonly config: ClusterConfig;
  readonly prefillWorkers: PrefillQueue[];
  readonly decodeWorkers: DecodeQueue[];
  /** What a gateway has heard. */
  readonly view = new StateView();
  nowMs = 0;
  private readonly events: { atMs: number; serial: number; run: () => void }[] = [];
  private serial = 0;

  constructor(config: ClusterConfig) {
    this.config = config;
    this.prefillWorkers = Array.from({ length: config.prefill }, (_, i) => new PrefillQueue(this, `prefill-${i}`));
    this.decodeWorkers = Array.from({ length: config.decode }, (_, i) => new DecodeQueue(this, `decode-${i}`));
  }

  run(trace: readonly TraceRequest[], policy: Policy): Measured[] {
    const measured: Measured[] = [];
    let left = trace.length;
    for (const request of trace) {
      this.at(request.atMs, () => {
        const { decodeId, prefillId } = policy(request, this);
        const decode = this.decodeWorkers.find(({ id }) => id === decodeId) as DecodeQueue;
        const prefill = this.prefillWorkers.find(({ id }) => id === prefillId) ?? null;
        decode.take(request, prefill, (result) => {
          measured.push(result);
          left--;
        });
      });
    }
    for (const worker of [...this.prefillWorkers, ...this.decodeWorkers]) worker.report.begin();
    while (left > 0) {
      const next = this.pop();
      if (next === undefined) throw new Error(`${left} requests wait for ever`);
      this.nowMs = next.atMs;
      next.run();
    }
    return measured;
  }

  at(atMs: number, run: () => void): void {
    const event = { atMs: Math.max(atMs, this.nowMs), serial: this.serial++, run };
    const { events } = this;
    let i = events.push(event) - 1;
    for (let parent = (i - 1) >> 1; i > 0 && sooner(event, events[parent] as typeof event); parent = (i - 1) >> 1) {
      events[i] = events[parent] as typeof event;
      i = parent;
    }
    events[i] = event;
  }

  private pop() {
    const { events } = this;
    const first = events[0];
    const last = events.pop();
    if (first === undefined || last === undefined || events.length === 0) return first;
    let i = 0;
    for (let child = 1; child < events.length; child = 2 * i + 1) {
      if (child + 1 < events.length && sooner(events[child + 1] as typeof last, events[child] as typeof last)) child++;
      if (!sooner(events[child] as typeof last, last)) break;
      events[i] = events[child] as typeof last;
      i = child;
    }
    events[i] = last;
    return first;
  }
}

function sooner(left: { atMs: number; serial: number }, right: { atMs: number; serial: number }): boolean {
  return left.atMs < right.atMs || (left.atMs === right.atMs && left.serial < right.serial);
}

interface Load {
  running: number;
  waiting: number;
  queuedPrefillTokens: number;
  prefillTokensPerSecond: number;
  stepSeconds: number;
}

/** A worker's account of itself, given to the view as StatePublisher would. */
class Report {
  private readonly cluster: Cluster;
  private readonly id: string;
  private readonly blocks: BlockManager;
  private readonly load: () => Load;
  private position = 0;
  private dueMs = Number.POSITIVE_INFINITY;
  private first = true;

  constructor(cluster: Cluster, id: string, blocks: BlockManager, load: () => Load) {
    this.cluster = cluster;
    this.id = id;
    this.blocks = blocks;
    this.load = load;
  }

  begin(): void {
    this.publish();
  }

  changed(): void {
    this.schedule(gatherMs);
  }

  private schedule(delayMs: number): void {
    const dueMs = this.cluster.nowMs + delayMs;
    if (dueMs >= this.dueMs) return;
    this.dueMs = dueMs;
    this.cluster.at(dueMs, () => {
      if (this.dueMs === dueMs) this.publish();
    });
  }

  private publish(): void {
    this.dueMs = Number.POSITIVE_INFINITY;
    const { config } = this.cluster;
    const { running, waiting, queuedPrefillTokens, prefillTokensPerSecond, stepSeconds } = this.load();
    const { stored, removed } = this.blocks.takeEvents();
    this.position += stored.length + removed.length;
    const state: WorkerState = {
      v: protocolVersion,
      workerId: this.id,
      instanceId: this.id,
      role: this.id.startsWith("prefill") ? "prefill" : "decode",
      state: "ready",
      modelName: "model",
      modelDigest: "",
      numericsId: "",
      kvDtype: "bfloat16",
      maxPositions: 1_000_000,
      blocks: { total: this.blocks.total, free: this.blocks.free, cached: this.blocks.cached },
      requests: { running, waiting, maxWaiting: 1_000 },
      queuedPrefillTokens,
      rates: { prefillTokensPerSecond, decodeStepSeconds: stepSeconds, transferBytesPerSecond: config.transferBytesPerSecond },
      kvBytesPerToken: config.kvBytesPerToken,
      pid: 1,
      heartbeatMs,
      position: this.position,
      ...(this.first ? { snapshot: [...stored] } : {}),
      stored,
      removed,
    };
    this.first = false;
    this.cluster.view.apply(state, this.cluster.nowMs);
    this.schedule(heartbeatMs);
  }
}

interface PrefillJob {
  name: string;
  request: TraceRequest;
  /** Rows that decode has already are computed where prefill lacks them, but not sent. */
  sendTokens: number;
  done: (computedTokens: number) => void;
}

/** One prompt after another. */
export class PrefillQueue {
  readonly id: string;
  readonly report: Report;
  busyMs = 0;
  readonly blocks: BlockManager;
  private readonly cluster: Cluster;
  private readonly waiting: PrefillJob[] = [];
  private current: { job: PrefillJob; tokens: number; sinceMs: number } | null = null;

  constructor(cluster: Cluster, id: string) {
    this.cluster = cluster;
    this.id = id;
    this.blocks = new BlockManager(cluster.config.prefillBlocks);
    this.report = new Report(cluster, id, this.blocks, () => ({
      running: this.current === null ? 0 : 1,
      waiting: this.waiting.length,
      queuedPrefillTokens: this.queuedTokens,
      prefillTokensPerSecond: cluster.config.prefillTokensPerSecond,
      stepSeconds: 0,
    }));
  }

  get queuedTokens(): number {
    const { current, cluster } = this;
    const done = current === null ? 0 : ((cluster.nowMs - current.sinceMs) / 1000) * cluster.config.prefillTokensPerSecond;
    const running = current === null ? 0 : Math.max(0, Math.round(current.tokens - done));
    return running + this.waiting.reduce((sum, { request }) => sum + request.promptTokens - 1, 0);
  }

  take(job: PrefillJob): void {
    this.waiting.push(job);
    this.begin();
    this.report.changed();
  }

  private begin(): void {
    const job = this.waiting[0];
    if (job === undefined || this.current !== null) return;
    const { config } = this.cluster;
    const { blocks } = this;
    this.waiting.shift();
    const hits = blocks.open(job.name, job.request.blockKeys);
    const whole = Math.ceil((job.request.promptTokens - 1) / kvBlockTokens);
    if (!blocks.grow(job.name, whole - hits)) throw new Error(`${this.id} cannot hold ${whole} blocks`);
    const tokens = job.request.promptTokens - 1 - hits * kvBlockTokens;
    const computeMs = (tokens / config.prefillTokensPerSecond) * 1000;
    // Layers leave while later ones compute.
    const transferMs = ((job.sendTokens * config.kvBytesPerToken) / config.transferBytesPerSecond) * 1000;
    this.current = { job, tokens, sinceMs: this.cluster.nowMs };
    this.busyMs += computeMs;
    this.cluster.at(this.cluster.nowMs + computeMs, () => {
      register(blocks, job.name, job.request.blockKeys, hits);
      this.current = null;
      this.begin();
      this.report.changed();
    });
    this.cluster.at(this.cluster.nowMs + Math.max(computeMs, transferMs), () => {
      blocks.close(job.name);
      this.report.changed();
      job.done(tokens);
    });
  }
}

interface Running {
  name: string;
  /** Of DecodeQueue.progress, when its last token comes. */
  endsAt: number;
  ended: () => void;
}

/** All requests advance together, a token a step; prompts that it prefills itself slow it down. */
export class DecodeQueue {
  readonly id: string;
  readonly report: Report;
  readonly blocks: BlockManager;
  /** Tokens that each running request has got since the beginning. */
  private progress = 0;
  private progressAtMs = 0;
  /** Tokens generated, over all requests. */
  generatedTokens = 0;
  private readonly cluster: Cluster;
  private readonly waiting: (() => boolean)[] = [];
  private readonly running = new Set<Running>();
  private prefilling = 0;
  private readonly local: { tokens: number; done: () => void }[] = [];
  private reserved = 0;
  private plan = 0;
  private names = 0;

  constructor(cluster: Cluster, id: string) {
    this.cluster = cluster;
    this.id = id;
    this.blocks = new BlockManager(cluster.config.decodeBlocks);
    this.report = new Report(cluster, id, this.blocks, () => ({
      running: this.running.size + this.reserved,
      waiting: this.waiting.length,
      queuedPrefillTokens: this.local.reduce((sum, { tokens }) => sum + tokens, 0),
      prefillTokensPerSecond: cluster.config.prefillTokensPerSecond * cluster.config.mixedPrefillShare,
      stepSeconds: this.stepSeconds,
    }));
  }

  get requests(): number {
    return this.running.size + this.reserved + this.waiting.length;
  }

  private get stepSeconds(): number {
    const { stepSeconds, stepSecondsPerRequest, mixedStepFactor } = this.cluster.config;
    return (stepSeconds + this.running.size * stepSecondsPerRequest) * (this.prefilling > 0 ? mixedStepFactor : 1);
  }

  take(request: TraceRequest, prefill: PrefillQueue | null, done: (measured: Measured) => void): void {
    const arrivedMs = this.cluster.nowMs;
    const name = `${this.id}/${this.names++}`;
    this.waiting.push(() => this.admit(name, request, prefill, arrivedMs, done));
    this.admitWaiting();
    this.report.changed();
  }

  /** First come, first served: who does not fit holds up those behind. */
  private admitWaiting(): void {
    while (this.waiting.length > 0 && (this.waiting[0] as () => boolean)()) this.waiting.shift();
  }

  private admit(
    name: string,
    request: TraceRequest,
    prefill: PrefillQueue | null,
    arrivedMs: number,
    done: (measured: Measured) => void,
  ): boolean {
    const { cluster, blocks } = this;
    const needed = Math.ceil((request.promptTokens + request.outputTokens) / kvBlockTokens);
    const hit = blocks.lookup(request.blockKeys);
    if (needed - hit.hitBlocks + hit.idleHitBlocks > blocks.available) return false;
    const hits = blocks.open(name, request.blockKeys);
    blocks.grow(name, needed - hits);
    this.reserved++;
    const missing = request.promptTokens - 1 - hits * kvBlockTokens;
    const start = (computedTokens: number) => {
      register(blocks, name, request.blockKeys, hits);
      this.reserved--;
      this.advance();
      const firstTokenMs = cluster.nowMs + this.stepSeconds * 1000;
      const ended = () =>
        done({
          ttftSeconds: (firstTokenMs - arrivedMs) / 1000,
          tpotSeconds: Math.max(0, cluster.nowMs - firstTokenMs) / 1000 / Math.max(1, request.outputTokens - 1),
          computedTokens,
        });
      this.running.add({ name, endsAt: this.progress + request.outputTokens, ended });
      this.schedule();
      this.report.changed();
    };
    if (prefill !== null && missing >= cluster.config.localPrefillTokens) {
      prefill.take({ name, request, sendTokens: missing, done: start });
    } else {
      this.prefillHere(missing, () => start(missing));
    }
    return true;
  }

  private prefillHere(tokens: number, done: () => void): void {
    this.local.push({ tokens, done });
    if (this.local.length === 1) this.nextLocal();
  }

  private nextLocal(): void {
    const job = this.local[0];
    if (job === undefined) return;
    this.advance();
    this.prefilling = 1;
    this.schedule();
    const { prefillTokensPerSecond, mixedPrefillShare } = this.cluster.config;
    this.cluster.at(this.cluster.nowMs + (job.tokens / (prefillTokensPerSecond * mixedPrefillShare)) * 1000, () => {
      this.advance();
      this.local.shift();
      this.prefilling = 0;
      job.done();
      this.nextLocal();
      this.schedule();
      this.report.changed();
    });
  }

  /** Brings progress up to now. */
  private advance(): void {
    const tokens = (this.cluster.nowMs - this.progressAtMs) / 1000 / this.stepSeconds;
    this.progress += tokens;
    this.generatedTokens += tokens * this.running.size;
    this.progressAtMs = this.cluster.nowMs;
  }

  /** The next request to end, as things stand. */
  private schedule(): void {
    const plan = ++this.plan;
    let next: Running | null = null;
    for (const entry of this.running) if (next === null || entry.endsAt < next.endsAt) next = entry;
    if (next === null) return;
    const ending = next;
    this.cluster.at(this.cluster.nowMs + Math.max(0, ending.endsAt - this.progress) * this.stepSeconds * 1000, () => {
      if (this.plan !== plan) return;
      this.advance();
      this.running.delete(ending);
      this.blocks.close(ending.name);
      ending.ended();
      this.admitWaiting();
      this.schedule();
      this.report.changed();
    });
  }
}

function register(blocks: BlockManager, name: string, keys: readonly string[], from: number): void {
  for (let i = from; i < keys.length; i++) blocks.register(name, i, keys[i] as string);
}
