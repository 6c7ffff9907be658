// The models of a gateway that is told of none: each is served as soon as a worker has shown its small files, and until none of its workers has been
// heard for long. What to do is the catalogue's to say (model-catalogue.ts); this does it.
import type { GoneSignal } from "./departure.ts";
import type { Bus, Clock, Log } from "../lib/contracts/bus.ts";
import { maxModelFileBytes } from "../lib/contracts/model-files.ts";
import type { Subjects } from "../lib/contracts/subjects.ts";
import type { ModelFiles } from "../lib/model/folder.ts";
import type { HostedModel, HostedModels } from "./gateway.ts";
import { type Build, type CatalogueLimits, type CatalogueSteps, keyOf, type LearningFault, ModelCatalogue } from "./model-catalogue.ts";
import { fetchModelFiles, LearningError } from "./model-fetch.ts";
import { maxModels } from "./model-list.ts";
import type { HostedModelWithThreads } from "./model-host.ts";
import { loadServedModel } from "./model-load.ts";
import { isOf, isReadyDecodeOf, leastLoaded } from "./model-workers.ts";
import type { ServedModel } from "./served-model.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

export interface LearnedModelsOptions {
  bus: Bus;
  clock: Clock;
  subjects: Subjects;
  directory: WorkerDirectory;
  log: Log;
  /** A model of which no worker was heard for so long is forgotten. */
  keepMs: number;
  /** Threads and room for a model; `count`: how many there are with it. */
  host(model: ServedModel, files: ModelFiles, count: number): Promise<HostedModelWithThreads>;
  onServed(name: string): void;
  onForgotten(name: string): void;
  onFault(fault: LearningFault): void;
}

const lookMs = 100;
/** Two heartbeats: every worker that lives has said so. */
const firstAccountsMs = 1_000;
/** So long at most a request waits for a build that is being learned. */
const followMs = 10_000;
/** From the first question to a worker to threads that take prompts. */
const learnMs = 60_000;
/** Of all models together. */
const maxBytes = 8 * maxModelFileBytes;
const limits: Omit<CatalogueLimits, "keepMs"> = {
  // While a model changes, its name has two.
  maxBuilds: 2 * maxModels,
  maxLearning: 2,
  keepReplacedMs: 60_000,
  retryMs: 1_000,
  maxRetryMs: 60_000,
};

export class LearnedModels {
  private readonly options: LearnedModelsOptions;
  private readonly catalogue: ModelCatalogue;
  private readonly hosted = new Map<string, HostedModelWithThreads & { bytes: number }>();
  private byName = new Map<string, HostedModel[]>();
  private readonly closing = new AbortController();
  private stopTimer: () => void = () => {};
  /** Called at the next change or look. */
  private waiters: (() => void)[] = [];
  private readonly beganMs: number;
  private isComplete = false;

  constructor(options: LearnedModelsOptions) {
    this.options = options;
    const { keepMs } = options;
    this.catalogue = new ModelCatalogue({ ...limits, keepMs, keepReplacedMs: Math.min(keepMs, limits.keepReplacedMs) });
    this.beganMs = options.clock.nowMs();
    this.look();
  }

  /** By the names that clients use. */
  get models(): HostedModels {
    const snapshot = [...this.byName.values()].some((builds) => builds.length > 1) ? this.options.directory.snapshot() : { workers: [] };
    return new Map([...this.byName].map(([name, builds]) => [name, leastLoaded(builds, snapshot) as HostedModel]));
  }

  get builds(): readonly HostedModel[] {
    return [...this.hosted.values()];
  }

  /** Names that workers have and that are not served: why. */
  get missing(): ReadonlyMap<string, string> {
    return this.catalogue.missing();
  }

  get faults(): readonly { name: string; filesDigest: string; reason: string }[] {
    return this.catalogue.faults();
  }

  /** null: what workers announced at the start is served, or was refused. Not ready before; what appears later is no reason to be asked nothing. */
  get waitsFor(): string | null {
    if (this.isComplete) return null;
    if (this.options.clock.nowMs() - this.beganMs < firstAccountsMs) return "workers are still to say what they serve";
    this.isComplete = this.catalogue.isSettled;
    if (this.isComplete) return null;
    return `models are still to be learned from their workers: ${[...this.missing.keys()].join(", ")}`;
  }

