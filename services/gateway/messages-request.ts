// A body of /v1/messages as the conversation that it describes. Pure.
import type { ChatCompletionRequest, ChatMessage } from "../lib/contracts/http.ts";
import type { CountTokensRequest, MessagesMessage, MessagesRequest } from "../lib/contracts/http-messages.ts";
import type { z } from "zod";

type Conversation = Omit<z.output<typeof CountTokensRequest>, "output_config">;

export function chatOfMessages(request: MessagesRequest): ChatCompletionRequest {
  const format = request.output_config?.format;
  return {
    ...conversationOf(request),
    max_tokens: request.max_tokens,
    stop: request.stop_sequences,
    stream: request.stream,
    temperature: request.temperature,
    top_p: request.top_p,
    top_k: request.top_k,
    ...(request.thinking?.type === "enabled" && { thinking_token_budget: request.thinking.budget_tokens }),
    ...(request.output_config?.effort && { reasoning_effort: request.output_config.effort }),
    ...(format && { response_format: { type: "json_schema" as const, json_schema: { schema: format.schema, strict: true } } }),
    user_id: request.metadata?.user_id,
  };
}

export function systemOf({ system }: Pick<Conversation, "system">) {
  return { field: "system", text: textOf(system ?? "") };
}

export function conversationOf(request: Conversation) {
  const { tool_choice: choice, thinking } = request;
  const system = request.system ? [{ role: "system" as const, content: textOf(request.system) }] : [];
  return {
    model: request.model,
    messages: goingOn([...system, ...request.messages.flatMap(messagesOf)]),
    // Here it is off unless it is asked for.
    thinking: { type: thinking?.type ?? ("disabled" as const) },
    tools: request.tools?.map(({ name, description, input_schema: parameters, strict }) => ({
      type: "function" as const,
      function: { name, description, parameters, strict },
    })),
    ...(choice && {
      tool_choice:
        choice.type === "tool"
          ? { type: "function" as const, function: { name: choice.name } }
          : ({ auto: "auto", any: "required", none: "none" } as const)[choice.type],
      parallel_tool_calls: !(choice.type !== "none" && choice.disable_parallel_tool_use),
    }),
  };
}

/** Where the assistant has the last word the answer goes on from it. */
function goingOn(messages: ChatMessage[]): ChatMessage[] {
  const last = messages.at(-1);
  if (last?.role !== "assistant" || last.tool_calls?.length) return messages;
  return [...messages.slice(0, -1), { ...last, prefix: true }];
}

/** What tools gave comes first, then what the user says. */
function messagesOf({ role, content }: MessagesMessage): ChatMessage[] {
  if (typeof content === "string") return [{ role, content }];
  const text = content.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("");
  if (role === "user") {
    const results = content.flatMap((block): ChatMessage[] =>
      block.type === "tool_result" ? [{ role: "tool", tool_call_id: block.tool_use_id, content: resultOf(block) }] : [],
    );
    return text === "" && results.length > 0 ? results : [...results, { role, content: text }];
  }
  const calls = content.flatMap((block) =>
    block.type === "tool_use" ? [{ id: block.id, function: { name: block.name, arguments: JSON.stringify(block.input) } }] : [],
  );
  const thought = content.flatMap((block) => (block.type === "thinking" ? [block.thinking] : [])).join("");
  return [{ role, content: text, ...(thought && { reasoning_content: thought }), ...(calls.length > 0 && { tool_calls: calls }) }];
}

/** Chat templates know no failed tools, so the text says it. */
function resultOf({ content, is_error: isError }: { content?: Parameters<typeof textOf>[0] | null; is_error?: boolean | null }): string {
  const text = textOf(content ?? "");
  return isError ? `Error: ${text}` : text;
}

function textOf(content: string | readonly { text: string }[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}
