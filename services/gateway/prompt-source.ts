// From a validated request to its prompts: what the tokenizer's threads are given to encode. Pure.
import { PelagicError } from "../lib/contracts/errors.ts";
import type { ChatCompletionRequest, ChatMessage, CompletionRequest, Prompt, Tool } from "../lib/contracts/http.ts";
import type { PromptMessage, PromptTool } from "./tool-prompt.ts";
import type { ServedModel } from "./served-model.ts";
import type { ChatPrompt } from "./prompt-encoder.ts";
import type { PromptJob } from "./tokenizer-pool.ts";

/** `bytes`: of all its text. */
export interface TextSource {
  job: PromptJob;
  bytes: number;
}
export type PromptSource = { tokens: Uint32Array } | TextSource;

type Conversation = Pick<ChatCompletionRequest, "messages"> &
  Partial<
    Pick<
      ChatCompletionRequest,
      "thinking" | "reasoning_effort" | "chat_template_kwargs" | "tools" | "continue_final_message" | "add_generation_prompt"
    >
  >;

export function thinkingWanted(request: Omit<Conversation, "messages">): boolean {
  if (request.thinking) return request.thinking.type !== "disabled";
  const kwargs = request.chat_template_kwargs;
  return kwargs?.thinking ?? kwargs?.enable_thinking ?? request.reasoning_effort !== "none";
}

export function chatPrompt(request: Conversation, model: ServedModel): TextSource {
  if (model.table === null) {
    throw new PelagicError(
      "invalid_request",
      `messages: the model ${model.name} has no tokenizer.json: use /v1/completions with token ids as the prompt`,
      { param: "messages" },
    );
  }
  const { given, prefix } = splitPrefix(request);
  const messages = given.map(promptMessage);
  const tools = request.tools?.map(promptTool);
  const variables = templateVariables(request);
  const prompt: ChatPrompt = {
    messages,
    thinking: thinkingWanted(request),
    ...(tools?.length && { tools }),
    ...(prefix && { prefix }),
    ...(request.add_generation_prompt === false && !prefix && { opensAnswer: false }),
    ...(Object.keys(variables).length > 0 && { variables }),
  };
  return { job: { kind: "chat", prompt }, bytes: textBytes([messages, tools, prefix]) };
}

export function completionPrompts(request: CompletionRequest, model: ServedModel): PromptSource[] {
  const { prompt } = request;
  const several = Array.isArray(prompt) && typeof prompt[0] !== "number";
  return (several ? (prompt as Prompt[]) : [prompt as Prompt]).map((one) => completionPrompt(one, model));
}

function completionPrompt(prompt: Prompt, model: ServedModel): PromptSource {
  if (typeof prompt === "string") {
    if (model.table === null) {
      throw new PelagicError("invalid_request", `prompt: the model ${model.name} has no tokenizer.json: give the prompt as token ids`, {
        param: "prompt",
      });
    }
    return { job: { kind: "text", text: prompt }, bytes: Buffer.byteLength(prompt) };
  }
  for (const id of prompt) checkTokenId(id, model, "prompt");
  return { tokens: Uint32Array.from(prompt) };
}

/** Refuses a text that cannot fit before it is tokenized: no token stands for more bytes than the longest. */
export function checkPromptBytes({ bytes }: TextSource, model: ServedModel, maxPositions: number, field: string): void {
  const atLeast = Math.ceil(bytes / (model.table?.longestTokenBytes ?? 1));
  if (atLeast > maxPositions) throw tooLong(`at least ${atLeast} tokens in the prompt`, maxPositions, field);
}

export function checkTokenId(id: number, model: ServedModel, param: string): void {
  if (id >= model.vocabularySize) {
    throw new PelagicError("invalid_request", `${param}: ${id} is no token id of this model: they are below ${model.vocabularySize}`, {
      param,
    });
  }
}

/** The field to shorten: that of the instructions where they are the most of a conversation's text. */
export function longestField(source: TextSource, instructions: { field: string; text: string }): string {
  return Buffer.byteLength(instructions.text) * 2 > source.bytes ? instructions.field : "messages";
}

export function tooLong(what: string, maxPositions: number, param: string): PelagicError {
  return new PelagicError(
    "context_length_exceeded",
    `this model's maximum context length is ${maxPositions} tokens, and the request has ${what}: shorten it`,
    { param },
  );
}

/** The last message where the answer is to go on from it. */
function splitPrefix(request: Conversation): { given: ChatMessage[]; prefix?: ChatPrompt["prefix"] } {
  const { messages, continue_final_message: goOn } = request;
  const last = messages.at(-1) as ChatMessage;
  const marked = last.role === "assistant" && last.prefix === true;
  if (goOn && request.add_generation_prompt === true) {
    throw new PelagicError("invalid_request", "continue_final_message: not with add_generation_prompt: leave one of them out", {
      param: "continue_final_message",
    });
  }
  if (!goOn && !marked) return { given: messages };
  if (last.role !== "assistant" || last.tool_calls?.length) {
    throw new PelagicError("invalid_request", "continue_final_message: the last message is not the assistant's words", {
      param: "continue_final_message",
    });
  }
  if (messages.length === 1) {
    throw new PelagicError("invalid_request", "messages: a prefix needs a message before it", { param: "messages" });
  }
  return {
    given: messages.slice(0, -1),
    prefix: { reasoning: last.reasoning_content ?? last.reasoning ?? "", content: contentText(last.content) },
  };
}

function promptMessage(message: ChatMessage): PromptMessage {
  const content = contentText(message.content);
  switch (message.role) {
    case "developer":
      return { role: "system", content };
    case "tool":
      return { role: "tool", content, toolCallId: message.tool_call_id };
    case "assistant": {
      const reasoning = message.reasoning_content ?? message.reasoning;
      const calls = message.tool_calls ?? [];
      return {
        role: "assistant",
        content,
        ...(reasoning && { reasoning }),
        ...(calls.length > 0 && {
          toolCalls: calls.map(({ id, function: called }) => ({
            id: id ?? "",
            name: called.name,
            arguments: called.arguments || "{}",
          })),
        }),
      };
    }
    default:
      return { role: message.role, content };
  }
}

function promptTool({ function: { name, description, parameters } }: Tool): PromptTool {
  return { name, description: description ?? "", parameters: parameters ?? { type: "object", properties: {} } };
}

function contentText(content: ChatMessage["content"]): string {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => (part.type === "refusal" ? part.refusal : part.text)).join("");
}

const efforts = { none: undefined, minimal: "low", low: "low", medium: "high", high: "high", xhigh: "high", max: "max", ultra: "max" };

/** What the template may ask for besides the conversation; only plain values. */
function templateVariables(request: Conversation): Record<string, string | number | boolean> {
  const effort = request.reasoning_effort ? efforts[request.reasoning_effort] : undefined;
  const { thinking: _, enable_thinking: __, ...rest } = request.chat_template_kwargs ?? {};
  const plain = Object.entries(rest).filter((entry): entry is [string, string | number | boolean] =>
    ["string", "number", "boolean"].includes(typeof entry[1]),
  );
  return { ...Object.fromEntries(plain), ...(effort === undefined ? {} : { reasoning_effort: effort }) };
}

function textBytes(value: unknown): number {
  if (typeof value === "string") return Buffer.byteLength(value);
  if (typeof value !== "object" || value === null) return 0;
  return Object.values(value).reduce((sum: number, one) => sum + textBytes(one), 0);
}
