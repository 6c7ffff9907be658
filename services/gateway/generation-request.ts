// What each endpoint's body asks for, in one form. Throws `invalid_request` with the field at fault.
import type { z } from "zod";
import { PelagicError } from "../lib/contracts/errors.ts";
import { ChatCompletionRequest, CompletionRequest, unknownFields } from "../lib/contracts/http.ts";
import { httpLimits } from "../lib/contracts/http-fields.ts";
import { MessagesRequest } from "../lib/contracts/http-messages.ts";
import { ResponsesRequest } from "../lib/contracts/http-responses.ts";
import type { TextFormat } from "../lib/grammar/text-format.ts";
import { type AnswerFormat, type FormatOptions, freshId } from "./answer-format.ts";
import { ChatFormat } from "./chat-format.ts";
import { CompletionFormat } from "./completion-format.ts";
import type { Endpoint } from "./gateway-metrics.ts";
import type { CommonRequest } from "./generation-plan.ts";
import { parseBody } from "./json-body.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";
import { chatPrompt, completionPrompts, longestField, type PromptSource, thinkingWanted } from "./prompt-source.ts";
import { chatOfMessages, systemOf } from "./messages-request.ts";
import { MessagesFormat } from "./messages-format.ts";
import { chatOfResponses } from "./responses-request.ts";
import { ResponsesFormat } from "./responses-format.ts";
import type { Gateway } from "./gateway.ts";
import type { ServedModel } from "./served-model.ts";
import { wantedFormat, withTools } from "./wanted-format.ts";

export interface GenerationRequest {
  /** Sampling, stopping and reporting. */
  common: CommonRequest;
  prompts: PromptSource[];
  /** The field to shorten where they are too long; a name of /v1/chat/completions (field-names.ts). */
  promptField: string;
  /** Reasoning is told from the answer. */
  chat: boolean;
  wanted: TextFormat | undefined;
  bannedWords: string[] | undefined;
  /** Answers given to each prompt, and answers made of which they are the best. */
  answers: number;
  candidates: number;
  logprobs: number | undefined;
  /** Most likely tokens told beside each of the prompt's; undefined: the prompt's own are not asked for either. */
  promptTop: number | undefined;
  askedTokens: number | null | undefined;
  askedTokensField: string;
  thinkingTokens: number | null | undefined;
  /** What the client reads. */
  format(prompts: readonly EncodedPrompt[]): AnswerFormat;
}

type Rules = Pick<Gateway, "debug" | "metrics">;

export function parseGeneration(rules: Rules, model: ServedModel, endpoint: Endpoint, body: Record<string, unknown>): GenerationRequest {
  const parsers = { chat: parseChat, completions: parseCompletion, responses: parseResponses, messages: parseMessages };
  return parsers[endpoint](rules, model, body);
}

function parseChat(rules: Rules, model: ServedModel, body: Record<string, unknown>): GenerationRequest {
  const request = validate(rules, ChatCompletionRequest, body);
  return chatGeneration(
    model,
    request,
    (prompts) =>
      new ChatFormat({
        ...formatOptions(model, "chatcmpl", request, prompts, request.logprobs === true),
        prompt: (prompts[0] as EncodedPrompt).tokens,
        thinking: thinkingWanted(request),
        showReasoning: request.include_reasoning ?? true,
      }),
  );
}

/** What every form of conversation becomes. */
function chatGeneration(
  model: ServedModel,
  request: ChatCompletionRequest,
  format: GenerationRequest["format"],
  instructions: { field: string; text: string } = { field: "messages", text: "" },
): GenerationRequest {
  refuseStreamedPrompt(request);
  if (request.logprobs !== true && (request.top_logprobs ?? 0) > 0) {
    throw new PelagicError("invalid_request", "top_logprobs: needs logprobs: true beside it", { param: "top_logprobs" });
  }
  const prompt = chatPrompt(request, model);
  return {
    common: request,
    prompts: [prompt],
    promptField: longestField(prompt, instructions),
    chat: true,
    wanted: withTools(wantedFormat(request), request, model.toolSyntax),
    bannedWords: request.bad_words ?? undefined,
    answers: request.n ?? 1,
    candidates: request.n ?? 1,
    logprobs: request.logprobs === true ? (request.top_logprobs ?? 0) : undefined,
    promptTop: request.prompt_logprobs ?? undefined,
    askedTokens: request.max_completion_tokens ?? request.max_tokens,
    askedTokensField: request.max_completion_tokens ? "max_completion_tokens" : "max_tokens",
    thinkingTokens: request.thinking_token_budget,
    format,
  };
}

