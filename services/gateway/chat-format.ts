// The answer of /v1/chat/completions. Pure but for the ids of tool calls.
import { lazily } from "./json-pieces.ts";
import type { PelagicError } from "../lib/contracts/errors.ts";
import type { ChatCompletion, ChatCompletionChunk, ChatLogprobs, TokenLogprob, Usage } from "../lib/contracts/http.ts";
import type { TokenTable } from "../lib/model/token-table.ts";
import {
  type AnswerFormat,
  callsOf,
  type Ending,
  type FinishReason,
  type FormatOptions,
  finite,
  freshId,
  logprobsOf,
  type TokenReport,
  textOf,
  tokenText,
  type WholeAnswer,
} from "./answer-format.ts";
import { errorBody } from "./http-error.ts";
import type { LogprobEntry, OutputPiece } from "./output-assembler.ts";
import { promptLogprobs } from "./prompt-logprobs.ts";
import { doneEvent, sseEvent, TextEvents } from "./sse.ts";

type Delta = ChatCompletionChunk["choices"][number]["delta"];

export interface ChatFormatOptions extends FormatOptions {
  prompt: Uint32Array;
  /** The answer has reasoning, be it empty. */
  thinking: boolean;
  /** The client wants to see it. */
  showReasoning: boolean;
}

export class ChatFormat implements AnswerFormat {
  private readonly options: ChatFormatOptions;
  /** Of each answer: pieces of which nothing but the text is told. */
  private readonly texts: Partial<Record<OutputPiece["kind"], TextEvents>>[] = [];

  constructor(options: ChatFormatOptions) {
    this.options = options;
  }

  opening(index: number): string {
    const chunk = this.chunk(index, { role: "assistant", content: "" }, null, null, {}, null);
    return sseEvent({ ...chunk, ...this.promptIds() });
  }

  /** One event a piece; the report goes with the first, or alone where no text is out yet. */
  pieces(index: number, all: OutputPiece[], report: TokenReport, usage: Usage | null): string {
    const pieces = this.shown(all);
    const reported = (report.token_ids?.length ?? 0) > 0 || (report.logits_digests?.length ?? 0) > 0;
    if (pieces.length === 0) return reported || usage ? sseEvent(this.chunk(index, { content: "" }, null, null, report, usage)) : "";
    let events = "";
    for (const [i, piece] of pieces.entries()) {
      events +=
        piece.call === undefined && !reported && usage === null && !this.options.logprobs
          ? this.textEvent(index, piece)
          : sseEvent(this.chunk(index, deltaOf(piece), this.logprobs([piece]), null, i === 0 ? report : {}, usage));
    }
    return events;
  }

  private textEvent(index: number, { kind, text }: OutputPiece): string {
    this.texts[index] ??= {};
    const texts = this.texts[index];
    texts[kind] ??= new TextEvents((none) => this.chunk(index, deltaOf({ kind, text: none, logprobs: [] }), null, null, {}, null));
    return texts[kind].event(text);
  }

  finish(index: number, { reason }: Ending, usage: Usage | null): string {
    return sseEvent(this.chunk(index, {}, null, reason, {}, usage));
  }

  end(usage: Usage): string {
    const last = this.options.includeUsage ? sseEvent({ ...this.head(), choices: [], usage } satisfies ChatCompletionChunk) : "";
    return last + doneEvent;
  }

  failure(error: PelagicError): string {
    return sseEvent(errorBody(error)) + doneEvent;
  }

  whole(answers: WholeAnswer[], usage: Usage): object {
    const { head, promptLogprobs: top, prompt, table } = this.options;
    const { id, created, model } = head;
    const scores = answers[0]?.scores ?? null;
    return {
      id,
      object: "chat.completion",
      created,
      model,
      ...this.promptIds(),
      ...(top !== null && scores !== null && { prompt_logprobs: promptLogprobs(prompt, scores, top, table) }),
      choices: answers.map(({ pieces, ending, report }, index) => ({
        index,
        message: this.message(pieces),
        logprobs: this.logprobs(pieces),
        finish_reason: ending.reason,
        ...report,
      })),
      usage,
    } satisfies ChatCompletion;
  }

  private message(pieces: OutputPiece[]): ChatCompletion["choices"][number]["message"] {
    const { thinking, showReasoning } = this.options;
    const calls = callsOf(pieces);
    const content = textOf(pieces, "content");
    return {
      role: "assistant",
      content: content === "" && calls.length > 0 ? null : content,
      ...(thinking && showReasoning ? { reasoning_content: textOf(pieces, "reasoning") } : {}),
      ...(calls.length > 0 && {
        tool_calls: calls.map((called) => ({ id: freshId("call_"), type: "function" as const, function: called })),
      }),
      refusal: null,
    };
  }

  private shown(pieces: OutputPiece[]): OutputPiece[] {
    return this.options.showReasoning ? pieces : pieces.filter((piece) => piece.kind !== "reasoning");
  }

  private promptIds(): { prompt_token_ids?: number[] } {
    const [ids] = this.options.promptTokenIds ?? [];
    return ids === undefined ? {} : { prompt_token_ids: ids };
  }

  private head() {
    const { id, created, model } = this.options.head;
    return { id, object: "chat.completion.chunk" as const, created, model };
  }

  private chunk(
    index: number,
    delta: Delta,
    logprobs: ChatLogprobs | null,
    finishReason: FinishReason | null,
    report: TokenReport,
    usage: Usage | null,
  ): ChatCompletionChunk {
    return {
      ...this.head(),
      choices: [{ index, delta, logprobs, finish_reason: finishReason, ...report }],
      ...(this.options.includeUsage ? { usage } : {}),
    };
  }

  private logprobs(pieces: OutputPiece[]): ChatLogprobs | null {
    const { logprobs, table, thinking, showReasoning } = this.options;
    if (!logprobs || table === null) return null;
    const of = (reasoning: boolean) => lazily(logprobsOf(pieces, reasoning), (entry) => chatLogprob(entry, table));
    return { content: of(false), ...(thinking && showReasoning ? { reasoning_content: of(true) } : {}) };
  }
}

function deltaOf({ kind, text, call }: OutputPiece): Delta {
  if (kind === "reasoning") return { reasoning_content: text };
  if (call === undefined) return { content: text };
  if (call.name === undefined) return { tool_calls: [{ index: call.index, function: { arguments: text } }] };
  return { tool_calls: [{ index: call.index, id: freshId("call_"), type: "function", function: { name: call.name, arguments: text } }] };
}

function chatLogprob(entry: LogprobEntry, table: TokenTable): TokenLogprob {
  const alternative = (id: number, logprob: number) => ({
    token: tokenText(id, table),
    logprob: finite(logprob),
    bytes: [...table.bytesOf(id)],
  });
  return { ...alternative(entry.tokenId, entry.logprob), top_logprobs: entry.top.map(([id, logprob]) => alternative(id, logprob)) };
}
