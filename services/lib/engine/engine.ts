// The loop: schedule, run, postprocess, always that way. It owns the requests, the block tables and the one runner of a worker,
// and tells its listener what happened. Nothing here knows a bus, a socket or a GPU.
import { blockKeys, kvBlockTokens, rootKey, type CacheIdentity } from "../contracts/block-key.ts";
import type { Clock, Log } from "../contracts/bus.ts";
import { PelagicError, toPelagicError } from "../contracts/errors.ts";
import type { PriorityClass } from "../contracts/messages.ts";
import { mayWait } from "../fair-queue/fair-order.ts";
import { RequestQueue, type Standing } from "../fair-queue/request-queue.ts";
import type { TokenConstraint } from "../grammar/constraint.ts";
import { BlockManager } from "./block-manager.ts";
import { ExpertTally } from "./expert-tally.ts";
import type { ModelRunner, SampledToken, ScoredRows, SequenceResult, SequenceWork } from "./model-runner.ts";
import type { RowSampling } from "./native.ts";
import { blocksForRows, decodeCallMs, schedule, type Plan, type SchedulerConfig } from "./scheduler.ts";
import { chunkWork, PrefillPace, StepPace } from "./step-work.ts";

export interface EngineConfig extends SchedulerConfig {
  kvBlocks: number;
  /** Requests that may wait; one more is refused. */
  maxWaiting: number;
  /** What a step with prefill in it should take at most; absent: any time. */
  stepMs?: number;
}

export interface EngineRequest {
  id: string;
  /** The prompt, then tokens generated before (a resumed request). */
  tokens: Uint32Array;
  /** P. */
  promptLength: number;
  cacheSalt: string;
  /** Default: a tenant for each salt, of normal priority, without hurry. */
  standing?: Standing;
  /**
   * "local": compute all rows here. "remote": reserve blocks, then wait for `activate` (someone else computes the prompt's rows).
   * "rows": compute the rows of `tokens`, sample nothing, and hold the blocks until `release`.
   */
  mode: "local" | "remote" | "rows";
  /** New tokens at most, earlier ones included. Unused in mode "rows". */
  maxTokens: number;
  stopTokenIds: ReadonlySet<number>;
  /** Sampling of every new token; null in mode "rows". */
  sampling: Omit<RowSampling, "promptTokens" | "outputTokens" | "stopTokens" | "allowedTokens"> | null;
  /** Which tokens may come; has accepted those behind the prompt already. Disposed of with the request's end. */
  constraint?: TokenConstraint;
  digests?: boolean;
  /** Tell how likely each of the prompt's tokens was, with so many of the most likely beside it. */
  promptTop?: number;
  /** check-model: keep the raw logits of rows from here on. */
  logitsFrom?: number;
  listener: EngineListener;
}

export type EngineEnd =
  | { kind: "finish"; reason: "stop" | "length"; stopTokenId?: number }
  | { kind: "rows-done" }
  | { kind: "error"; error: PelagicError };

export interface EngineListener {
  /** Blocks are reserved. Rows [0, hitRows) came from the cache; in mode "remote" the rest is the caller's until `activate`. */
  onReserved?(hitRows: number): void;
  /** Mode "rows": latents of [firstRow, firstRow + rowCount) are in the cache for this layer. Called while later layers compute. */
  onLayerRows?(layer: number, firstRow: number, rowCount: number): void;
  /** A step computed these rows of the request. */
  onRows?(firstRow: number, rowCount: number): void;
  /** Scores of the prompt's next tokens, but for its first: in order, each once, all before the first output token. */
  onScored?(scored: readonly SampledToken[]): void;
  /** The output token at this index (0 is the first new token of the whole request). `digest` belongs to the logits row behind it. */
  onToken?(index: number, sampled: SampledToken, digest: bigint | undefined): void;
  onLogits?(firstRow: number, logits: Float32Array): void;
  /** Exactly once, and last. Blocks are free, except in mode "rows" after "rows-done". */
  onEnd(end: EngineEnd): void;
}

type Phase = "waiting" | "reserved" | "running" | "holding";

