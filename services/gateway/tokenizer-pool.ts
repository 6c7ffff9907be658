// Tokenizing off the main loop: threads that each hold the tokenizer, a bounded queue before them, a new thread where one died or hangs.
import type { GoneSignal } from "./departure.ts";
import { Worker } from "node:worker_threads";
import { type ErrorCode, PelagicError } from "../lib/contracts/errors.ts";
import type { Log } from "../lib/contracts/bus.ts";
import type { ModelSource } from "../lib/model/folder.ts";
import type { TextFormat } from "../lib/grammar/text-format.ts";
import type { ChatPrompt, EncodedPrompt } from "./prompt-encoder.ts";

export type PromptJob = { bannedWords?: readonly string[] } & (
  | { kind: "chat"; prompt: ChatPrompt }
  /** `special` false: without the beginning of sentence that the model wants. */
  | { kind: "text"; text: string; special?: boolean }
  /** The prompt is tokens already: only the format is wanted. */
  | { kind: "ids" }
);
/** What a thread takes: tokenizer-worker.ts prompts, grammar-worker.ts grammars. */
export type TokenizerJob = PromptJob | { kind: "grammar"; format: TextFormat; behindThought: boolean };
export type TokenizerAnswer = { prompt: EncodedPrompt } | { error: { code: ErrorCode; message: string; param?: string } };
export interface TokenizerWorkerData {
  model: ModelSource;
  vocabularySize: number;
}

export interface EncodeLimits {
  /** Nobody wants the tokens any more: rejects as cancelled, and a job that still waits is dropped. */
  signal?: GoneSignal;
  /** What is left to the request's deadline: a job that has not begun within this is given up. */
  timeoutMs?: number;
}

/** Anything that turns a prompt into tokens, and the format that is asked for into a grammar. */
export interface Encoder {
  encode(job: PromptJob & { format?: TextFormat }, limits?: EncodeLimits): Promise<EncodedPrompt>;
}

export interface TokenizerPoolOptions {
  /** The compiled tokenizer-worker. */
  workerUrl: URL;
  model: ModelSource;
  vocabularySize: number;
  threads: number;
  /** Jobs that may wait; one more is refused as overloaded. */
  maxWaiting: number;
  /** A thread that takes longer over one job is replaced. */
  jobTimeoutMs: number;
  /** What such a job is told. */
  tooLate?: (job: TokenizerJob) => PelagicError;
  /** A job waits no longer than this for a thread. Default: 30 s. */
  maxWaitMs?: number;
  log: Log;
}

interface PendingJob {
  job: TokenizerJob;
  stopWaiting(): void;
  resolve(prompt: EncodedPrompt): void;
  reject(error: PelagicError): void;
}

interface Thread {
  worker: Worker;
  /** Takes jobs: has loaded, and was not told to end. */
  ready: boolean;
  loaded: boolean;
  /** In the order in which it answers them; the first one runs. */
  jobs: PendingJob[];
  timer: NodeJS.Timeout | null;
}

const defaultMaxWaitMs = 30_000;
/** Quick jobs that a thread has at a time: with one only, it would wait after each for the main loop to come round. */
const maxJobsAhead = 16;
/** A job with no more text takes moments. */
const quickCharacters = 32_768;
/** Before another thread is tried where one could not load; twice as long each time that one after another fails. */
const restartDelayMs = 500;
const maxRestartDelayMs = 10_000;

export class TokenizerPool {
  private readonly options: TokenizerPoolOptions;
  private readonly threads = new Set<Thread>();
  private waiting: PendingJob[] = [];
  private closed = false;
  private failedLoads = 0;
  private readonly started: Promise<void>;

  constructor(options: TokenizerPoolOptions) {
    this.options = options;
    this.started = Promise.all(Array.from({ length: options.threads }, () => this.startThread())).then(() => undefined);
    // Reported by ready(); a pool that nobody asks must not end the process.
    this.started.catch(() => undefined);
  }

  /** Resolves when every thread has loaded the tokenizer; rejects if one cannot. */
  ready(): Promise<void> {
    return this.started;
  }

