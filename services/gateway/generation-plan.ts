// From a validated request to what is asked of the workers: prompt job, sampling, stops, lengths. Pure but for the seed drawn at admission.
import { createHash, randomBytes } from "node:crypto";
import { PelagicError } from "../lib/contracts/errors.ts";
import type { ChatCompletionRequest, ChatMessage, CompletionRequest } from "../lib/contracts/http.ts";
import type { Constraint, Sampling } from "../lib/contracts/messages.ts";
import type { TextFormat } from "../lib/grammar/text-format.ts";
import type { EncodedPrompt, PromptMessage } from "./prompt-encoder.ts";
import type { ServedModel } from "./served-model.ts";
import type { TokenizerJob } from "./tokenizer-pool.ts";

/** Below it every other token's probability is 0 in float32, or dividing by it overflows: greedy by another name. */
const greedyBelowTemperature = 1e-4;

/** The fields that chat and completions have in common, with the same meaning. */
type CommonRequest = Pick<CompletionRequest, Exclude<Extract<keyof CompletionRequest, keyof ChatCompletionRequest>, "logprobs">>;

export interface GenerationPlan {
  sampling: Sampling;
  constraint: Constraint | undefined;
  maxTokens: number;
  stops: string[];
  stopTokenIds: number[];
}

/** `bytes`: of all its text. */
export interface TextSource {
  job: TokenizerJob;
  bytes: number;
}
export type PromptSource = { tokens: Uint32Array } | TextSource;

type Conversation = Pick<ChatCompletionRequest, "messages" | "thinking" | "chat_template_kwargs">;

export function thinkingWanted(request: Omit<Conversation, "messages">): boolean {
  if (request.thinking) return request.thinking.type !== "disabled";
  const kwargs = request.chat_template_kwargs;
  return kwargs?.thinking ?? kwargs?.enable_thinking ?? true;
}

export function chatPrompt(request: Conversation, model: ServedModel): TextSource {
  if (model.table === null) {
    throw new PelagicError(
      "invalid_request",
      `the model ${model.name} has no tokenizer.json: use /v1/completions with token ids as the prompt`,
      {
        param: "messages",
      },
    );
  }
  const messages = request.messages.map(promptMessage);
  const bytes = messages.reduce((sum, message) => sum + Buffer.byteLength(message.content), 0);
  return { job: { kind: "chat", prompt: { messages, thinking: thinkingWanted(request) } }, bytes };
}

export function completionPrompt(request: CompletionRequest, model: ServedModel): PromptSource {
  const given = request.prompt;
  const prompt = Array.isArray(given) && typeof given[0] !== "number" ? (given[0] as string | number[]) : (given as string | number[]);
  if (typeof prompt === "string") {
    if (model.table === null) {
      throw new PelagicError("invalid_request", `the model ${model.name} has no tokenizer.json: give the prompt as token ids`, {
        param: "prompt",
      });
    }
    return { job: { kind: "text", text: prompt }, bytes: Buffer.byteLength(prompt) };
  }
  for (const id of prompt) checkTokenId(id, model, "prompt");
  return { tokens: Uint32Array.from(prompt) };
}

/** Refuses a text that cannot fit before it is tokenized: no token stands for more bytes than the longest. */
export function checkPromptBytes(bytes: number, model: ServedModel, maxPositions: number): void {
  const atLeast = Math.ceil(bytes / (model.table?.longestTokenBytes ?? 1));
  if (atLeast > maxPositions) throw tooLong(`at least ${atLeast} tokens in the prompt`, maxPositions);
}

export function planGeneration(
  request: CommonRequest,
  extra: { askedTokens: number | null | undefined; askedTokensField: string; logprobs: number | undefined },
  prompt: EncodedPrompt,
  model: ServedModel,
  limits: { maxPositions: number; defaultMaxTokens: number },
): GenerationPlan {
  const promptTokens = prompt.tokens.length;
  if (promptTokens === 0) throw new PelagicError("invalid_request", "the prompt is empty", { param: "prompt" });
  const room = limits.maxPositions - promptTokens;
  if (room < 1) throw tooLong(`${promptTokens} tokens in the prompt`, limits.maxPositions);
  const { askedTokens, askedTokensField } = extra;
  if (askedTokens !== null && askedTokens !== undefined && askedTokens > room) {
    throw tooLong(`${promptTokens} tokens in the prompt and ${askedTokens} in the answer`, limits.maxPositions, askedTokensField);
  }
  const constraint = constraintOf(prompt, model);
  // A constrained answer that is complete has nothing else to say.
  const stopTokenIds = new Set(request.ignore_eos === true && constraint === undefined ? [] : model.eosTokenIds);
  for (const id of request.stop_token_ids ?? []) {
    checkTokenId(id, model, "stop_token_ids");
    stopTokenIds.add(id);
  }
  return {
    sampling: { ...sampling(request, model), ...(extra.logprobs === undefined ? {} : { logprobs: extra.logprobs }) },
    maxTokens: askedTokens ?? Math.min(room, limits.defaultMaxTokens),
    stops: typeof request.stop === "string" ? [request.stop] : (request.stop ?? []),
    stopTokenIds: [...stopTokenIds],
    constraint,
  };
}