  /**
   * The build of this name to ask, of those not tried, whose workers are ready. While the only ready ones are of a build that is still being learned
   * it is waited for: a pool whose model changes ends its old workers as soon as the new ones are ready, and they may know of each other sooner
   * than of us. undefined: there is none.
   */
  async another(name: string, tried: ReadonlySet<HostedModel>, signal: GoneSignal): Promise<HostedModel | undefined> {
    const { clock, directory } = this.options;
    const untilMs = clock.nowMs() + followMs;
    for (;;) {
      const snapshot = directory.snapshot();
      const ready = snapshot.workers.filter((worker) => isReadyDecodeOf(worker, { name, filesDigest: null }));
      const builds = (this.byName.get(name) ?? []).filter((one) => !tried.has(one) && ready.some((worker) => isOf(worker, one.model)));
      if (builds.length > 0) return leastLoaded(builds, snapshot);
      const isPending = ready.some(({ filesDigest }) => filesDigest !== undefined && this.catalogue.isPending({ name, filesDigest }));
      if (!isPending || signal.aborted || this.closing.signal.aborted || clock.nowMs() >= untilMs) return undefined;
      await new Promise<void>((resolve) => this.waiters.push(resolve));
    }
  }

  async close(): Promise<void> {
    this.stopTimer();
    this.closing.abort();
    this.wake();
    await Promise.all([...this.hosted.values()].map((one) => one.close()));
  }

  private look(): void {
    const { clock, directory } = this.options;
    const { learn, forget } = this.catalogue.look(directory.snapshot().workers, clock.nowMs());
    for (const build of forget) void this.drop(build);
    for (const step of learn) void this.learn(step);
    this.wake();
    this.stopTimer = clock.setTimer(lookMs, () => this.look());
  }

  private wake(): void {
    for (const resolve of this.waiters.splice(0)) resolve();
  }

  private async learn({ build, workerId, instanceId }: CatalogueSteps["learn"][number]): Promise<void> {
    const { bus, clock, subjects, log, host, onServed, onFault } = this.options;
    const late = new AbortController();
    const stopTimer = clock.setTimer(learnMs, () => late.abort());
    const signal = AbortSignal.any([late.signal, this.closing.signal]);
    const about = { model: build.name, filesDigest: build.filesDigest };
    try {
      const files = await fetchModelFiles({
        bus,
        subject: subjects.files(workerId),
        workerId,
        filesDigest: build.filesDigest,
        mostBytes: maxBytes - this.bytes,
        signal,
      });
      const model = await loadServedModel(files, build, signal);
      const one = await host(model, files, this.hosted.size + 1);
      if (this.closing.signal.aborted) {
        await one.close();
        return;
      }
      this.hosted.set(keyOf(build), { ...one, bytes: bytesOf(files) });
      this.catalogue.learned(build);
      this.sort();
      this.wake();
      log.info({ ...about, workerId }, "model learned");
      onServed(build.name);
    } catch (error) {
      if (this.closing.signal.aborted) return;
      const fault = error instanceof LearningError ? error.fault : "unavailable";
      const reason = error instanceof Error ? error.message : String(error);
      this.catalogue.failed(build, fault, reason, instanceId, clock.nowMs());
      log.error({ ...about, workerId, fault, error: reason }, "model not learned");
      onFault(fault);
    } finally {
      stopTimer();
    }
  }

  private async drop(build: Build): Promise<void> {
    const key = keyOf(build);
    const one = this.hosted.get(key);
    if (one === undefined) return;
    this.hosted.delete(key);
    this.sort();
    this.options.log.info({ model: build.name, filesDigest: build.filesDigest }, "model forgotten");
    if (!this.byName.has(build.name)) this.options.onForgotten(build.name);
    await one.close();
  }

  private get bytes(): number {
    return [...this.hosted.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  private sort(): void {
    this.byName = new Map();
    for (const one of this.hosted.values()) this.byName.set(one.model.name, [...(this.byName.get(one.model.name) ?? []), one]);
  }
}

function bytesOf({ files }: ModelFiles): number {
  return [...files.values()].reduce((sum, { length }) => sum + length, 0);
}
