// One turn of a chat through the public API, streamed, as any client would ask for it.
import type { ChatCompletionChunk, ErrorBody } from "../../lib/contracts/http.ts";
import { ApiError, call, sentence } from "../api.ts";
import { EventStream } from "./event-stream.ts";

export interface ChatTurn {
  model: string;
  messages: { role: "user" | "assistant"; content: string }[];
  thinking: boolean;
  /** Where the gateway asks for one. */
  apiKey: string | null;
}

export type ChatEvent =
  | { kind: "accepted"; requestId: string | null }
  | { kind: "reasoning" | "content"; text: string }
  | { kind: "usage"; promptTokens: number; cachedTokens: number; completionTokens: number }
  | { kind: "finish"; reason: string };

/** Ends with the answer; throws an ApiError in words, or an AbortError where the signal says so. */
export async function* streamChat(turn: ChatTurn, signal: AbortSignal): AsyncGenerator<ChatEvent> {
  const response = await call("../v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...(turn.apiKey === null ? {} : { authorization: `Bearer ${turn.apiKey}` }) },
    body: JSON.stringify({
      model: turn.model,
      messages: turn.messages,
      stream: true,
      stream_options: { include_usage: true },
      thinking: { type: turn.thinking ? "enabled" : "disabled" },
    }),
    signal,
  });
  yield { kind: "accepted", requestId: response.headers.get("x-request-id") };
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  const events = new EventStream();
  let finished = false;
  for (;;) {
    const { done, value } = await read(reader);
    if (done) break;
    for (const data of events.push(decoder.decode(value, { stream: true }))) {
      if (data === "[DONE]") return;
      for (const event of chatEvents(JSON.parse(data) as ChatCompletionChunk | ErrorBody)) {
        finished ||= event.kind === "finish";
        yield event;
      }
    }
  }
  if (!finished) throw new ApiError("unreachable", "The answer broke off.");
}

async function read(reader: ReadableStreamDefaultReader<Uint8Array>) {
  try {
    return await reader.read();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "The connection to the gateway broke off.");
  }
}

/** Throws the error that a stream may end with. */
function* chatEvents(chunk: ChatCompletionChunk | ErrorBody): Generator<ChatEvent> {
  if ("error" in chunk) throw new ApiError(chunk.error.code, sentence(chunk.error.message));
  const choice = chunk.choices[0];
  if (choice?.delta.reasoning_content) yield { kind: "reasoning", text: choice.delta.reasoning_content };
  if (choice?.delta.content) yield { kind: "content", text: choice.delta.content };
  if (choice?.finish_reason) yield { kind: "finish", reason: choice.finish_reason };
  if (chunk.usage) {
    yield {
      kind: "usage",
      promptTokens: chunk.usage.prompt_tokens,
      cachedTokens: chunk.usage.prompt_cache_hit_tokens,
      completionTokens: chunk.usage.completion_tokens,
    };
  }
}
