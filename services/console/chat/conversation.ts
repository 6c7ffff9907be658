// A chat as the page keeps it, in memory only: one exchange after another. Pure; times come in.
import type { ConsoleModel } from "../../lib/contracts/console.ts";
import type { ApiError } from "../api.ts";
import type { ChatEvent, ChatTurn } from "./chat-stream.ts";

export interface Exchange {
  id: number;
  question: string;
  thinking: boolean;
  reasoning: string;
  answer: string;
  state: "asked" | "thinking" | "answering" | "done" | "stopped" | "failed";
  failure: ApiError | null;
  requestId: string | null;
  finishReason: string | null;
  usage: { promptTokens: number; cachedTokens: number; completionTokens: number } | null;
  askedMs: number;
  /** The first text of any kind, the first of the answer, and the last. */
  firstMs: number | null;
  answerMs: number | null;
  lastMs: number | null;
}

export function ask(id: number, question: string, thinking: boolean, atMs: number): Exchange {
  return {
    id,
    question,
    thinking,
    reasoning: "",
    answer: "",
    state: "asked",
    failure: null,
    requestId: null,
    finishReason: null,
    usage: null,
    askedMs: atMs,
    firstMs: null,
    answerMs: null,
    lastMs: null,
  };
}

export function hear(exchange: Exchange, event: ChatEvent, atMs: number): Exchange {
  switch (event.kind) {
    case "accepted":
      return { ...exchange, requestId: event.requestId };
    case "reasoning":
      return {
        ...exchange,
        state: "thinking",
        reasoning: exchange.reasoning + event.text,
        firstMs: exchange.firstMs ?? atMs,
        lastMs: atMs,
      };
    case "content":
      return {
        ...exchange,
        state: "answering",
        // The template's own line breaks between thought and answer.
        answer: exchange.answer === "" ? event.text.trimStart() : exchange.answer + event.text,
        firstMs: exchange.firstMs ?? atMs,
        answerMs: exchange.answerMs ?? atMs,
        lastMs: atMs,
      };
    case "usage":
      return { ...exchange, usage: event };
    case "finish":
      return { ...exchange, finishReason: event.reason };
  }
}

export function end(exchange: Exchange, how: "done" | "stopped" | ApiError): Exchange {
  return typeof how === "string" ? { ...exchange, state: how } : { ...exchange, state: "failed", failure: how };
}

export function isOpen({ state }: Exchange): boolean {
  return state === "asked" || state === "thinking" || state === "answering";
}

/** Null: one of them can be talked to. */
export function whyNoChat(models: readonly ConsoleModel[]): string | null {
  if (models.some(({ chats }) => chats)) return null;
  // A gateway that learns its models from workers begins without any.
  if (models.length === 0) return "No model is served here yet.";
  return `${models.map(({ modelName }) => modelName).join(" and ")} can be asked in token ids only, without a tokenizer.`;
}

/** What the model is told of the exchanges so far, and the new question. What got no answer is left out; reasoning is never sent back. */
export function messagesFor(exchanges: readonly Exchange[], question: string): ChatTurn["messages"] {
  const answered = exchanges.filter(({ answer }) => answer !== "");
  return [
    ...answered.flatMap((one) => [
      { role: "user" as const, content: one.question },
      { role: "assistant" as const, content: one.answer },
    ]),
    { role: "user", content: question },
  ];
}

export interface ExchangeFigures {
  ttftSeconds: number | null;
  thoughtSeconds: number | null;
  tokensPerSecond: number | null;
}

export function figuresOf({ askedMs, firstMs, answerMs, lastMs, reasoning, usage }: Exchange): ExchangeFigures {
  const seconds = firstMs !== null && lastMs !== null ? (lastMs - firstMs) / 1000 : 0;
  return {
    ttftSeconds: firstMs === null ? null : (firstMs - askedMs) / 1000,
    thoughtSeconds: reasoning === "" || firstMs === null ? null : ((answerMs ?? lastMs ?? firstMs) - firstMs) / 1000,
    tokensPerSecond: usage !== null && usage.completionTokens > 1 && seconds > 0 ? (usage.completionTokens - 1) / seconds : null,
  };
}