interface Entry {
  request: EngineRequest;
  /** Prompt and output; grows by doubling. */
  tokens: Uint32Array;
  length: number;
  keys: string[];
  root: string;
  computedRows: number;
  registeredBlocks: number;
  /** Rows before it are scored or need not be. */
  scoreRow: number;
  phase: Phase;
  /** The request's mode; a preempted one computes its rows here. */
  mode: EngineRequest["mode"];
  cancelled: PelagicError | undefined;
  /** Of the constraint, for the next token; undefined: still asked for. */
  allowedTokens: Uint32Array | undefined;
  /** Settled with allowedTokens, where a step should wait for it: not while its grammar is compiled. */
  awaited: Promise<void> | undefined;
  /** request.sampling as every call takes it. */
  sampling: RowSampling | null;
}

export interface EngineStats {
  running: number;
  waiting: number;
  waitingOf: Record<PriorityClass, number>;
  queuedPrefillTokens: number;
  prefillTokensPerSecond: number;
  /** Since a step that measured it. */
  prefillIdleMs: number;
  decodeStepSeconds: number;
  preemptions: number;
  steps: number;
  /** Rows computed for what comes after them: all but the sampled ones. */
  prefilledTokens: number;
  sampledTokens: number;
}

/** So long a step waits for what its requests' constraints allow. */
const allowedGraceMs = 20;

export class Engine {
  readonly blocks: BlockManager;
  readonly expertTally = new ExpertTally();
  private readonly runner: ModelRunner;
  private readonly config: EngineConfig;
  private readonly identity: CacheIdentity;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly entries = new Map<string, Entry>();
  /** All entries in the order in which they are served. */
  private readonly queue = new RequestQueue<Entry>();
  private inStep: ReadonlySet<string> = new Set();
  private loop: Promise<void> | undefined;
  private closed = false;
  private woken = false;
  private preemptions = 0;
  private steps = 0;
  private prefilledTokens = 0;
  private sampledTokens = 0;
  private readonly prefillPace = new PrefillPace();
  private decodeSeconds = 0;
  private readonly pace = new StepPace();
  /** Of one row's attention to one row, in rows. */
  private readonly pairWork: number;
  /** Called after each step and whenever requests or blocks changed. */
  onChange: () => void = () => {};
  /** Called for each step: tokens routed to each logical expert, [MoE layers, experts]. */
  onStep: (step: { expertCounts: Uint32Array; sequences: number }) => void = () => {};

  constructor(runner: ModelRunner, identity: CacheIdentity, config: EngineConfig, clock: Clock, log: Log) {
    this.runner = runner;
    this.identity = identity;
    this.config = config;
    this.clock = clock;
    this.log = log;
    const { attentionFlopsPerPair = 0, gemmFlopsPerRow = 1 } = runner.info;
    this.pairWork = attentionFlopsPerPair / gemmFlopsPerRow;
    this.blocks = new BlockManager(config.kvBlocks);
  }

  /** Throws `overloaded`, `invalid_request`, `context_length_exceeded` or `shutting_down`; otherwise the listener hears the end, exactly once. */
  submit(request: EngineRequest): void {
    if (this.closed) throw new PelagicError("shutting_down", "the worker is stopping");
    if (this.entries.has(request.id)) throw new PelagicError("internal", `request ${request.id} is already here`);
    const lastRow = request.mode === "rows" ? request.tokens.length : request.promptLength + request.maxTokens;
    if (lastRow > this.runner.info.maxPositionEmbeddings) {
      throw new PelagicError("context_length_exceeded", `${lastRow} tokens; the model allows ${this.runner.info.maxPositionEmbeddings}`);
    }
    if (blocksForRows(lastRow) > this.blocks.total) {
      throw new PelagicError(
        "context_length_exceeded",
        `${lastRow} tokens need ${blocksForRows(lastRow)} KV blocks; this worker has ${this.blocks.total}`,
      );
    }
    // In a step it would fail those that share it.
    const { vocabSize } = this.runner.info;
    const outside = request.tokens.findIndex((token) => token >= vocabSize);
    if (outside >= 0)
      throw new PelagicError("invalid_request", `token ${request.tokens[outside]} at position ${outside}: the vocabulary has ${vocabSize}`);
    const standing = standingOf(request);
    const waiting = [...this.queue].filter((entry) => entry.phase === "waiting");
    const own = waiting.filter((entry) => standingOf(entry.request).tenant === standing.tenant).length;
    if (!mayWait(own, waiting.length, this.config.maxWaiting)) {
      throw new PelagicError("overloaded", `${waiting.length} requests are waiting already, ${own} of this tenant`);
    }
    const root = rootKey(this.identity, request.cacheSalt);
    const entry: Entry = {
      request,
      tokens: request.tokens.slice(),
      length: request.tokens.length,
      root,
      keys: blockKeys(root, request.tokens, request.tokens.length, [], this.decodeForm(request)),
      computedRows: 0,
      registeredBlocks: 0,
      // A row's logits are about the token after it.
      scoreRow: request.promptTop === undefined ? request.promptLength - 1 : 0,
      phase: "waiting",
      mode: request.mode,
      cancelled: undefined,
      allowedTokens: undefined,
      awaited: undefined,
      sampling: request.sampling && { ...request.sampling, stopTokens: Uint32Array.from(request.stopTokenIds) },
    };
    this.entries.set(request.id, entry);
    this.queue.add(entry, standing, fairTokens(request), this.clock.nowMs());
    void this.askAllowed(entry);
    this.wake();
  }

