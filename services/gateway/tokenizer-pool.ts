// Tokenizing off the main loop: threads that each hold the tokenizer, a bounded queue before them, a new thread where one died or hangs.
import { Worker } from "node:worker_threads";
import { type ErrorCode, PelagicError } from "../lib/contracts/errors.ts";
import type { Log } from "../lib/contracts/bus.ts";
import type { ChatPrompt, EncodedPrompt } from "./prompt-encoder.ts";

export type TokenizerJob = { kind: "text"; text: string } | { kind: "chat"; prompt: ChatPrompt };
export type TokenizerAnswer = { prompt: EncodedPrompt } | { error: { code: ErrorCode; message: string; param?: string } };
export interface TokenizerWorkerData {
  modelPath: string;
}

/** Anything that turns a job into tokens. */
export interface Encoder {
  encode(job: TokenizerJob): Promise<EncodedPrompt>;
}

export interface TokenizerPoolOptions {
  /** The compiled tokenizer-worker. */
  workerUrl: URL;
  modelPath: string;
  threads: number;
  /** Jobs that may wait; one more is refused as overloaded. */
  maxWaiting: number;
  /** A thread that takes longer over one job is replaced. */
  jobTimeoutMs: number;
  log: Log;
}

interface PendingJob {
  job: TokenizerJob;
  resolve(prompt: EncodedPrompt): void;
  reject(error: PelagicError): void;
}

interface Thread {
  worker: Worker;
  ready: boolean;
  current: PendingJob | null;
  timer: NodeJS.Timeout | null;
}

const restartDelayMs = 500;

export class TokenizerPool implements Encoder {
  private readonly options: TokenizerPoolOptions;
  private readonly threads = new Set<Thread>();
  private waiting: PendingJob[] = [];
  private closed = false;
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

  encode(job: TokenizerJob): Promise<EncodedPrompt> {
    if (this.closed) return Promise.reject(new PelagicError("shutting_down", "the gateway is shutting down"));
    if (this.waiting.length >= this.options.maxWaiting) {
      return Promise.reject(
        new PelagicError("overloaded", `${this.waiting.length} prompts wait to be tokenized; try again later`, { retryAfterMs: 1_000 }),
      );
    }
    return new Promise((resolve, reject) => {
      this.waiting.push({ job, resolve, reject });
      this.assign();
    });
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const pending of this.waiting.splice(0)) pending.reject(new PelagicError("shutting_down", "the gateway is shutting down"));
    await Promise.all([...this.threads].map((thread) => thread.worker.terminate()));
  }

  private assign(): void {
    for (const thread of this.threads) {
      if (this.waiting.length === 0) return;
      if (!thread.ready || thread.current !== null) continue;
      const pending = this.waiting.shift() as PendingJob;
      thread.current = pending;
      thread.timer = setTimeout(() => {
        this.settle(thread)?.reject(
          new PelagicError("deadline_exceeded", `the prompt was not tokenized within ${this.options.jobTimeoutMs} ms; shorten it`),
        );
        void thread.worker.terminate();
      }, this.options.jobTimeoutMs);
      thread.worker.postMessage(pending.job);
    }
  }

  private settle(thread: Thread): PendingJob | null {
    const pending = thread.current;
    thread.current = null;
    if (thread.timer !== null) clearTimeout(thread.timer);
    thread.timer = null;
    return pending;
  }

  private startThread(): Promise<void> {
    const workerData: TokenizerWorkerData = { modelPath: this.options.modelPath };
    const thread: Thread = { worker: new Worker(this.options.workerUrl, { workerData }), ready: false, current: null, timer: null };
    this.threads.add(thread);
    return new Promise((resolve, reject) => {
      thread.worker.on("message", (message: "ready" | TokenizerAnswer) => {
        if (message === "ready") {
          thread.ready = true;
          resolve();
        } else {
          const pending = this.settle(thread);
          if ("prompt" in message) pending?.resolve(message.prompt);
          else pending?.reject(new PelagicError(message.error.code, message.error.message, { param: message.error.param }));
        }
        this.assign();
      });
      thread.worker.on("error", (error) => {
        this.options.log.error({ error: error.message }, "tokenizer thread failed");
        reject(error);
      });
      thread.worker.on("exit", () => {
        this.threads.delete(thread);
        this.settle(thread)?.reject(new PelagicError(this.closed ? "shutting_down" : "internal", "the tokenizer thread ended; try again"));
        if (this.closed) return;
        // One that could not load would fail again at once: not in a tight loop.
        setTimeout(
          () => {
            if (!this.closed) void this.startThread().catch(() => undefined);
          },
          thread.ready ? 0 : restartDelayMs,
        );
      });
    });
  }
}
