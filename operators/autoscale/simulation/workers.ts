// A prefill worker, which computes one prompt after another, and a decode worker, whose sequences advance together a token a step.
import type { Series } from "../metrics-text.ts";
import type { Events } from "./events.ts";
import type { Rates } from "./rates.ts";
import { Distribution, gaugeSeries } from "./series.ts";

const secondsBounds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** A pod: starting, ready, stopping, gone. */
abstract class Worker {
  readonly name: string;
  readonly askedAtMs: number;
  readyAtMs: number | null = null;
  stopping = false;
  goneAtMs: number | null = null;
  protected readonly events: Events;
  protected readonly rates: Rates;

  constructor(name: string, events: Events, rates: Rates) {
    this.name = name;
    this.events = events;
    this.rates = rates;
    this.askedAtMs = events.nowMs;
  }

  get takes(): boolean {
    return this.readyAtMs !== null && !this.stopping;
  }

  protected get coldFactor(): number {
    const cold = this.readyAtMs !== null && this.events.nowMs - this.readyAtMs < this.rates.coldSeconds * 1000;
    return cold ? this.rates.coldFactor : 1;
  }

  abstract get idle(): boolean;

  /** Takes nothing new, and is gone once what it has is done. */
  stop(): void {
    this.stopping = true;
    this.leaveIfDone();
  }

  protected leaveIfDone(): void {
    if (this.stopping && this.idle && this.goneAtMs === null) this.goneAtMs = this.events.nowMs;
  }
}

interface Prompt {
  tokens: number;
  atMs: number;
  done: () => void;
}

export class PrefillWorker extends Worker {
  private readonly queue: Prompt[] = [];
  private working = false;
  queuedTokens = 0;
  private computedTokens = 0;
  private tokensPerSecond = 0;
  private readonly computing = new Distribution(secondsBounds);

  get idle(): boolean {
    return !this.working && this.queue.length === 0;
  }

  take(tokens: number, done: () => void): void {
    this.queuedTokens += tokens;
    this.queue.push({ tokens, atMs: this.events.nowMs, done });
    this.begin();
  }

  private begin(): void {
    const prompt = this.working ? undefined : this.queue.shift();
    if (prompt === undefined) return;
    this.working = true;
    const seconds = (prompt.tokens * this.coldFactor) / this.rates.prefillTokensPerSecond;
    this.events.at(this.events.nowMs + seconds * 1000, () => {
      this.working = false;
      this.queuedTokens -= prompt.tokens;
      this.computedTokens += prompt.tokens;
      this.tokensPerSecond = prompt.tokens / seconds;
      this.computing.observe((this.events.nowMs - prompt.atMs) / 1000);
      prompt.done();
      this.begin();
      this.leaveIfDone();
    });
  }

  /** What its /metrics says. */
  series(): Series {
    return new Map([
      ...gaugeSeries("pelagic_queued_prefill_tokens", this.queuedTokens),
      ...gaugeSeries("pelagic_prefilled_tokens_total", this.computedTokens),
      ...gaugeSeries("pelagic_prefill_tokens_per_second", this.tokensPerSecond),
      ...gaugeSeries("vllm:num_requests_waiting", this.queue.length),
      ...gaugeSeries("vllm:num_requests_running", this.working ? 1 : 0),
      ...this.computing.series("pelagic_prefill_compute_seconds", {}),
    ]);
  }
}

interface Sequence {
  /** Of `progress`, when its last token comes. */
  endsAt: number;
  tokens: number;
  ended: () => void;
}

export class DecodeWorker extends Worker {
  /** That hold cache, those included whose prompt is still computed elsewhere. */
  requests = 0;
  private heldTokens = 0;
  private readonly running = new Set<Sequence>();
  /** Tokens that each sequence has got since the beginning. */
  private progress = 0;
  private progressAtMs = 0;
  private plan = 0;
  private steps = 0;
  private stepsTimesSequences = 0;
  private lastStepSeconds = 0;

  get idle(): boolean {
    return this.requests === 0;
  }

  hasRoom(tokens: number): boolean {
    const { mostSequences, cacheTokens } = this.rates;
    return this.takes && this.requests < mostSequences && (this.requests === 0 || this.heldTokens + tokens <= cacheTokens);
  }

  /** Reserves cache. */
  admit(tokens: number): void {
    this.requests++;
    this.heldTokens += tokens;
  }

  private get stepSeconds(): number {
    return (this.rates.stepSeconds + this.running.size * this.rates.stepSecondsPerSequence) * this.coldFactor;
  }

  /** Of an admitted request, whose rows are there; ms from now until its first token. */
  start(tokens: number, outputTokens: number, ended: () => void): number {
    this.advance();
    this.running.add({ endsAt: this.progress + outputTokens, tokens, ended });
    this.schedule();
    return this.stepSeconds * 1000;
  }

  private advance(): void {
    const { nowMs } = this.events;
    const steps = (nowMs - this.progressAtMs) / 1000 / this.stepSeconds;
    this.progressAtMs = nowMs;
    if (this.running.size === 0) return;
    this.progress += steps;
    this.steps += steps;
    this.stepsTimesSequences += steps * this.running.size;
    this.lastStepSeconds = this.stepSeconds;
  }

  private schedule(): void {
    const plan = ++this.plan;
    let next: Sequence | null = null;
    for (const sequence of this.running) if (next === null || sequence.endsAt < next.endsAt) next = sequence;
    if (next === null) return;
    const ending = next;
    this.events.at(this.events.nowMs + Math.max(0, ending.endsAt - this.progress) * this.stepSeconds * 1000, () => {
      if (this.plan !== plan) return;
      this.advance();
      this.running.delete(ending);
      this.requests--;
      this.heldTokens -= ending.tokens;
      this.schedule();
      this.leaveIfDone();
      ending.ended();
    });
  }

  series(): Series {
    this.advance();
    const usage = this.heldTokens / this.rates.cacheTokens;
    return new Map([
      ...gaugeSeries("vllm:num_requests_running", this.requests),
      ...gaugeSeries("vllm:num_requests_waiting", 0),
      ...gaugeSeries("vllm:kv_cache_usage_perc", Math.min(1, usage)),
      ...gaugeSeries("pelagic_decode_step_seconds", this.lastStepSeconds),
      ...gaugeSeries("pelagic_step_sequences_sum", this.stepsTimesSequences),
      ...gaugeSeries("pelagic_step_sequences_count", this.steps),
    ]);
  }
}