  /** The first rows of these tokens that are cached: whole blocks. */
  cachedRows(tokens: Uint32Array, cacheSalt: string): number {
    return this.blocks.lookup(blockKeys(rootKey(this.identity, cacheSalt), tokens, tokens.length)).hitBlocks * kvBlockTokens;
  }

  /** The block ids of a reserved, running or holding request, in order of position. */
  table(id: string): readonly number[] {
    return this.blocks.table(id);
  }

  /** Mode "remote": rows [0, computedRows) are in the cache now; the engine computes the rest itself and goes on. */
  activate(id: string, computedRows: number): void {
    const entry = this.entries.get(id);
    if (entry?.phase !== "reserved") return;
    entry.computedRows = computedRows;
    entry.phase = "running";
    this.registerFullBlocks(entry);
    this.wake();
  }

  /** Ends a request with this error; after the call that is computing it, if one is. Unknown ids are ignored. */
  cancel(id: string, error: PelagicError): void {
    const entry = this.entries.get(id);
    if (!entry) return;
    entry.cancelled = error;
    if (!this.inStep.has(id)) this.end(entry, { kind: "error", error });
    this.wake();
  }

  /** Mode "rows", after "rows-done": frees the blocks. */
  release(id: string): void {
    const entry = this.entries.get(id);
    if (entry?.phase !== "holding") return;
    this.remove(entry);
    this.blocks.close(id);
    this.wake();
  }

  stats(): EngineStats {
    let queued = 0;
    for (const entry of this.entries.values()) {
      if (entry.phase === "waiting" || entry.phase === "running") queued += Math.max(0, entry.length - entry.computedRows - 1);
    }
    return {
      running: this.entries.size - this.count("waiting"),
      waiting: this.count("waiting"),
      waitingOf: this.waitingOf(),
      queuedPrefillTokens: queued,
      prefillTokensPerSecond: this.prefillPace.rowsPerSecond,
      prefillIdleMs: this.prefillPace.idleMs(this.clock.nowMs()),
      decodeStepSeconds: this.decodeSeconds,
      preemptions: this.preemptions,
      steps: this.steps,
      prefilledTokens: this.prefilledTokens,
      sampledTokens: this.sampledTokens,
    };
  }

  /** Ends everything with `shutting_down` and waits for the step that runs. */
  async close(): Promise<void> {
    this.closed = true;
    for (const id of [...this.entries.keys()]) {
      this.release(id);
      this.cancel(id, new PelagicError("shutting_down", "the worker is stopping"));
    }
    await this.loop;
  }

  private count(phase: Phase): number {
    let n = 0;
    for (const entry of this.entries.values()) if (entry.phase === phase) n++;
    return n;
  }

  private waitingOf(): Record<PriorityClass, number> {
    const counts = { high: 0, normal: 0, low: 0 };
    for (const { phase, request } of this.entries.values()) if (phase === "waiting") counts[standingOf(request).priority]++;
    return counts;
  }

  private wake(): void {
    this.onChange();
    this.woken = true;
    this.loop ??= this.run()
      .catch((error: unknown) => {
        // Ours to mend, not to survive in silence: everyone here is told, and the engine goes on with those who come next.
        const failure = toPelagicError(error);
        this.log.error({ error: failure.stack }, "the engine's loop failed");
        for (const entry of [...this.entries.values()]) this.end(entry, { kind: "error", error: failure });
      })
      .finally(() => {
        this.loop = undefined;
        // Woken between the last look at the queue and here.
        if (this.woken) this.wake();
      });
  }