  encode(job: TokenizerJob, limits: EncodeLimits = {}): Promise<EncodedPrompt> {
    if (this.closed) return Promise.reject(new PelagicError("shutting_down", "the gateway is shutting down"));
    const { signal } = limits;
    if (signal?.aborted) return Promise.reject(cancelled());
    if (this.waiting.length >= this.options.maxWaiting) {
      return Promise.reject(
        new PelagicError("overloaded", `${this.waiting.length} prompts wait to be tokenized; try again later`, { retryAfterMs: 1_000 }),
      );
    }
    const { timeoutMs = Number.POSITIVE_INFINITY } = limits;
    const maxWaitMs = this.options.maxWaitMs ?? defaultMaxWaitMs;
    const waitMs = Math.max(1, Math.min(timeoutMs, maxWaitMs));
    return new Promise((resolve, reject) => {
      const giveUp = (error: PelagicError) => {
        pending.stopWaiting();
        this.waiting = this.waiting.filter((one) => one !== pending);
        // Of a job that a thread has only the answer is given up: the thread is free when it is done or late.
        pending.reject(error);
      };
      const onAbort = () => giveUp(cancelled());
      const timer = setTimeout(() => giveUp(timeoutMs < maxWaitMs ? deadlineExceeded() : this.waitedTooLong(waitMs)), waitMs);
      const forget = () => signal?.removeEventListener("abort", onAbort);
      const pending: PendingJob = {
        job,
        stopWaiting: () => clearTimeout(timer),
        resolve: (prompt) => {
          forget();
          resolve(prompt);
        },
        reject: (error) => {
          forget();
          reject(error);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.waiting.push(pending);
      this.assign();
    });
  }

  private waitedTooLong(waitMs: number): PelagicError {
    return [...this.threads].some((thread) => thread.ready)
      ? new PelagicError("overloaded", `the prompt waited ${waitMs} ms to be tokenized; try again later`, { retryAfterMs: 1_000 })
      : new PelagicError("internal", `no tokenizer thread was ready within ${waitMs} ms`);
  }

  async close(): Promise<void> {
    this.closed = true;
    this.rejectWaiting();
    await Promise.all([...this.threads].map((thread) => thread.worker.terminate()));
  }

  private rejectWaiting(): void {
    for (const pending of this.waiting.splice(0)) {
      pending.stopWaiting();
      pending.reject(new PelagicError("shutting_down", "the gateway is shutting down"));
    }
  }

  private assign(): void {
    for (let pending = this.waiting[0]; pending !== undefined; pending = this.waiting[0]) {
      const thread = this.threadFor(pending.job);
      if (thread === undefined) return;
      this.waiting.shift();
      thread.jobs.push(pending);
      thread.worker.postMessage(pending.job);
      if (thread.jobs.length === 1) this.begun(thread, pending);
    }
  }

  /** The one that has least to do; nothing waits behind a job that may take long while another thread could take it. */
  private threadFor(job: TokenizerJob): Thread | undefined {
    let best: Thread | undefined;
    for (const thread of this.threads) {
      const takesOne =
        thread.jobs.length === 0 || (thread.jobs.length < maxJobsAhead && [...thread.jobs.map((one) => one.job), job].every(isQuick));
      if (thread.ready && takesOne && thread.jobs.length < (best?.jobs.length ?? Number.POSITIVE_INFINITY)) best = thread;
    }
    return best;
  }

  private begun(thread: Thread, pending: PendingJob): void {
    pending.stopWaiting();
    thread.timer = setTimeout(() => {
      // Before it has ended: no other job must go to it.
      thread.ready = false;
      this.settle(thread)?.reject(
        this.options.tooLate?.(pending.job) ??
          new PelagicError("deadline_exceeded", `the prompt was not tokenized within ${this.options.jobTimeoutMs} ms; shorten it`),
      );
      this.putBack(thread);
      void thread.worker.terminate();
    }, this.options.jobTimeoutMs);
  }

  /** The job that ran is over. */
  private settle(thread: Thread): PendingJob | undefined {
    if (thread.timer !== null) clearTimeout(thread.timer);
    thread.timer = null;
    return thread.jobs.shift();
  }

  /** What the thread had not begun waits for another one. */
  private putBack(thread: Thread): void {
    this.waiting.unshift(...thread.jobs.splice(0));
  }

  private startThread(): Promise<void> {
    const workerData: TokenizerWorkerData = { model: this.options.model, vocabularySize: this.options.vocabularySize };
    const thread: Thread = {
      worker: new Worker(this.options.workerUrl, { workerData }),
      ready: false,
      loaded: false,
      jobs: [],
      timer: null,
    };
    this.threads.add(thread);
    return new Promise((resolve, reject) => {
      thread.worker.on("message", (message: "ready" | TokenizerAnswer) => {
        if (message === "ready") {
          thread.ready = true;
          thread.loaded = true;
          this.failedLoads = 0;
          resolve();
        } else {
          const pending = this.settle(thread);
          const [next] = thread.jobs;
          if (next !== undefined) this.begun(thread, next);
          if ("prompt" in message) pending?.resolve(message.prompt);
          else pending?.reject(new PelagicError(message.error.code, message.error.message, { param: message.error.param }));
        }
        this.assign();
      });
      thread.worker.on("error", (error) => {
        thread.ready = false;
        this.options.log.error({ error: error.message }, "tokenizer thread failed");
        reject(error);
      });
      thread.worker.on("exit", () => {
        this.threads.delete(thread);
        this.settle(thread)?.reject(new PelagicError(this.closed ? "shutting_down" : "internal", "the tokenizer thread ended; try again"));
        this.putBack(thread);
        if (this.closed) {
          this.rejectWaiting();
          return;
        }
        this.assign();
        // One that could not load would fail again at once: not in a tight loop.
        const delayMs = thread.loaded ? 0 : Math.min(restartDelayMs * 2 ** this.failedLoads++, maxRestartDelayMs);
        setTimeout(() => {
          if (!this.closed) void this.startThread().catch(() => undefined);
        }, delayMs);
      });
    });
  }
}

function isQuick(job: TokenizerJob): boolean {
  if (job.kind === "grammar" || job.kind === "ids" || job.bannedWords !== undefined) return false;
  if (job.kind === "text") return job.text.length <= quickCharacters;
  return job.prompt.messages.reduce((sum, { content }) => sum + content.length, 0) <= quickCharacters;
}

function deadlineExceeded(): PelagicError {
  return new PelagicError("deadline_exceeded", "the request's deadline passed before its prompt was tokenized");
}

function cancelled(): PelagicError {
  return new PelagicError("cancelled", "the client went away");
}
