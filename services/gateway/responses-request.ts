// A body of /v1/responses as the conversation that it describes. Pure.
import { PelagicError } from "../lib/contracts/errors.ts";
import type { ChatCompletionRequest, ChatMessage, Tool } from "../lib/contracts/http.ts";
import type { ResponsesItem, ResponsesRequest, ResponsesTool } from "../lib/contracts/http-responses.ts";

type AssistantMessage = ChatMessage & { role: "assistant" };

export function chatOfResponses(request: ResponsesRequest): ChatCompletionRequest {
  const { tool_choice: choice } = request;
  const format = request.text?.format;
  const wantsLogprobs = request.include?.includes("message.output_text.logprobs") || (request.top_logprobs ?? 0) > 0;
  return {
    model: request.model,
    messages: messagesOf(request),
    max_tokens: request.max_output_tokens,
    reasoning_effort: request.reasoning?.effort,
    temperature: request.temperature,
    top_p: request.top_p,
    stream: request.stream,
    ...(wantsLogprobs && { logprobs: true, top_logprobs: request.top_logprobs ?? 0 }),
    ...(format && {
      response_format:
        format.type === "json_schema"
          ? { type: "json_schema" as const, json_schema: { schema: format.schema, strict: format.strict } }
          : { type: format.type },
    }),
    tools: request.tools?.map(toolOf),
    tool_choice: typeof choice === "object" && choice !== null ? { type: "function", function: { name: choice.name } } : choice,
    parallel_tool_calls: request.parallel_tool_calls,
    user_id: request.user_id,
    cache_salt: request.cache_salt,
  };
}

/** What a tool of free text takes, as a function. */
function toolOf(tool: ResponsesTool): Tool {
  const parameters =
    tool.type === "function" ? tool.parameters : { type: "object", properties: { input: { type: "string" } }, required: ["input"] };
  return {
    type: "function",
    function: { name: tool.name, description: tool.description, parameters, strict: tool.type === "function" ? tool.strict : true },
  };
}

function messagesOf({ input, instructions }: ResponsesRequest): ChatMessage[] {
  const messages: ChatMessage[] = instructions ? [{ role: "system", content: instructions }] : [];
  if (typeof input === "string") return [...messages, { role: "user", content: input }];
  // Reasoning, words and calls that follow one another are one turn of the assistant's.
  let turn: AssistantMessage | null = null;
  const assistant = (): AssistantMessage => {
    if (turn === null) {
      turn = { role: "assistant" };
      messages.push(turn);
    }
    return turn;
  };
  for (const [index, item] of input.entries()) {
    if (item.type === "item_reference") {
      checkReference(item.id, `input[${index}]`);
      continue;
    }
    const next = itemKind(item);
    if (next === "assistant") {
      addToTurn(assistant(), item);
      continue;
    }
    turn = null;
    messages.push(next);
  }
  if (messages.every(({ role }) => role === "system")) {
    throw new PelagicError("invalid_request", "input: has instructions only: send a message of the user's, or what a tool gave", {
      param: "input",
    });
  }
  return messages;
}

/**
 * Clients that take the server to keep what it said (the AI SDK, unless told otherwise) send references in its place. Reasoning of earlier turns
 * has no part in most prompts and may be missing; words and calls may not.
 */
function checkReference(id: string, param: string): void {
  if (id.startsWith("rs_")) return;
  const what = `${param}: item_reference to ${JSON.stringify(id)}: this server keeps no items`;
  const instead = "send the item itself, as clients do with store: false (AI SDK: providerOptions: { openai: { store: false } })";
  throw new PelagicError("invalid_request", `${what}; ${instead}`, { param });
}

/** The message that an item is, or that it belongs to the assistant's turn. */
function itemKind(item: Exclude<ResponsesItem, { type: "item_reference" }>): ChatMessage | "assistant" {
  switch (item.type) {
    case "function_call_output":
    case "custom_tool_call_output":
      return { role: "tool", tool_call_id: item.call_id, content: textOf(item.output) };
    case "function_call":
    case "custom_tool_call":
    case "reasoning":
      return "assistant";
    default:
      return item.role === "assistant" ? "assistant" : { role: item.role, content: textOf(item.content) };
  }
}

function addToTurn(turn: AssistantMessage, item: Exclude<ResponsesItem, { type: "item_reference" }>): void {
  switch (item.type) {
    case "reasoning":
      turn.reasoning_content = (turn.reasoning_content ?? "") + (item.content ?? []).map(({ text }) => text).join("");
      return;
    case "function_call":
    case "custom_tool_call": {
      const text = item.type === "function_call" ? item.arguments : JSON.stringify({ input: item.input });
      turn.tool_calls = [...(turn.tool_calls ?? []), { id: item.call_id, function: { name: item.name, arguments: text } }];
      return;
    }
    case "function_call_output":
    case "custom_tool_call_output":
      return;
    default:
      turn.content = ((turn.content as string | undefined) ?? "") + textOf(item.content);
  }
}

function textOf(content: string | readonly { text: string }[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}