  private async run(): Promise<void> {
    // Let everything that was submitted in this turn be scheduled together.
    await Promise.resolve();
    for (;;) {
      this.woken = false;
      this.queue.age(this.clock.nowMs());
      await this.awaitAllowed();
      this.reserveRemote();
      const plan = this.plan();
      if (plan.work.length === 0 && plan.preempt.length === 0) return;
      this.apply(plan);
      await this.step(plan);
      this.onChange();
    }
  }

  /** A request for a remote prefill takes its blocks as soon as it is first in the queue, under the same rules as the scheduler's admission. */
  private reserveRemote(): void {
    // A copy: whoever hears of its reservation may end.
    for (const entry of [...this.queue]) {
      if (entry.phase !== "waiting") continue;
      if (entry.mode !== "remote") return;
      const holders = this.count("running") + this.count("reserved");
      if (holders >= this.config.maxSequences) return;
      const hit = this.blocks.lookup(this.reusableKeys(entry));
      const needed = blocksForRows(entry.length) - hit.hitBlocks;
      const spare = holders === 0 ? 0 : holders + 1;
      if (needed + hit.idleHitBlocks + spare > this.blocks.available) return;
      this.openTable(entry);
      this.blocks.grow(entry.request.id, needed);
      entry.phase = "reserved";
      this.queue.serve(entry);
      entry.request.listener.onReserved?.(entry.computedRows);
    }
  }

  private plan(): Plan {
    const running: Entry[] = [];
    const waiting: Entry[] = [];
    let reserved = 0;
    // One queue: what stands behind a request that waits for blocks waits too.
    let queueStands = false;
    const position = new Map([...this.queue].map((entry, index) => [entry, index]));
    for (const entry of this.queue) {
      if (entry.phase === "running") running.push(entry);
      else if (entry.phase === "reserved") reserved++;
      else if (entry.phase === "waiting" && !queueStands && (entry.mode === "remote" || !waitsForAllowed(entry))) {
        queueStands = entry.mode === "remote" || waiting.length === this.config.maxSequences;
        if (!queueStands) waiting.push(entry);
      }
    }
    const maxSequences = Math.max(running.length, this.config.maxSequences - reserved);
    return schedule(
      { ...this.config, maxSequences },
      {
        availableBlocks: this.blocks.available,
        ...(this.config.stepMs !== undefined && { bound: { work: this.pace.workWithin(this.config.stepMs), pairWork: this.pairWork } }),
        running: running.map((entry) => ({
          id: entry.request.id,
          computedRows: entry.computedRows,
          // The last row is for the next token.
          targetRows: waitsForAllowed(entry) ? Math.max(entry.computedRows, entry.length - 1) : entry.length,
          // Each token of a constrained answer decides what the next may be.
          tokensLeft:
            entry.sampling && !entry.request.constraint
              ? Math.max(1, entry.request.promptLength + entry.request.maxTokens - entry.length)
              : 1,
          heldBlocks: this.blocks.table(entry.request.id).length,
          unsharedBlocks: this.blocks.unshared(entry.request.id),
          scoredRows: scoredRows(entry),
          position: position.get(entry) as number,
        })),
        waiting: waiting.map((entry) => {
          const { hitBlocks, idleHitBlocks } = this.blocks.lookup(this.reusableKeys(entry));
          return {
            id: entry.request.id,
            targetRows: entry.length,
            hitRows: hitBlocks * kvBlockTokens,
            hitBlocks,
            idleHitBlocks,
            scoredRows: scoredRows(entry),
            position: position.get(entry) as number,
          };
        }),
      },
    );
  }

  /** Keys that a hit may cover. The last known row is always computed here: its logits give the next token (mode "rows" has none). */
  private reusableKeys(entry: Entry): string[] {
    const rows = entry.mode === "rows" ? entry.length : entry.length - 1;
    // Nor may one cover rows whose logits are wanted.
    const logitsFrom = entry.request.logitsFrom ?? (scoredRows(entry) > 0 ? entry.scoreRow : rows);
    return entry.keys.slice(0, Math.floor(Math.min(rows, logitsFrom) / kvBlockTokens));
  }

  private openTable(entry: Entry): void {
    const hitBlocks = this.blocks.open(entry.request.id, this.reusableKeys(entry));
    entry.registeredBlocks = hitBlocks;
    entry.computedRows = hitBlocks * kvBlockTokens;
  }