/** What the client asks the answer to be; undefined: anything. */
export function wantedFormat(request: CommonRequest): TextFormat | undefined {
  const { response_format: format, structured_outputs: structured } = request;
  if (format && format.type !== "text" && structured) {
    throw new PelagicError("invalid_request", "structured_outputs: not beside a response_format", { param: "structured_outputs" });
  }
  if (format?.type === "json_object") return { kind: "json-object" };
  if (format?.type === "json_schema")
    return { kind: "json-schema", schema: format.json_schema.schema ?? {}, param: "response_format.json_schema.schema" };
  if (!structured) return undefined;
  if (structured.json_object) return { kind: "json-object" };
  if (structured.choice) return { kind: "choice", choices: structured.choice };
  if (structured.regex) return { kind: "regex", pattern: structured.regex, param: "structured_outputs.regex" };
  return { kind: "json-schema", schema: parsedSchema(structured.json), param: "structured_outputs.json" };
}

/** Requests with equal salts may share cached blocks, and count as one tenant in the queues. Hashed: names travel no further. */
export function tenantSalt({ user_id: userId, cache_salt: salt }: Pick<CommonRequest, "user_id" | "cache_salt">): string {
  if (!userId && !salt) return "";
  return createHash("sha256")
    .update(JSON.stringify([userId ?? "", salt ?? ""]))
    .digest("hex")
    .slice(0, 32);
}

function parsedSchema(json: unknown): unknown {
  if (typeof json !== "string") return json;
  try {
    return JSON.parse(json);
  } catch {
    throw new PelagicError("invalid_request", "structured_outputs.json: this is no JSON", { param: "structured_outputs.json" });
  }
}

function constraintOf(prompt: EncodedPrompt, model: ServedModel): Constraint | undefined {
  if (prompt.grammar === undefined) return undefined;
  const afterToken = prompt.insideThink ? model.table?.addedTokenId("</think>") : null;
  const endTokenIds = model.eosTokenIds;
  if (afterToken === undefined || endTokenIds.length === 0) {
    const lacks = afterToken === undefined ? "no token </think>: only with thinking off" : "no end-of-sequence token";
    throw new PelagicError("invalid_request", `response_format: the model ${model.name} has ${lacks}`, { param: "response_format" });
  }
  return { grammar: prompt.grammar, afterToken, endTokenIds };
}

function sampling(request: CommonRequest, model: ServedModel): Sampling {
  const defaults = model.samplingDefaults;
  const temperature = request.temperature ?? defaults.temperature;
  const topK = request.top_k ?? defaults.topK ?? 0;
  const topP = request.top_p ?? defaults.topP ?? 1;
  const repetitionPenalty = request.repetition_penalty ?? defaults.repetitionPenalty ?? 1;
  const bias = Object.entries(request.logit_bias ?? {}).map(([id, value]): [number, number] => [Number(id), value]);
  for (const [id] of bias) checkTokenId(id, model, "logit_bias");
  return {
    temperature: temperature < greedyBelowTemperature ? 0 : temperature,
    seed: seed(request.seed),
    choice: 0,
    ...(topK > 0 ? { topK } : {}),
    ...(topP < 1 ? { topP } : {}),
    ...(request.min_p ? { minP: request.min_p } : {}),
    ...(repetitionPenalty === 1 ? {} : { repetitionPenalty }),
    ...(request.presence_penalty ? { presencePenalty: request.presence_penalty } : {}),
    ...(request.frequency_penalty ? { frequencyPenalty: request.frequency_penalty } : {}),
    ...(bias.length > 0 ? { logitBias: bias } : {}),
  };
}

/** 64 bits in decimal; drawn here where the client gave none, so that a request that moves keeps its noise. */
function seed(given: number | null | undefined): string {
  if (given === null || given === undefined) return randomBytes(8).readBigUInt64LE().toString();
  return BigInt.asUintN(64, BigInt(given)).toString();
}

function promptMessage(message: ChatMessage): PromptMessage {
  const content = message.content ?? "";
  return {
    role: message.role === "developer" ? "system" : message.role,
    content: typeof content === "string" ? content : content.map((part) => part.text).join(""),
  };
}

export function checkTokenId(id: number, model: ServedModel, param: string): void {
  if (id >= model.vocabularySize) {
    throw new PelagicError("invalid_request", `${param}: ${id} is no token id of this model, which has ${model.vocabularySize}`, {
      param,
    });
  }
}

function tooLong(what: string, maxPositions: number, param?: string): PelagicError {
  return new PelagicError("context_length_exceeded", `this model's context is ${maxPositions} tokens; the request has ${what}`, { param });
}
