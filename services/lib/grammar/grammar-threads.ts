// Grammars in threads of their own: compiling one takes up to seconds, and the process that asks has streams to feed meanwhile. A matcher lives where
// its grammar was compiled. Large grammars have another thread than small ones, which are never behind them.
import { Worker } from "node:worker_threads";
import { PelagicError } from "../contracts/errors.ts";
import type { Matcher, MatcherSource } from "./constraint.ts";

export interface GrammarThreadData {
  modelDir: string;
  vocabularySize: number;
}
export type GrammarAsk =
  | { kind: "open"; call: number; matcher: number; grammar: string; endTokenIds: readonly number[] }
  | { kind: "next"; call: number; matcher: number; accepted: readonly number[] }
  | { kind: "close"; matcher: number };
export type GrammarTell = { call: number; mask?: Uint32Array; error?: string };

export interface GrammarThreadsOptions extends GrammarThreadData {
  /** The compiled grammar-thread. */
  workerUrl: URL;
  /** A thread that has not answered for so long is ended, and with it the answers that follow its grammars. */
  callMs?: number;
}

/** The gateway has refused what takes longer than seconds (format-encoder.ts); this is against hanging. */
const defaultCallMs = 60_000;
/** Such a grammar is compiled in tenths of a second at most. */
const smallCharacters = 16_384;

export class GrammarThreads implements MatcherSource {
  private readonly options: GrammarThreadsOptions;
  private readonly threads = new Map<"small" | "large", GrammarThread>();
  private closed = false;

  constructor(options: GrammarThreadsOptions) {
    this.options = options;
  }

  async matcher(grammar: string, endTokenIds: readonly number[]): Promise<Matcher> {
    if (this.closed) throw new PelagicError("shutting_down", "the worker is stopping");
    const size = grammar.length <= smallCharacters ? "small" : "large";
    let thread = this.threads.get(size);
    if (thread === undefined) {
      const started = new GrammarThread(this.options, () => {
        if (this.threads.get(size) === started) this.threads.delete(size);
      });
      thread = started;
      this.threads.set(size, thread);
    }
    return await thread.open(grammar, endTokenIds);
  }

  async close(): Promise<void> {
    this.closed = true;
    await Promise.all([...this.threads.values()].map((thread) => thread.end("the worker is stopping")));
  }
}

class GrammarThread {
  private readonly worker: Worker;
  private readonly callMs: number;
  private readonly onEnded: () => void;
  private readonly calls = new Map<number, { resolve(mask: Uint32Array): void; reject(error: Error): void }>();
  private lastNumber = 0;
  private timer: NodeJS.Timeout | undefined;
  private ended: string | undefined;

  constructor(options: GrammarThreadsOptions, onEnded: () => void) {
    this.callMs = options.callMs ?? defaultCallMs;
    this.onEnded = onEnded;
    const workerData: GrammarThreadData = { modelDir: options.modelDir, vocabularySize: options.vocabularySize };
    this.worker = new Worker(options.workerUrl, { workerData });
    this.worker.on("message", (tell: GrammarTell) => this.onTell(tell));
    this.worker.on("error", (error) => void this.end(error instanceof Error ? error.message : String(error)));
    this.worker.on("exit", () => void this.end("it stopped"));
    // It holds nobody up who wants to end.
    this.worker.unref();
  }

  async open(grammar: string, endTokenIds: readonly number[]): Promise<Matcher> {
    const matcher = ++this.lastNumber;
    await this.call((call) => ({ kind: "open", call, matcher, grammar, endTokenIds }));
    return {
      next: (accepted) => this.call((call) => ({ kind: "next", call, matcher, accepted })),
      dispose: () => this.post({ kind: "close", matcher }),
    };
  }

  async end(why: string): Promise<void> {
    if (this.ended !== undefined) return;
    this.ended = why;
    clearTimeout(this.timer);
    this.onEnded();
    for (const { reject } of this.calls.values()) reject(this.failure());
    this.calls.clear();
    await this.worker.terminate();
  }

  private call(askOf: (call: number) => GrammarAsk): Promise<Uint32Array> {
    if (this.ended !== undefined) return Promise.reject(this.failure());
    const call = ++this.lastNumber;
    return new Promise((resolve, reject) => {
      this.calls.set(call, { resolve, reject });
      this.timer ??= this.watch();
      this.post(askOf(call));
    });
  }

  private post(ask: GrammarAsk): void {
    if (this.ended === undefined) this.worker.postMessage(ask);
  }

  private onTell({ call, mask, error }: GrammarTell): void {
    const waiting = this.calls.get(call);
    this.calls.delete(call);
    clearTimeout(this.timer);
    this.timer = this.calls.size > 0 ? this.watch() : undefined;
    if (error !== undefined) waiting?.reject(new Error(error));
    else waiting?.resolve(mask ?? new Uint32Array(0));
  }

  private watch(): NodeJS.Timeout {
    return setTimeout(() => void this.end(`it did not answer for ${this.callMs} ms`), this.callMs).unref();
  }

  private failure(): PelagicError {
    return new PelagicError("internal", `the grammar's thread ended: ${this.ended}`);
  }
}