  private apply(plan: Plan): void {
    for (const id of plan.preempt) {
      const entry = this.mustGet(id);
      // Frames are read from these blocks: without them the transfer is over, and the receiver computes the rows itself.
      if (entry.mode === "rows") {
        this.end(entry, { kind: "error", error: new PelagicError("overloaded", "no KV block left") });
        continue;
      }
      this.blocks.close(id);
      entry.phase = "waiting";
      this.queue.suspend(entry, this.clock.nowMs());
      entry.mode = "local";
      entry.computedRows = 0;
      entry.registeredBlocks = 0;
      this.preemptions++;
      this.log.info({ request: id, rows: entry.length }, "preempted: no KV block left");
    }
    const admitted = plan.admit.map((id) => this.mustGet(id));
    for (const entry of admitted) {
      this.openTable(entry);
      entry.phase = "running";
      this.queue.serve(entry);
    }
    for (const work of plan.work) {
      if (work.growBlocks > 0 && !this.blocks.grow(work.id, work.growBlocks)) {
        throw new Error(`the plan gave ${work.id} ${work.growBlocks} blocks that do not exist`);
      }
    }
    // Listeners come last: they see whole tables, and may cancel.
    for (const entry of admitted) {
      if (this.entries.get(entry.request.id) !== entry) continue;
      entry.request.listener.onReserved?.(entry.computedRows);
      // Rows that are all in the cache already are done.
      if (entry.computedRows === entry.length && entry.phase === "running") this.holdRows(entry);
    }
  }

  /** Until it has said what may come next a request samples nothing, and holds nobody up. One that cannot say ends. */
  private async askAllowed(entry: Entry): Promise<void> {
    const { constraint, id } = entry.request;
    if (constraint === undefined) return;
    try {
      const allowed = await constraint.allowed();
      if (this.entries.get(id) !== entry) return;
      entry.allowedTokens = allowed;
    } catch (error) {
      if (!this.inStep.has(id)) this.end(entry, { kind: "error", error: toPelagicError(error) });
      else entry.cancelled ??= toPelagicError(error);
    }
    // The loop does not stop before one that it waits for.
    if (entry.awaited === undefined) this.wake();
    entry.awaited = undefined;
  }

  /** A moment: those that answer each step go on together. Who is later joins a later step. */
  private async awaitAllowed(): Promise<void> {
    const awaited = [...this.entries.values()].filter(({ awaited }) => awaited !== undefined);
    if (awaited.length === 0) return;
    let forget = () => {};
    const late = new Promise<void>((resolve) => {
      forget = this.clock.setTimer(allowedGraceMs, resolve);
    });
    await Promise.race([Promise.all(awaited.map((entry) => entry.awaited)), late]);
    forget();
    for (const entry of awaited) entry.awaited = undefined;
  }

  private async step(plan: Plan): Promise<void> {
    // A listener may have cancelled while the plan was applied.
    const planned: { entry: Entry; firstRow: number; rowCount: number }[] = [];
    for (const { id, firstRow, rowCount } of plan.work) {
      const entry = this.entries.get(id);
      if (entry && rowCount > 0) planned.push({ entry, firstRow, rowCount });
    }
    if (planned.length === 0) return;
    const work = planned.map(({ entry, firstRow, rowCount }) => this.sequenceWork(entry, firstRow, rowCount));
    this.inStep = new Set(planned.map(({ entry }) => entry.request.id));
    const started = this.clock.nowMs();
    try {
      const results = await this.runner.run(work, {
        steps: plan.steps,
        budgetMs: decodeCallMs,
        digests: planned.some(({ entry }) => entry.request.digests),
        logits: planned.some(({ entry }) => entry.request.logitsFrom !== undefined),
        // Waking the Node loop in the middle of a step costs compute: only where somebody sends layers.
        ...(planned.some(({ entry }) => entry.request.listener.onLayerRows) && {
          onLayer: (layer: number) => {
            for (const { entry, firstRow, rowCount } of planned) {
              if (!entry.cancelled) entry.request.listener.onLayerRows?.(layer, firstRow, rowCount);
            }
          },
        }),
      });
      this.measure(work, (this.clock.nowMs() - started) / 1000 / results.length);
      this.inStep = new Set();
      results.forEach((result, step) => {
        this.steps++;
        this.expertTally.add(result.expertCounts);
        // Each further step of a call has one row of each sequence, and samples it.
        const sampled = result.sequences.reduce((sum, { sampled }) => sum + (sampled === undefined ? 0 : 1), 0);
        this.sampledTokens += sampled;
        if (step === 0) this.prefilledTokens += planned.reduce((sum, { rowCount }) => sum + rowCount, 0) - sampled;
        this.onStep({ expertCounts: result.expertCounts, sequences: work.length });
        planned.forEach(({ entry, firstRow, rowCount }, i) => {
          // A listener may have ended it in a step before this one.
          if (this.entries.get(entry.request.id) !== entry) return;
          this.postprocess(entry, firstRow + step, rowCount, result.sequences[i] as SequenceResult);
        });
      });
    } catch (error) {
      // One call carries many requests: a native failure ends those, by name, and nothing else.
      this.inStep = new Set();
      const failure = toPelagicError(error);
      this.log.error({ error: failure.message, requests: planned.length }, "a step failed");
      for (const { entry } of planned) this.end(entry, { kind: "error", error: entry.cancelled ?? failure });
    }
  }

