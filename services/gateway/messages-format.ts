// The answer of /v1/messages: blocks of content, and the events that tell how they grow. Pure but for ids.
import { errorCatalogue, type PelagicError } from "../lib/contracts/errors.ts";
import type { Model, Usage } from "../lib/contracts/http.ts";
import type {
  MessagesAnswer,
  MessagesBlock,
  MessagesError,
  MessagesModel,
  MessagesModelList,
  MessagesUsage,
} from "../lib/contracts/http-messages.ts";
import { type AnswerFormat, type Ending, freshId, type TokenReport, type WholeAnswer } from "./answer-format.ts";
import type { OutputPiece } from "./output-assembler.ts";

export class MessagesFormat implements AnswerFormat {
  private readonly model: string;
  private readonly id = freshId("msg_");
  private readonly content: MessagesBlock[] = [];
  /** Of a call's block, the arguments so far. */
  private inputText = "";
  private open = false;
  private ending: Ending | null = null;

  constructor({ model }: { model: string }) {
    this.model = model;
  }

  opening(_index: number, usage: Usage): string {
    const message = { ...this.message(null, usage), content: [], usage: { ...usageOf(usage), output_tokens: 0 } };
    return event("message_start", { message });
  }

  pieces(_index: number, pieces: OutputPiece[], _report: TokenReport, _usage: Usage | null): string {
    return pieces.map((piece) => this.piece(piece)).join("");
  }

  finish(_index: number, ending: Ending): string {
    this.ending = ending;
    return this.close();
  }

  end(usage: Usage): string {
    const { stop_reason, stop_sequence, usage: counted } = this.message(this.ending, usage);
    return event("message_delta", { delta: { stop_reason, stop_sequence }, usage: counted }) + event("message_stop", {});
  }

  failure(error: PelagicError): string {
    return event("error", messagesError(error, null));
  }

  whole([answer]: WholeAnswer[], usage: Usage): object {
    const { pieces, ending } = answer as WholeAnswer;
    for (const piece of pieces) this.piece(piece);
    this.close();
    return this.message(ending, usage);
  }

  private message(ending: Ending | null, usage: Usage): MessagesAnswer {
    return {
      id: this.id,
      type: "message",
      role: "assistant",
      model: this.model,
      content: this.content,
      stop_reason: ending && stopReason(ending),
      stop_sequence: ending?.stop ?? null,
      usage: usageOf(usage),
    };
  }

  private piece({ kind, text, call }: OutputPiece): string {
    if (call?.name !== undefined)
      return this.begin({ type: "tool_use", id: freshId("toolu_"), name: call.name, input: {} }) + this.grow(text);
    const last = this.content.at(-1);
    if (kind === "reasoning") {
      return (last?.type === "thinking" ? "" : this.begin({ type: "thinking", thinking: "", signature: "" })) + this.grow(text);
    }
    if (kind === "call" || last?.type === "text") return this.grow(text);
    return this.begin({ type: "text", text: "" }) + this.grow(text);
  }

  private begin(block: MessagesBlock): string {
    const before = this.close();
    this.content.push(block);
    this.inputText = "";
    this.open = true;
    return before + event("content_block_start", { index: this.content.length - 1, content_block: block });
  }

  private grow(text: string): string {
    const block = this.content.at(-1);
    if (block === undefined || text === "") return "";
    const delta = (one: object) => event("content_block_delta", { index: this.content.length - 1, delta: one });
    switch (block.type) {
      case "thinking":
        block.thinking += text;
        return delta({ type: "thinking_delta", thinking: text });
      case "text":
        block.text += text;
        return delta({ type: "text_delta", text });
      case "tool_use":
        this.inputText += text;
        return delta({ type: "input_json_delta", partial_json: text });
    }
  }

  private close(): string {
    const block = this.content.at(-1);
    if (block === undefined || !this.open) return "";
    this.open = false;
    if (block.type === "tool_use") block.input = inputOf(this.inputText);
    const index = this.content.length - 1;
    const signed =
      block.type === "thinking" ? event("content_block_delta", { index, delta: { type: "signature_delta", signature: "" } }) : "";
    return signed + event("content_block_stop", { index });
  }
}

const errorTypes: Record<number, string> = {
  400: "invalid_request_error",
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  503: "overloaded_error",
};

/** A model as this API lists it. */
export function messagesModel({ id, created, max_model_len: context }: Model): MessagesModel {
  return {
    ...{ type: "model", id, display_name: id, created_at: new Date(created * 1_000).toISOString() },
    // Prompt and answer share one context.
    ...{ max_input_tokens: context, max_tokens: context },
    ...{ capabilities: null, lifecycle: "active", line: null, deprecated_at: null, retires_at: null },
  };
}

/** All of them at once: there are few. */
export function messagesModelList(models: readonly Model[]): MessagesModelList {
  const data = models.map(messagesModel);
  return { data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: false };
}

/** An error in this API's envelope, which names a field in the message alone. */
export function messagesError({ code, message, param }: PelagicError, requestId: string | null): MessagesError {
  const type = errorTypes[errorCatalogue[code].status] ?? "api_error";
  const named = param && !message.startsWith(param) ? `${param}: ${message}` : message;
  return { type: "error", error: { type, message: named }, request_id: requestId };
}

function stopReason({ reason, stop }: Ending): MessagesAnswer["stop_reason"] {
  if (stop !== null) return "stop_sequence";
  return ({ stop: "end_turn", length: "max_tokens", tool_calls: "tool_use" } as const)[reason];
}

/** This API counts what came from the cache apart. */
function usageOf(usage: Usage): MessagesUsage {
  return {
    input_tokens: usage.prompt_cache_miss_tokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: usage.prompt_cache_hit_tokens,
    output_tokens: usage.completion_tokens,
  };
}

function inputOf(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    // The answer ended in the middle of it.
    return {};
  }
}

function event(type: string, data: object): string {
  return `event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`;
}