function parseResponses(rules: Rules, model: ServedModel, body: Record<string, unknown>): GenerationRequest {
  const request = validate(rules, ResponsesRequest, body);
  const chat = chatOfResponses(request);
  const format = () => new ResponsesFormat({ request, model: model.name, table: model.table });
  return chatGeneration(model, chat, format, { field: "instructions", text: request.instructions ?? "" });
}

function parseMessages(rules: Rules, model: ServedModel, body: Record<string, unknown>): GenerationRequest {
  const request = validate(rules, MessagesRequest, body);
  const format = () => new MessagesFormat({ model: model.name });
  return chatGeneration(model, chatOfMessages(request), format, systemOf(request));
}

function parseCompletion(rules: Rules, model: ServedModel, body: Record<string, unknown>): GenerationRequest {
  const request = validate(rules, CompletionRequest, body);
  const prompts = completionPrompts(request, model);
  const answers = request.n ?? 1;
  const candidates = Math.max(answers, request.best_of ?? answers);
  const refuse = (param: string, why: string) => new PelagicError("invalid_request", `${param}: ${why}`, { param });
  if ((request.best_of ?? answers) < answers) throw refuse("best_of", "must be n at least");
  if (request.stream && candidates > answers) throw refuse("best_of", "above n not with stream: the best is known at the end");
  if (prompts.length * candidates > httpLimits.answers)
    throw refuse("n", `at most ${httpLimits.answers} answers to one request, of all its prompts`);
  refuseStreamedPrompt(request);
  const logprobs = request.logprobs ?? undefined;
  const asked = [request.prompt_logprobs, request.echo ? logprobs : null].filter((count) => typeof count === "number");
  if (request.max_tokens === 0 && !request.echo && asked.length === 0) throw refuse("max_tokens", "0 only with echo or prompt_logprobs");
  return {
    common: request,
    prompts,
    promptField: "prompt",
    chat: false,
    wanted: wantedFormat(request),
    bannedWords: request.bad_words ?? undefined,
    answers,
    candidates,
    logprobs: logprobs ?? (candidates > answers ? 0 : undefined),
    promptTop: asked.length === 0 ? undefined : Math.max(...asked),
    askedTokens: request.max_tokens,
    askedTokensField: "max_tokens",
    thinkingTokens: undefined,
    format: (encoded) =>
      new CompletionFormat({
        ...formatOptions(model, "cmpl", request, encoded, logprobs !== undefined),
        prompts: encoded.map(({ tokens }) => tokens),
        top: logprobs ?? 0,
        echo: request.echo ? prompts.map((source, i) => promptText(model, request, source, encoded[i] as EncodedPrompt)) : null,
        perPrompt: answers,
      }),
  };
}

function formatOptions(
  model: ServedModel,
  prefix: string,
  request: CommonRequest,
  prompts: readonly EncodedPrompt[],
  logprobs: boolean,
): FormatOptions {
  return {
    head: {
      id: freshId(`${prefix}-`),
      created: Math.floor(Date.now() / 1000),
      model: model.name,
    },
    table: model.table,
    logprobs,
    promptLogprobs: request.prompt_logprobs ?? null,
    ...(request.return_token_ids ? { promptTokenIds: prompts.map(({ tokens }) => [...tokens]) } : {}),
    includeUsage: request.stream_options?.include_usage ?? false,
  };
}

function refuseStreamedPrompt({ stream, prompt_logprobs: asked }: CommonRequest): void {
  if (!stream || typeof asked !== "number") return;
  throw new PelagicError("invalid_request", "prompt_logprobs: not with stream: leave one of them out", { param: "prompt_logprobs" });
}

function promptText(model: ServedModel, request: CommonRequest, source: PromptSource, { tokens }: EncodedPrompt): string {
  if (!("tokens" in source) && source.job.kind === "text" && !request.truncate_prompt_tokens) return source.job.text;
  const { table } = model;
  return table === null ? "" : Buffer.from(table.bytesOfAll(tokens).buffer).toString();
}

function validate<S extends z.ZodObject>(rules: Rules, schema: S, body: Record<string, unknown>): z.output<S> {
  const request = parseBody(schema, body);
  if ("pelagic" in request && request.pelagic && !rules.debug) {
    throw new PelagicError("invalid_request", "pelagic: only where the gateway runs with PELAGIC_DEBUG=1: leave it out", {
      param: "pelagic",
    });
  }
  const unknown = unknownFields(schema, body).length;
  if (unknown > 0) rules.metrics.ignoredFields.inc(unknown);
  return request;
}