  private sequenceWork(entry: Entry, firstRow: number, rowCount: number): SequenceWork {
    const { request } = entry;
    const end = firstRow + rowCount;
    const samples = end === entry.length;
    const sampling = samples ? entry.sampling : null;
    const scores = this.scoresOf(entry, firstRow, end);
    const penalised =
      sampling !== null &&
      (sampling.repetitionPenalty !== undefined || sampling.presencePenalty !== undefined || sampling.frequencyPenalty !== undefined);
    return {
      tokens: entry.tokens.subarray(firstRow, end),
      firstRow,
      promptLength: request.promptLength,
      blocks: this.blocks.table(request.id),
      logitsFrom: request.logitsFrom ?? (scores ? Math.max(firstRow, entry.scoreRow) : sampling ? end - 1 : end),
      ...(scores && { scores }),
      sampling:
        sampling && (penalised || entry.allowedTokens)
          ? {
              ...sampling,
              ...(penalised && {
                promptTokens: entry.tokens.subarray(0, request.promptLength),
                outputTokens: entry.tokens.subarray(request.promptLength, entry.length),
              }),
              ...(entry.allowedTokens && { allowedTokens: entry.allowedTokens }),
            }
          : sampling,
    };
  }

  /** Of the rows of this step those that are to be scored; undefined: none. */
  private scoresOf(entry: Entry, firstRow: number, end: number): ScoredRows | undefined {
    const { promptTop, promptLength } = entry.request;
    const from = Math.max(firstRow, entry.scoreRow);
    const until = Math.min(end, promptLength - 1);
    return promptTop === undefined || from >= until ? undefined : { next: entry.tokens.slice(from + 1, until + 1), top: promptTop };
  }

  private postprocess(entry: Entry, firstRow: number, rowCount: number, result: SequenceResult): void {
    const { request } = entry;
    entry.computedRows = firstRow + rowCount;
    this.registerFullBlocks(entry);
    if (entry.cancelled) {
      this.end(entry, { kind: "error", error: entry.cancelled });
      return;
    }
    request.listener.onRows?.(firstRow, rowCount);
    if (result.logits && request.logitsFrom !== undefined)
      request.listener.onLogits?.(Math.max(firstRow, request.logitsFrom), result.logits);
    if (result.scored && !this.takeScores(entry, result.scored)) return;
    if (entry.mode === "rows") {
      if (entry.computedRows === entry.length) this.holdRows(entry);
      return;
    }
    if (!result.sampled) return;
    if (result.sampled.token < 0) {
      this.end(entry, { kind: "error", error: new PelagicError("internal", `row ${firstRow + rowCount - 1}: the logits are not numbers`) });
      return;
    }
    const index = entry.length - request.promptLength;
    append(entry, result.sampled.token);
    request.constraint?.accept(result.sampled.token);
    const digest = request.digests ? result.digests[result.digests.length - 1] : undefined;
    request.listener.onToken?.(index, result.sampled, digest);
    if (request.stopTokenIds.has(result.sampled.token)) {
      this.end(entry, { kind: "finish", reason: "stop", stopTokenId: result.sampled.token });
    } else if (index + 1 >= request.maxTokens) {
      this.end(entry, { kind: "finish", reason: "length" });
    } else if (request.constraint && this.entries.get(request.id) === entry) {
      entry.allowedTokens = undefined;
      entry.awaited = this.askAllowed(entry);
    }
  }

