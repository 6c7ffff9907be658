// Turns what decode sends into what the client reads, streamed or whole: all answers to one request at once, each in its own order.
import type { ServerResponse } from "node:http";
import { type PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import type { Usage } from "../lib/contracts/http.ts";
import type { AnswerFormat, Ending, FinishReason, TokenReport, WholeAnswer } from "./answer-format.ts";
import type { Generation, TokenBatch } from "./generation.ts";
import { sendJson } from "./http-response.ts";
import type { OutputAssembler, OutputPiece } from "./output-assembler.ts";
import { pace } from "./pace.ts";
import { SseWriter } from "./sse.ts";

/** One of a request's answers. */
export interface Choice {
  /** Numbers the prompt that it answers. */
  prompt: number;
  promptTokens: number;
  assembler: OutputAssembler;
  /** The prompt is all that is asked about: the token that comes of it is not. */
  promptOnly: boolean;
  /** Sends it to the workers. */
  start(): Generation;
}

export interface AnswerOptions {
  format: AnswerFormat;
  /** All answers to the first prompt, then those to the second. */
  choices: Choice[];
  response: ServerResponse;
  stallMs: number;
  keepAliveMs: number;
  /** Where several are made to give the best: so many of each prompt's. */
  best?: number;
  tokenIds: boolean;
  digests: boolean;
  /** Streams: the usage so far in every chunk. */
  continuousUsage: boolean;
  /** Before anything is written. */
  beforeFirst(): void;
  /** Tokens of an answer came; so long after those before, unless they are its first. */
  onTokens(gapSeconds: number | null): void;
}

const nothing: TokenReport = Object.freeze({});

export class Answer {
  private readonly options: AnswerOptions;
  private readonly generations: (Generation | null)[];
  /** When tokens of each came first and last. */
  private readonly tokenMs: { first: number; last: number }[] = [];
  private readonly firsts: Promise<void>[] = [];
  private readonly seenFirst: (() => void)[] = [];
  /** Why the others need not go on. */
  private failure: PelagicError | null = null;
  /** What waits for the reader, of all answers: one writes at a time. null: nothing does. */
  private written: Promise<void> | null = null;
  /** The end of a stream's only answer, which goes out with the stream's own. */
  private lastEvents = "";

  constructor(options: AnswerOptions) {
    this.options = options;
    this.generations = options.choices.map(() => null);
    for (const { prompt } of options.choices) {
      this.firsts[prompt] ??= new Promise((resolve) => {
        this.seenFirst[prompt] = resolve;
      });
    }
  }

  /** Returns the outcome; throws where nothing was written yet or nobody reads any more. */
  async stream(): Promise<string> {
    const { format, choices } = this.options;
    const writer = new SseWriter(this.options.response, this.options.stallMs);
    const write = (events: string) => {
      if (!writer.started) this.options.beforeFirst();
      return writer.write(events);
    };
    const put = (events: string): Promise<void> | null => {
      const waits = this.written === null ? write(events) : this.written.then(() => write(events));
      if (waits === null) return null;
      const written = waits.then(() => {
        if (this.written === written) this.written = null;
      });
      this.written = written;
      return written;
    };
    // Not before a worker has the request: until then it can be refused, which headers would rule out.
    const keepAlive = setInterval(() => {
      const comment = writer.keepAliveAfter(this.options.keepAliveMs);
      // Who finds no reader there says so where it is waited for.
      if (comment !== "" && this.begun.some(({ wasAccepted }) => wasAccepted)) (async () => put(comment))().catch(() => undefined);
    }, this.options.keepAliveMs / 4);
    // Of each answer: goes out with its first piece, not before it. Empty: it has.
    const openings: (string | null)[] = choices.map(() => null);
    const open = (index: number) => {
      const choice = choices[index] as Choice;
      openings[index] ??= format.opening(index, this.usage([choice]), this.generations[index]?.promptScores ?? null);
    };
    const withOpening = (index: number, events: string) => {
      open(index);
      const all = openings[index] + events;
      openings[index] = "";
      return all;
    };
    let endings: Ending[];
    try {
      endings = await this.all(async (choice, index) => {
        const usage = () => (this.options.continuousUsage ? this.usage([choice]) : null);
        const goOn = () => (this.generations[index]?.end === null ? pace.turn() : null);
        const ending = await this.consume(choice, index, (pieces, report) => {
          open(index);
          const events = format.pieces(index, pieces, report, usage());
          if (events === "") return null;
          const written = put(withOpening(index, events));
          return written === null ? goOn() : written.then(goOn);
        });
        open(index);
        const finish = withOpening(index, format.finish(index, ending, usage()));
        if (choices.length > 1) await put(finish);
        else this.lastEvents = finish;
        return ending;
      });
    } catch (error) {
      const failure = toPelagicError(error);
      if (!writer.started || failure.code === "cancelled") throw failure;
      // Only a comment may have gone out, and clients of some forms take no other event for the first.
      await writer.write(choices.length === 1 ? withOpening(0, format.failure(failure)) : format.failure(failure));
      writer.end();
      return failure.code;
    } finally {
      clearInterval(keepAlive);
    }
    await put(this.lastEvents + format.end(this.usage()));
    writer.end();
    return outcomeOf(endings);
  }

  async whole(): Promise<string> {
    const { format, choices, best } = this.options;
    const answers: WholeAnswer[] = choices.map(() => ({
      pieces: [],
      ending: { reason: "stop", stop: null },
      report: {},
      scores: null,
    }));
    await this.all(async (choice, index) => {
      const answer = answers[index] as WholeAnswer;
      answer.ending = await this.consume(choice, index, (pieces, report) => {
        answer.pieces.push(...pieces);
        addReport(answer.report, report);
        return null;
      });
      answer.scores = this.generations[index]?.promptScores ?? null;
      return answer.ending;
    });
    this.options.beforeFirst();
    const given = best === undefined ? answers : bestOf(answers, choices, best);
    await sendJson(this.options.response, format.whole(given, this.usage()), this.options.stallMs);
    return outcomeOf(given.map(({ ending }) => ending));
  }

  cancel(): void {
    for (const generation of this.generations) generation?.cancel();
  }

  /** The workers' side of each answer that was begun. */
  get begun(): Generation[] {
    return this.generations.filter((generation) => generation !== null);
  }

  /** All answers side by side; the first failure ends them all. */
  private async all(each: (choice: Choice, index: number) => Promise<Ending>): Promise<Ending[]> {
    return await Promise.all(
      this.options.choices.map(async (choice, index) => {
        try {
          return await each(choice, index);
        } catch (error) {
          this.failure ??= toPelagicError(error);
          this.cancel();
          for (const resolve of this.seenFirst) resolve?.();
          throw this.failure;
        }
      }),
    );
  }

  private async consume(
    choice: Choice,
    index: number,
    put: (pieces: OutputPiece[], report: TokenReport) => Promise<unknown> | null,
  ): Promise<Ending> {
    const { assembler, prompt, promptOnly } = choice;
    // The others of a prompt find its blocks where the first has put them.
    const isFirst = this.options.choices.findIndex((one) => one.prompt === prompt) === index;
    if (!isFirst) await this.firsts[prompt];
    if (this.failure !== null) throw this.failure;
    const generation = choice.start();
    this.generations[index] = generation;
    for await (const batch of generation) {
      const nowMs = performance.now();
      const times = this.tokenMs[index];
      this.options.onTokens(times === undefined ? null : (nowMs - times.last) / 1000);
      if (times === undefined) this.tokenMs[index] = { first: nowMs, last: nowMs };
      else times.last = nowMs;
      this.seenFirst[prompt]?.();
      const pieces: OutputPiece[] = [];
      const used = promptOnly ? 0 : assembler.push(batch.tokens, batch.logprobs, pieces);
      const waits = put(pieces, this.report(batch, used));
      if (waits !== null) await waits;
      // Leaving the loop cancels what is still being generated.
      if (assembler.stopped) break;
    }
    this.seenFirst[prompt]?.();
    const pieces: OutputPiece[] = [];
    assembler.finish(pieces);
    if (pieces.length > 0) await put(pieces, {});
    const reason = promptOnly ? "length" : assembler.stopped ? "stop" : (generation.end?.reason ?? "stop");
    return { reason: reason === "stop" && assembler.calls > 0 ? "tool_calls" : reason, stop: assembler.stop };
  }

  /** From one token to the next, of each answer that has two. */
  tokenSeconds(): number[] {
    return this.options.choices.flatMap(({ assembler: { completionTokens } }, index) => {
      const times = this.tokenMs[index];
      return times === undefined || completionTokens < 2 ? [] : [(times.last - times.first) / 1000 / (completionTokens - 1)];
    });
  }

  /** Of the batch's first tokens, so many. */
  private report({ tokens, digests }: TokenBatch, used: number): TokenReport {
    const { options } = this;
    if (!options.tokenIds && !options.digests) return nothing;
    return {
      ...(options.tokenIds && { token_ids: [...tokens.subarray(0, used)] }),
      ...(options.digests && { logits_digests: digests.slice(0, used) }),
    };
  }

  /** Of these answers, each prompt counted once. */
  usage(choices: readonly Choice[] = this.options.choices): Usage {
    let [prompt, cached, completion, reasoning] = [0, 0, 0, 0];
    const counted = new Set<number>();
    for (const choice of choices) {
      completion += choice.assembler.completionTokens;
      reasoning += choice.assembler.reasoningTokens;
      if (counted.has(choice.prompt)) continue;
      counted.add(choice.prompt);
      prompt += choice.promptTokens;
      cached += this.generations[this.options.choices.indexOf(choice)]?.cacheHitTokens ?? 0;
    }
    return {
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      prompt_tokens_details: { cached_tokens: cached },
      completion_tokens_details: { reasoning_tokens: reasoning },
      prompt_cache_hit_tokens: cached,
      prompt_cache_miss_tokens: prompt - cached,
    };
  }
}

/** Of each prompt's answers those with the highest mean log probability of a token, best first. */
function bestOf(answers: WholeAnswer[], choices: readonly Choice[], count: number): WholeAnswer[] {
  const prompts = [...new Set(choices.map(({ prompt }) => prompt))];
  return prompts.flatMap((prompt) =>
    answers
      .filter((_, index) => choices[index]?.prompt === prompt)
      .map((answer) => ({ answer, score: meanLogprob(answer) }))
      .sort((a, b) => b.score - a.score)
      .slice(0, count)
      .map(({ answer }) => answer),
  );
}

function meanLogprob({ pieces }: WholeAnswer): number {
  const all = pieces.flatMap((piece) => piece.logprobs);
  return all.length === 0 ? Number.NEGATIVE_INFINITY : all.reduce((sum, { logprob }) => sum + logprob, 0) / all.length;
}

function outcomeOf(endings: Ending[]): FinishReason {
  return endings[0]?.reason ?? "stop";
}

function addReport(to: TokenReport, { token_ids: ids, logits_digests: digests }: TokenReport): void {
  if (ids) {
    to.token_ids ??= [];
    to.token_ids.push(...ids);
  }
  if (digests) {
    to.logits_digests ??= [];
    to.logits_digests.push(...digests);
  }
}
