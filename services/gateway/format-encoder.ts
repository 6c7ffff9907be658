// Prompts in one pool of threads and the grammars of their formats in another, so that no prompt waits behind a grammar: those take up to seconds.
// Compiled here first: what takes too long is refused by its field, and costs no decode worker.
import { PelagicError } from "../lib/contracts/errors.ts";
import { paramOf } from "../lib/grammar/text-format.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";
import { type EncodeLimits, type Encoder, TokenizerPool, type TokenizerPoolOptions } from "./tokenizer-pool.ts";

export class FormatEncoder implements Encoder {
  private readonly prompts: TokenizerPool;
  private readonly grammarOptions: TokenizerPoolOptions;
  /** Begun with the first format: a thread holds the whole vocabulary, and many never ask for one. */
  private grammars: TokenizerPool | undefined;
  private closed = false;

  constructor(prompts: TokenizerPoolOptions, grammars: { workerUrl: URL; jobTimeoutMs: number }) {
    this.prompts = new TokenizerPool(prompts);
    this.grammarOptions = {
      ...prompts,
      ...grammars,
      tooLate: (job) => {
        const param = job.kind === "grammar" ? paramOf(job.format) : "response_format";
        const message = `${param}: too large: its grammar takes longer than ${grammars.jobTimeoutMs} ms to compile; make it smaller`;
        return new PelagicError("invalid_request", message, { param });
      },
    };
  }

  ready(): Promise<void> {
    return this.prompts.ready();
  }

  async encode({ format, ...plain }: Parameters<Encoder["encode"]>[0], limits: EncodeLimits = {}): Promise<EncodedPrompt> {
    const begun = performance.now();
    const isEncoded = plain.kind === "ids" && plain.bannedWords === undefined;
    const prompt = isEncoded ? { tokens: new Uint32Array(0), insideThink: false } : await this.prompts.encode(plain, limits);
    if (format === undefined) return prompt;
    const left = limits.timeoutMs === undefined ? {} : { timeoutMs: limits.timeoutMs - (performance.now() - begun) };
    const compiled = await this.grammarPool().encode(
      { kind: "grammar", format, behindThought: prompt.insideThink },
      { ...limits, ...left },
    );
    const { grammar, notKept } = compiled;
    return { ...prompt, ...(grammar !== undefined && { grammar }), ...(notKept && { notKept }) };
  }

  async close(): Promise<void> {
    this.closed = true;
    await Promise.all([this.prompts.close(), this.grammars?.close()]);
  }

  private grammarPool(): TokenizerPool {
    if (this.closed) throw new PelagicError("shutting_down", "the gateway is shutting down");
    this.grammars ??= new TokenizerPool(this.grammarOptions);
    return this.grammars;
  }
}
