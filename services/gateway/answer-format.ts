// The JSON that chat and completions answer with: chunks of a stream, or one body. Pure.
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatLogprobs,
  Completion,
  CompletionChunk,
  CompletionLogprobs,
  TokenLogprob,
  Usage,
} from "../lib/contracts/http.ts";
import type { LogprobEntry, OutputPiece } from "./output-assembler.ts";
import type { TokenTable } from "../lib/model/token-table.ts";

export type FinishReason = "stop" | "length";

/** Per-token reports that a client asked for. */
export interface TokenReport {
  token_ids?: number[];
  logits_digests?: string[];
}

export interface AnswerHead {
  id: string;
  created: number;
  model: string;
  /** Repeated to a client that asked for token ids. */
  promptTokenIds?: number[];
}

export interface AnswerFormat {
  /** The chunk that goes before the first piece, in the same write. */
  opening(): object | null;
  chunk(piece: OutputPiece, report: TokenReport): object;
  finish(reason: FinishReason): object;
  usage(usage: Usage): object;
  whole(pieces: OutputPiece[], reason: FinishReason, usage: Usage, report: TokenReport): object;
}

export interface FormatOptions {
  head: AnswerHead;
  table: TokenTable | null;
  logprobs: boolean;
  /** Streams with usage say `usage: null` in every chunk but the last. */
  includeUsage: boolean;
  /** Chat: the answer has reasoning, be it empty. */
  thinking: boolean;
}

/** What JSON has no number for. */
const impossibleLogprob = -9999;

export class ChatFormat implements AnswerFormat {
  private readonly options: FormatOptions;

  constructor(options: FormatOptions) {
    this.options = options;
  }

  opening(): object {
    return { ...this.chunkOf({ role: "assistant", content: "" }, null, null, {}), ...promptIds(this.options.head) };
  }

  chunk(piece: OutputPiece, report: TokenReport): object {
    const delta = piece.kind === "reasoning" ? { reasoning_content: piece.text } : { content: piece.text };
    return this.chunkOf(delta, this.logprobs([piece]), null, report);
  }

  finish(reason: FinishReason): object {
    return this.chunkOf({}, null, reason, {});
  }

  usage(usage: Usage): object {
    return { ...this.chunkHead(), choices: [], usage } satisfies ChatCompletionChunk;
  }

  whole(pieces: OutputPiece[], reason: FinishReason, usage: Usage, report: TokenReport): object {
    const { id, created, model } = this.options.head;
    return {
      id,
      object: "chat.completion",
      created,
      model,
      ...promptIds(this.options.head),
      choices: [
        {
          index: 0,
          message: {
            role: "assistant",
            content: textOf(pieces, "content"),
            ...(this.options.thinking ? { reasoning_content: textOf(pieces, "reasoning") } : {}),
            refusal: null,
          },
          logprobs: this.logprobs(pieces),
          finish_reason: reason,
          ...report,
        },
      ],
      usage,
    } satisfies ChatCompletion;
  }

  private chunkHead() {
    const { id, created, model } = this.options.head;
    return { id, object: "chat.completion.chunk" as const, created, model };
  }

  private chunkOf(
    delta: ChatCompletionChunk["choices"][number]["delta"],
    logprobs: ChatLogprobs | null,
    finishReason: FinishReason | null,
    report: TokenReport,
  ): ChatCompletionChunk {
    return {
      ...this.chunkHead(),
      choices: [{ index: 0, delta, logprobs, finish_reason: finishReason, ...report }],
      ...(this.options.includeUsage ? { usage: null } : {}),
    };
  }

  private logprobs(pieces: OutputPiece[]): ChatLogprobs | null {
    const { logprobs, table, thinking } = this.options;
    if (!logprobs || table === null) return null;
    const of = (kind: OutputPiece["kind"]) =>
      pieces.filter((piece) => piece.kind === kind).flatMap((piece) => piece.logprobs.map((entry) => chatLogprob(entry, table)));
    return { content: of("content"), ...(thinking ? { reasoning_content: of("reasoning") } : {}) };
  }
}

export class CompletionFormat implements AnswerFormat {
  private readonly options: FormatOptions;

  constructor(options: FormatOptions) {
    this.options = options;
  }

  opening(): object | null {
    return null;
  }

  chunk(piece: OutputPiece, report: TokenReport): object {
    return this.chunkOf(piece.text, this.logprobs([piece]), null, report);
  }

  finish(reason: FinishReason): object {
    return this.chunkOf("", null, reason, {});
  }

  usage(usage: Usage): object {
    return { ...this.head(), choices: [], usage } satisfies CompletionChunk;
  }

  whole(pieces: OutputPiece[], reason: FinishReason, usage: Usage, report: TokenReport): object {
    return {
      ...this.head(),
      choices: [{ index: 0, text: textOf(pieces, "content"), logprobs: this.logprobs(pieces), finish_reason: reason, ...report }],
      usage,
    } satisfies Completion;
  }

  private head() {
    const { id, created, model } = this.options.head;
    return { id, object: "text_completion" as const, created, model, ...promptIds(this.options.head) };
  }

  private chunkOf(text: string, logprobs: CompletionLogprobs | null, reason: FinishReason | null, report: TokenReport): CompletionChunk {
    return {
      ...this.head(),
      choices: [{ index: 0, text, logprobs, finish_reason: reason, ...report }],
      ...(this.options.includeUsage ? { usage: null } : {}),
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

function promptIds(head: AnswerHead): { prompt_token_ids?: number[] } {
  return head.promptTokenIds === undefined ? {} : { prompt_token_ids: head.promptTokenIds };
}

function textOf(pieces: OutputPiece[], kind: OutputPiece["kind"]): string {
  return pieces
    .filter((piece) => piece.kind === kind)
    .map((piece) => piece.text)
    .join("");
}

function chatLogprob(entry: LogprobEntry, table: TokenTable): TokenLogprob {
  const alternative = (id: number, logprob: number) => ({
    token: tokenText(id, table),
    logprob: finite(logprob),
    bytes: [...table.bytesOf(id)],
  });
  return { ...alternative(entry.tokenId, entry.logprob), top_logprobs: entry.top.map(([id, logprob]) => alternative(id, logprob)) };
}

function tokenText(id: number, table: TokenTable): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(table.bytesOf(id));
}

function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : impossibleLogprob;
}
