// The answer of /v1/completions. Pure.
import type { PelagicError } from "../lib/contracts/errors.ts";
import type { Completion, CompletionChunk, CompletionLogprobs, PromptLogprobs, Usage } from "../lib/contracts/http.ts";
import type { PromptScores } from "../lib/contracts/prompt-scores.ts";
import {
  type AnswerFormat,
  type Ending,
  type FinishReason,
  type FormatOptions,
  finite,
  type TokenReport,
  textOf,
  tokenText,
  type WholeAnswer,
} from "./answer-format.ts";
import { errorBody } from "./http-error.ts";
import { lazily } from "./json-pieces.ts";
import type { OutputPiece } from "./output-assembler.ts";
import { echoLogprobs, promptLogprobs } from "./prompt-logprobs.ts";
import { doneEvent, sseEvent, TextEvents } from "./sse.ts";

export interface CompletionFormatOptions extends FormatOptions {
  /** Token ids, by prompt. */
  prompts: Uint32Array[];
  /** Most likely tokens beside each, where logprobs are asked for. */
  top: number;
  /** Goes before the answers to each prompt. */
  echo: string[] | null;
  /** Answers to one prompt. */
  perPrompt: number;
}

export class CompletionFormat implements AnswerFormat {
  private readonly options: CompletionFormatOptions;
  /** Of each answer: pieces of which nothing but the text is told. */
  private readonly texts: TextEvents[] = [];

  constructor(options: CompletionFormatOptions) {
    this.options = options;
  }

  opening(index: number, _usage: Usage, scores: PromptScores | null): string {
    const text = this.echo(index);
    const logprobs = this.echoed(index, scores);
    return text === "" && logprobs === null ? "" : sseEvent(this.chunk(index, text, logprobs, null, {}, null));
  }

  /** One event a piece; the report goes with the first, or alone where no text is out yet. */
  pieces(index: number, pieces: OutputPiece[], report: TokenReport, usage: Usage | null): string {
    const reported = (report.token_ids?.length ?? 0) > 0 || (report.logits_digests?.length ?? 0) > 0;
    if (pieces.length === 0) return reported || usage ? sseEvent(this.chunk(index, "", null, null, report, usage)) : "";
    if (!reported && usage === null && !this.options.logprobs) {
      this.texts[index] ??= new TextEvents((none) => this.chunk(index, none, null, null, {}, null));
      const texts = this.texts[index];
      return pieces.map(({ text }) => texts.event(text)).join("");
    }
    return pieces
      .map((piece, i) => sseEvent(this.chunk(index, piece.text, this.logprobs(index, [piece]), null, i === 0 ? report : {}, usage)))
      .join("");
  }

  finish(index: number, { reason }: Ending, usage: Usage | null): string {
    return sseEvent(this.chunk(index, "", null, reason, {}, usage));
  }

  end(usage: Usage): string {
    const last = this.options.includeUsage ? sseEvent({ ...this.head(0), choices: [], usage } satisfies CompletionChunk) : "";
    return last + doneEvent;
  }

  failure(error: PelagicError): string {
    return sseEvent(errorBody(error)) + doneEvent;
  }

  whole(answers: WholeAnswer[], usage: Usage): object {
    return {
      ...this.head(0),
      choices: answers.map(({ pieces, ending, report, scores }, index) => ({
        index,
        text: this.echo(index) + textOf(pieces, "content"),
        logprobs: joined(this.echoed(index, scores), this.logprobs(index, pieces)),
        finish_reason: ending.reason,
        ...report,
        ...this.promptIds(index),
        ...this.promptLogprobs(index, scores),
      })),
      usage,
    } satisfies Completion;
  }

  /** With the answer where there are several prompts. */
  private promptIds(index: number): { prompt_token_ids?: number[] } {
    const all = this.options.promptTokenIds;
    return all === undefined || all.length === 1 ? {} : { prompt_token_ids: all[this.promptOf(index)] as number[] };
  }

  private echo(index: number): string {
    return this.options.echo?.[this.promptOf(index)] ?? "";
  }

  /** The logprobs of an echoed prompt. */
  private echoed(index: number, scores: PromptScores | null): CompletionLogprobs | null {
    const { echo, logprobs, table, top, prompts } = this.options;
    if (echo === null || !logprobs || scores === null || table === null) return null;
    return echoLogprobs(prompts[this.promptOf(index)] as Uint32Array, this.echo(index), scores, top, table);
  }

  private promptLogprobs(index: number, scores: PromptScores | null): { prompt_logprobs?: PromptLogprobs } {
    const { promptLogprobs: top, prompts, table } = this.options;
    if (top === null || scores === null) return {};
    return { prompt_logprobs: promptLogprobs(prompts[this.promptOf(index)] as Uint32Array, scores, top, table) };
  }

  private promptOf(index: number): number {
    return Math.floor(index / this.options.perPrompt);
  }

  private head(index: number) {
    const { id, created, model } = this.options.head;
    const ids = this.options.promptTokenIds?.[this.promptOf(index)];
    return { id, object: "text_completion" as const, created, model, ...(ids && { prompt_token_ids: ids }) };
  }

  private chunk(
    index: number,
    text: string,
    logprobs: CompletionLogprobs | null,
    reason: FinishReason | null,
    report: TokenReport,
    usage: Usage | null,
  ): CompletionChunk {
    return {
      ...this.head(index),
      choices: [{ index, text, logprobs, finish_reason: reason, ...report }],
      ...(this.options.includeUsage ? { usage } : {}),
    };
  }

  private logprobs(index: number, pieces: OutputPiece[]): CompletionLogprobs | null {
    const { logprobs, table } = this.options;
    if (!logprobs || table === null) return null;
    const before = this.echo(index).length;
    const entries = pieces.flatMap((piece) => piece.logprobs);
    return {
      tokens: entries.map((entry) => tokenText(entry.tokenId, table)),
      token_logprobs: entries.map((entry) => finite(entry.logprob)),
      top_logprobs: lazily(entries, ({ top }) => Object.fromEntries(top.map(([id, logprob]) => [tokenText(id, table), finite(logprob)]))),
      text_offset: entries.map((entry) => before + entry.textOffset),
    };
  }
}

function joined(prompt: CompletionLogprobs | null, answer: CompletionLogprobs | null): CompletionLogprobs | null {
  if (prompt === null || answer === null) return prompt ?? answer;
  return {
    tokens: [...prompt.tokens, ...answer.tokens],
    token_logprobs: [...prompt.token_logprobs, ...answer.token_logprobs],
    top_logprobs: [...prompt.top_logprobs, ...answer.top_logprobs],
    text_offset: [...prompt.text_offset, ...answer.text_offset],
  };
}
