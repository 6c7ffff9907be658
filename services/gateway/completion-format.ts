// The answer of /v1/completions. Pure.
import type { PelagicError } from "../lib/contracts/errors.ts";
import type { Completion, CompletionChunk, CompletionLogprobs, Usage } from "../lib/contracts/http.ts";
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
import type { OutputPiece } from "./output-assembler.ts";
import { doneEvent, sseEvent } from "./sse.ts";

export interface CompletionFormatOptions extends FormatOptions {
  /** Goes before the answers to each prompt. */
  echo: string[] | null;
  /** Answers to one prompt. */
  perPrompt: number;
}

export class CompletionFormat implements AnswerFormat {
  private readonly options: CompletionFormatOptions;

  constructor(options: CompletionFormatOptions) {
    this.options = options;
  }

  opening(index: number): string {
    const text = this.echo(index);
    return text === "" ? "" : sseEvent(this.chunk(index, text, null, null, {}, null));
  }

  /** One event a piece; the report goes with the first, or alone where no text is out yet. */
  pieces(index: number, pieces: OutputPiece[], report: TokenReport, usage: Usage | null): string {
    const reported = (report.token_ids?.length ?? 0) > 0 || (report.logits_digests?.length ?? 0) > 0;
    if (pieces.length === 0) return reported || usage ? sseEvent(this.chunk(index, "", null, null, report, usage)) : "";
    return pieces
      .map((piece, i) => sseEvent(this.chunk(index, piece.text, this.logprobs([piece]), null, i === 0 ? report : {}, usage)))
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
      choices: answers.map(({ pieces, ending, report }, index) => ({
        index,
        text: this.echo(index) + textOf(pieces, "content"),
        logprobs: this.logprobs(pieces),
        finish_reason: ending.reason,
        ...report,
        ...this.promptIds(index),
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

  private logprobs(pieces: OutputPiece[]): CompletionLogprobs | null {
    const { logprobs, table } = this.options;
    if (!logprobs || table === null) return null;
    const entries = pieces.flatMap((piece) => piece.logprobs);
    return {
      tokens: entries.map((entry) => tokenText(entry.tokenId, table)),
      token_logprobs: entries.map((entry) => finite(entry.logprob)),
      top_logprobs: entries.map((entry) => Object.fromEntries(entry.top.map(([id, logprob]) => [tokenText(id, table), finite(logprob)]))),
      text_offset: entries.map((entry) => entry.textOffset),
    };
  }
}
