// What every form of answer has in common: the JSON or the events that a client reads, made of an answer's pieces.
import { randomUUID } from "node:crypto";
import type { Usage } from "../lib/contracts/http.ts";
import type { PelagicError } from "../lib/contracts/errors.ts";
import type { PromptScores } from "../lib/contracts/prompt-scores.ts";
import type { TokenTable } from "../lib/model/token-table.ts";
import type { LogprobEntry, OutputPiece } from "./output-assembler.ts";

export const finishReasons = ["stop", "length", "tool_calls"] as const;
export type FinishReason = (typeof finishReasons)[number];

export interface Ending {
  reason: FinishReason;
  /** The stop string that ended it. */
  stop: string | null;
}

/** Per-token reports that a client asked for. */
export interface TokenReport {
  token_ids?: number[];
  logits_digests?: string[];
}

/** One finished answer; a request has as many as it has prompts times n. */
export interface WholeAnswer {
  pieces: OutputPiece[];
  ending: Ending;
  report: TokenReport;
  /** Of its prompt; null: nobody asked. */
  scores: PromptScores | null;
}

/** Streams are events, one string for all that goes out at once. `index` numbers the request's answers. */
export interface AnswerFormat {
  /** Goes before an answer's first piece, in the same write. `usage`, `scores`: of its prompt. */
  opening(index: number, usage: Usage, scores: PromptScores | null): string;
  /** `usage`: so far, where the client wants it in every chunk. */
  pieces(index: number, pieces: OutputPiece[], report: TokenReport, usage: Usage | null): string;
  finish(index: number, ending: Ending, usage: Usage | null): string;
  /** After the last answer. */
  end(usage: Usage): string;
  /** In place of what would have come; the stream ends with it. Behind its opening. */
  failure(error: PelagicError): string;
  whole(answers: WholeAnswer[], usage: Usage): object;
}

export interface AnswerHead {
  id: string;
  created: number;
  model: string;
}

export interface FormatOptions {
  head: AnswerHead;
  table: TokenTable | null;
  logprobs: boolean;
  /** vLLM's prompt_logprobs: so many beside each token of the prompt. */
  promptLogprobs: number | null;
  /** Repeated to a client that asked for token ids, one list for each prompt. */
  promptTokenIds?: number[][];
  /** Streams with usage say `usage: null` in every chunk but the last. */
  includeUsage: boolean;
}

export function freshId(prefix: string): string {
  return `${prefix}${randomUUID().replaceAll("-", "")}`;
}

/** What JSON has no number for. */
const impossibleLogprob = -9999;

export function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : impossibleLogprob;
}

export function tokenText(id: number, table: TokenTable): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(table.bytesOf(id));
}

export function textOf(pieces: readonly OutputPiece[], kind: OutputPiece["kind"]): string {
  return pieces
    .filter((piece) => piece.kind === kind)
    .map((piece) => piece.text)
    .join("");
}

/** The calls of an answer, in order. */
export function callsOf(pieces: readonly OutputPiece[]): { name: string; arguments: string }[] {
  const calls: { name: string; arguments: string }[] = [];
  for (const { call, text } of pieces) {
    if (call === undefined) continue;
    if (call.name !== undefined) calls.push({ name: call.name, arguments: text });
    else (calls[call.index] as { arguments: string }).arguments += text;
  }
  return calls;
}

export function logprobsOf(pieces: readonly OutputPiece[], reasoning: boolean): LogprobEntry[] {
  return pieces.filter((piece) => (piece.kind === "reasoning") === reasoning).flatMap((piece) => piece.logprobs);
}