  /** False: the request ended with it. */
  private takeScores(entry: Entry, scored: readonly SampledToken[]): boolean {
    const bad = scored.findIndex(({ token }) => token < 0);
    if (bad >= 0) {
      const row = entry.scoreRow + bad;
      this.end(entry, { kind: "error", error: new PelagicError("internal", `row ${row}: the logits are not numbers`) });
      return false;
    }
    entry.scoreRow += scored.length;
    entry.request.listener.onScored?.(scored);
    return this.entries.get(entry.request.id) === entry;
  }

  private decodeForm({ promptLength }: EngineRequest): number {
    return this.runner.info.expandsPrompts ? promptLength - 1 : Number.POSITIVE_INFINITY;
  }

  private holdRows(entry: Entry): void {
    entry.phase = "holding";
    entry.request.listener.onEnd({ kind: "rows-done" });
  }

  /** Names blocks that have become full, so that others may share them. */
  private registerFullBlocks(entry: Entry): void {
    const full = Math.floor(entry.computedRows / kvBlockTokens);
    if (full <= entry.registeredBlocks) return;
    if (entry.keys.length < full)
      entry.keys = blockKeys(
        entry.root,
        entry.tokens.subarray(0, entry.length),
        full * kvBlockTokens,
        entry.keys,
        this.decodeForm(entry.request),
      );
    for (let i = entry.registeredBlocks; i < full; i++) this.blocks.register(entry.request.id, i, entry.keys[i] as string);
    entry.registeredBlocks = full;
  }

  private end(entry: Entry, end: EngineEnd): void {
    const { id } = entry.request;
    if (this.entries.get(id) !== entry) return;
    this.remove(entry);
    entry.request.constraint?.dispose();
    if (entry.phase !== "waiting") this.blocks.close(id);
    // A holding request has heard its end already ("rows-done").
    if (entry.phase !== "holding") entry.request.listener.onEnd(end);
  }

  private remove(entry: Entry): void {
    this.entries.delete(entry.request.id);
    this.queue.remove(entry);
  }

  private measure(work: readonly SequenceWork[], seconds: number): void {
    const rows = work.reduce((sum, sequence) => sum + sequence.tokens.length, 0);
    const blend = (old: number, now: number) => (old === 0 ? now : 0.8 * old + 0.2 * now);
    if (rows === work.length) this.decodeSeconds = blend(this.decodeSeconds, seconds);
    else {
      this.prefillPace.note(rows, seconds, this.clock.nowMs());
      const done = work.reduce((sum, { tokens, firstRow }) => sum + chunkWork(this.pairWork, firstRow, tokens.length), 0);
      this.pace.note(done, seconds * 1000);
    }
  }

  private mustGet(id: string): Entry {
    const entry = this.entries.get(id);
    if (!entry) throw new Error(`no request ${id}`);
    return entry;
  }
}

function waitsForAllowed({ request, allowedTokens, mode }: Entry): boolean {
  return request.constraint !== undefined && allowedTokens === undefined && mode !== "rows";
}

/** Rows before this one are scored, beginning with entry.scoreRow; 0: none. */
function scoredRows({ request, scoreRow }: Entry): number {
  return scoreRow < request.promptLength - 1 ? request.promptLength - 1 : 0;
}

/** Output tokens that a place in the queue counts: few say how long their answer will be, and most allow far more than they use. */
const typicalAnswerTokens = 256;

function fairTokens(request: EngineRequest): number {
  const left = request.mode === "rows" ? 0 : request.promptLength + request.maxTokens - request.tokens.length;
  return request.tokens.length + Math.min(left, typicalAnswerTokens);
}

function standingOf({ standing, cacheSalt }: EngineRequest): Standing {
  return standing ?? { tenant: cacheSalt, user: cacheSalt, priority: "normal", dueAtMs: Number.POSITIVE_INFINITY };
}

function append(entry: Entry, token: number): void {
  if (entry.length === entry.tokens.length) {
    const grown = new Uint32Array(Math.max(64, entry.tokens.length * 2));
    grown.set(entry.tokens);
    entry.tokens = grown;
  }
  entry.tokens[entry.length++] = token;
}
