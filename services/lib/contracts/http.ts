// The HTTP bodies of the gateway: what it accepts, within which limits, and what it answers. openapi.ts is generated from these.
//
// Three kinds of request field: honoured (described here), `ignored` (accepted, without effect) and refused (declared so narrowly that
// only the value that changes nothing passes, with an error that names the field). Fields nobody knows are accepted and counted.
import { z } from "zod";

import {
  anything,
  exactlyOne,
  httpLimits,
  instead,
  isolation,
  noneOf,
  nothing,
  only,
  refused,
  replacedBy,
  schema,
  stopString,
  text,
  tokenId,
  tokenIdTitle,
  toolName,
  unsupported,
} from "./http-fields.ts";

const keptSchema =
  "Kept by construction, strict or not. A keyword that cannot be is refused by name with strict: true; without, the header x-pelagic-not-kept names it.";
const ResponseFormat = z.discriminatedUnion(
  "type",
  [
    z.looseObject({ type: z.literal("text") }),
    z.looseObject({ type: z.literal("json_object") }).describe("Any JSON object."),
    z.looseObject({
      type: z.literal("json_schema"),
      json_schema: z
        .looseObject({ name: z.string().max(256).nullish(), schema: schema.nullish(), strict: z.boolean().nullish() })
        .describe(keptSchema),
    }),
  ],
  { error: "type must be text, json_object or json_schema" },
);
const StructuredOutputs = z
  .strictObject({
    json: z.union([z.string(), schema]).nullish(),
    regex: z.string().min(1).max(httpLimits.stopCharacters).nullish(),
    choice: z.array(z.string().min(1).max(httpLimits.stopCharacters)).min(1).max(httpLimits.choices).nullish(),
    json_object: z.boolean().nullish(),
  })
  .refine((one) => Object.values(one).filter((value) => value !== null && value !== undefined && value !== false).length === 1, {
    error: "exactly one of json, regex, choice and json_object",
  })
  .meta(exactlyOne("json", "regex", "choice", "json_object"));

/** Sampling, stopping and reporting: the fields that chat and completions share. */
const generationFields = {
  model: z.string().min(1).max(256).describe("Name of a served model, as GET /v1/models lists them."),
  stream: z.boolean().nullish(),
  stream_options: z
    .looseObject({
      include_usage: z.boolean().nullish(),
      continuous_usage_stats: z.boolean().nullish().describe("vLLM's: with include_usage, the usage so far in every chunk."),
    })
    .nullish(),
  n: z.number().int().min(1).max(httpLimits.answers).nullish().describe("Answers to each prompt, of one seed and each its own noise."),
  max_tokens: z.number().int().min(1).max(httpLimits.tokenId).nullish().describe("New tokens at most, reasoning included."),
  temperature: z.number().min(0).max(2).nullish().describe("0 takes the most likely token; so does anything below 0.0001."),
  // This and the repetition penalty have lower bounds that workers, which count in float32, can still tell from 0.
  top_p: z.number().min(1e-6).max(1).nullish(),
  top_k: z.number().int().min(-1).max(httpLimits.tokenId).nullish().describe("0 or -1: off."),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().min(0.01).max(10).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  logit_bias: z
    .record(z.string(), z.number().min(-100).max(100))
    .refine((bias) => Object.keys(bias).every((key) => /^\d{1,10}$/.test(key)), { error: "keys are token ids in decimal" })
    .refine((bias) => Object.keys(bias).length <= httpLimits.logitBias, { error: `at most ${httpLimits.logitBias} entries` })
    .meta({ propertyNames: { pattern: "^[0-9]{1,10}$" }, maxProperties: httpLimits.logitBias })
    .nullish(),
  seed: z
    .custom<number | bigint>((value) => typeof value === "bigint" || Number.isSafeInteger(value), { error: "an integer" })
    .meta({ type: "integer" })
    .nullish()
    .describe("Any integer, modulo 2^64. Drawn at random when missing; the same seed gives the same answer."),
  stop: z
    .union([stopString, z.array(stopString).max(httpLimits.stops)], {
      error: `a non-empty string of at most ${httpLimits.stopCharacters} characters, an array of up to ${httpLimits.stops} of them, or null`,
    })
    .nullish()
    .describe("Ends the answer before any of these; not looked for in the reasoning."),
  stop_token_ids: z.array(tokenId).max(httpLimits.stopTokenIds).nullish(),
  ignore_eos: z.boolean().nullish(),
  min_tokens: z.number().int().min(0).max(httpLimits.tokenId).nullish().describe("No stop token comes before; stop strings may."),
  bad_words: z.array(stopString).max(httpLimits.bannedWords).nullish().describe("vLLM's: no answer has one of these."),
  allowed_token_ids: z.array(tokenId).min(1).max(httpLimits.allowedTokenIds).nullish().describe("vLLM's: nothing else is generated."),
  include_stop_str_in_output: z.boolean().nullish(),
  skip_special_tokens: z.boolean().nullish().describe("False: special tokens of the answer are part of its text. Default: true."),
  truncate_prompt_tokens: z.number().int().min(1).max(httpLimits.tokenId).nullish().describe("Only the last so many tokens of the prompt."),
  response_format: ResponseFormat.nullish().describe("What the answer is; the reasoning before it is free."),
  structured_outputs: StructuredOutputs.nullish().describe("As vLLM has it."),
  user_id: isolation
    .nullish()
    .describe("DeepSeek's: requests of different users share no cached blocks, and queue fairly beside each other."),
  cache_salt: isolation.nullish().describe("vLLM's, to the same effect; both together are one more user."),
  priority: z
    .number()
    .int()
    .nullish()
    .describe("vLLM's, lower first: each step from 0 is a class (high, normal, low) from the API key's own, as far as the key allows."),
  return_token_ids: z.boolean().nullish().describe("Report prompt_token_ids and token_ids."),
  pelagic: z.strictObject({ digests: z.boolean().optional() }).nullish().describe("Only with PELAGIC_DEBUG=1: digests of the logits rows."),
  prompt_logprobs: z
    .number()
    .int()
    .min(0)
    .max(20)
    .nullish()
    .describe("vLLM's: how likely each token of the prompt was, and so many of the most likely beside it. Not streamed."),
  // Refused.
  kv_transfer_params: nothing(),
  use_beam_search: only(false),
  length_penalty: only(1),
  // vLLM's old names.
  guided_json: replacedBy("structured_outputs.json"),
  guided_regex: replacedBy("structured_outputs.regex"),
  guided_choice: replacedBy("structured_outputs.choice"),
  guided_json_object: z.literal(false, instead("structured_outputs.json_object")).nullish(),
  guided_grammar: nothing(),
  guided_whitespace_pattern: nothing(),
};

/** Accepted without effect. */
const ignored = {
  user: anything,
  metadata: anything,
  store: anything,
  service_tier: anything,
  safety_identifier: anything,
  prompt_cache_key: anything,
  prompt_cache_retention: anything,
  request_id: anything,
  session_id: anything,
  stream_interval: anything,
};

const TextPart = z.object({ type: z.literal("text", { error: "only text parts are supported" }), text });
const RefusalPart = z.object({ type: z.literal("refusal"), refusal: text });
const content = z.union([text, z.array(TextPart).max(httpLimits.contentParts)], { error: "a string or an array of text parts" });

const Tool = z.looseObject({
  type: z.literal("function", { error: "only functions are supported" }),
  function: z.looseObject({
    name: toolName,
    description: text.nullish(),
    parameters: schema.nullish().describe(keptSchema),
    strict: z.boolean().nullish(),
  }),
});
export type Tool = z.infer<typeof Tool>;
const tools = z.array(Tool).max(httpLimits.tools).nullish();
const ToolChoice = z.union(
  [z.enum(["none", "auto", "required"]), z.looseObject({ type: z.literal("function"), function: z.looseObject({ name: z.string() }) })],
  {
    error: 'none, auto, required, or {"type": "function", "function": {"name": ...}}',
  },
);
const ToolCallInput = z.looseObject({
  id: z.string().max(256).nullish(),
  type: z.literal("function", { error: "only functions are supported" }).nullish(),
  function: z.looseObject({ name: toolName, arguments: text.nullish() }),
});
const templateKwargs = z
  .looseObject({ thinking: z.boolean().nullish(), enable_thinking: z.boolean().nullish() })
  .refine((kwargs) => Object.keys(kwargs).length <= httpLimits.templateKwargs, { error: `at most ${httpLimits.templateKwargs} entries` })
  .meta({ maxProperties: httpLimits.templateKwargs })
  .nullish()
  .describe("Variables for the model's chat template.");

export const ChatMessage = z.discriminatedUnion(
  "role",
  [
    z.object({ role: z.literal("system"), content }),
    z.object({ role: z.literal("developer"), content }).describe("Treated as system."),
    z.object({ role: z.literal("user"), content }),
    z
      .object({
        role: z.literal("assistant"),
        content: z
          .union([text, z.array(z.discriminatedUnion("type", [TextPart, RefusalPart])).max(httpLimits.contentParts)], {
            error: "a string or an array of parts of type text or refusal",
          })
          .nullish(),
        reasoning_content: text
          .nullish()
          .describe("Left out of the prompt, but for a prefix and where the model's chat template wants it."),
        reasoning: text.nullish().describe("vLLM's name of it."),
        tool_calls: z.array(ToolCallInput).max(httpLimits.tools).nullish(),
        prefix: z.boolean().nullish().describe("DeepSeek's, on the last message: the answer goes on from here. On earlier ones: it did."),
      })
      .refine((message) => !(message.prefix && message.tool_calls?.length), { error: "not beside tool_calls", path: ["prefix"] })
      .meta({
        not: { required: ["prefix", "tool_calls"], properties: { prefix: { const: true }, tool_calls: { type: "array", minItems: 1 } } },
      }),
    z.object({ role: z.literal("tool"), content, tool_call_id: z.string().max(256) }).describe("What a tool call gave."),
  ],
  { error: "role must be system, developer, user, assistant or tool" },
);
export type ChatMessage = z.infer<typeof ChatMessage>;
/** A prefix alone is refused where the prompt is made. */
const messages = z
  .array(ChatMessage)
  .min(1, { error: "at least one message is needed" })
  .max(httpLimits.messages)
  .meta({
    not: { maxItems: 1, contains: { required: ["role", "prefix"], properties: { role: { const: "assistant" }, prefix: { const: true } } } },
  });

/** Of a conversation, how its prompt is made. */
const thinkingFields = {
  thinking: z.looseObject({ type: z.enum(["enabled", "disabled", "adaptive"]) }).nullish(),
  reasoning_effort: z
    .enum(["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"])
    .nullish()
    .describe("none: no thinking. Others are low, high or max (DeepSeek's map) to a chat template that asks."),
};
const turnFields = {
  chat_template_kwargs: templateKwargs,
  continue_final_message: z.boolean().nullish().describe("vLLM's: the last message, the assistant's, is where the answer goes on."),
  add_generation_prompt: z
    .boolean()
    .nullish()
    .describe("vLLM's. False: the prompt ends with the last message, and no answer is begun. Default: true."),
};

export const ChatCompletionRequest = z.object({
  ...generationFields,
  messages,
  max_completion_tokens: z.number().int().min(1).max(httpLimits.tokenId).nullish().describe("Wins over max_tokens."),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.number().int().min(0).max(20).nullish(),
  ...thinkingFields,
  thinking_token_budget: z
    .number()
    .int()
    .min(0)
    .max(httpLimits.tokenId)
    .nullish()
    .describe("vLLM's: the reasoning ends after so many tokens."),
  include_reasoning: z.boolean().nullish().describe("vLLM's. False: the reasoning is left out of the answer. Default: true."),
  ...turnFields,
  tools,
  tool_choice: ToolChoice.nullish().describe("Default: auto where there are tools. Calls are valid by construction."),
  parallel_tool_calls: z.boolean().nullish().describe("False: one call at most. Default: true."),
  // Refused.
  functions: noneOf(),
  function_call: refused(z.enum(["none", "auto"], unsupported())),
  modalities: refused(z.array(z.literal("text", unsupported("a modality other than text")))),
  audio: nothing(),
  prediction: nothing(),
  web_search_options: nothing(),
  moderation: nothing(),
  chat_template: nothing(),
  documents: noneOf(),
  ...ignored,
  verbosity: anything,
});
export type ChatCompletionRequest = z.infer<typeof ChatCompletionRequest>;

export type Prompt = string | number[];
// Checked by hand: a schema takes seconds over millions of ids.
function areTokenIds(value: unknown): value is number[] {
  if (!Array.isArray(value) || value.length > httpLimits.promptTokens) return false;
  return value.every((id) => Number.isInteger(id) && id >= 0 && id <= httpLimits.tokenId);
}
function isPrompt(value: unknown): value is Prompt {
  return typeof value === "string" ? value.length <= httpLimits.textCharacters : areTokenIds(value) && value.length > 0;
}
function arePrompts(value: unknown): value is Prompt | string[] | number[][] {
  if (!Array.isArray(value) || typeof value[0] === "number") return isPrompt(value);
  return (
    value.length > 0 && value.length <= httpLimits.answers && value.every(isPrompt) && new Set(value.map((one) => typeof one)).size === 1
  );
}
const textJsonSchema = { type: "string", maxLength: httpLimits.textCharacters };
const anyIdsJsonSchema = {
  type: "array",
  items: { type: "integer", title: tokenIdTitle, minimum: 0, maximum: httpLimits.tokenId },
  maxItems: httpLimits.promptTokens,
};
const idsJsonSchema = { ...anyIdsJsonSchema, minItems: 1 };
const promptJsonSchema = {
  anyOf: [
    textJsonSchema,
    idsJsonSchema,
    { type: "array", items: textJsonSchema, minItems: 1, maxItems: httpLimits.answers },
    { type: "array", items: idsJsonSchema, minItems: 1, maxItems: httpLimits.answers },
  ],
};

export const CompletionRequest = z.object({
  ...generationFields,
  prompt: z
    .custom<Prompt | string[] | number[][]>(arePrompts, {
      error: `a string, an array of token ids, or an array of up to ${httpLimits.answers} of either`,
    })
    .describe("Text, in which the tokenizer's special tokens are recognised, or token ids; or several of one kind.")
    .meta(promptJsonSchema),
  logprobs: z.number().int().min(0).max(20).nullish(),
  max_tokens: z
    .number()
    .int()
    .min(0)
    .max(httpLimits.tokenId)
    .nullish()
    .describe("New tokens at most; 0 with echo or prompt_logprobs only: the prompt is all that is asked about."),
  best_of: z
    .number()
    .int()
    .min(1)
    .max(httpLimits.answers)
    .nullish()
    .describe("So many answers are made, and the n with the highest mean log probability of a token are given. Not streamed."),
  echo: z.boolean().nullish().describe("The prompt comes before the answer, with its own logprobs where they are asked for."),
  // Refused.
  suffix: refused(z.literal("", unsupported())),
  ...ignored,
});
export type CompletionRequest = z.infer<typeof CompletionRequest>;

const ofModel = { model: z.string().min(1).max(256).nullish() };
const tokenStrings = { return_token_strs: z.boolean().nullish() };

/** vLLM's: exactly one of `prompt` and `messages`. */
export const TokenizeRequest = z
  .object({
    ...ofModel,
    ...tokenStrings,
    prompt: text.nullish(),
    messages: messages.nullish(),
    add_special_tokens: z
      .boolean()
      .nullish()
      .describe("Of a prompt: begin with the beginning of sentence, where the model wants one. Default: true."),
    ...thinkingFields,
    ...turnFields,
    tools,
    // Refused.
    chat_template: nothing(),
  })
  .refine((body) => (typeof body.prompt === "string") !== Array.isArray(body.messages), {
    error: "exactly one of prompt and messages",
    path: ["prompt"],
  })
  .meta(exactlyOne("prompt", "messages"));
export type TokenizeRequest = z.infer<typeof TokenizeRequest>;

export const Tokenized = z.object({
  count: z.number().int(),
  max_model_len: z.number().int().nullable(),
  tokens: z.array(z.number().int()),
  token_strs: z.array(z.string()).nullable(),
});
export type Tokenized = z.infer<typeof Tokenized>;

export const DetokenizeRequest = z.object({
  ...ofModel,
  tokens: z.custom<number[]>(areTokenIds, { error: "an array of token ids" }).meta(anyIdsJsonSchema),
});
export const Detokenized = z.object({ prompt: z.string() });
export type Detokenized = z.infer<typeof Detokenized>;

export const Usage = z.object({
  prompt_tokens: z.number().int(),
  completion_tokens: z.number().int(),
  total_tokens: z.number().int(),
  prompt_tokens_details: z.object({ cached_tokens: z.number().int() }),
  completion_tokens_details: z.object({ reasoning_tokens: z.number().int() }),
  prompt_cache_hit_tokens: z.number().int(),
  prompt_cache_miss_tokens: z.number().int(),
});
export type Usage = z.infer<typeof Usage>;

const alternative = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.number().int()) });
export const TokenLogprob = alternative.extend({ top_logprobs: z.array(alternative) });
export type TokenLogprob = z.infer<typeof TokenLogprob>;

export const ChatLogprobs = z.object({ content: z.array(TokenLogprob), reasoning_content: z.array(TokenLogprob).optional() });
export type ChatLogprobs = z.infer<typeof ChatLogprobs>;

export const CompletionLogprobs = z.object({
  tokens: z.array(z.string()),
  /** null: the prompt's first token, which has nothing before it. */
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.number().int()),
});
export type CompletionLogprobs = z.infer<typeof CompletionLogprobs>;

/** vLLM's: of each token of the prompt, by token id in decimal; the first has none. */
export const PromptLogprobs = z.array(
  z.record(z.string(), z.object({ logprob: z.number(), rank: z.number().int(), decoded_token: z.string().nullable() })).nullable(),
);
export type PromptLogprobs = z.infer<typeof PromptLogprobs>;

const finishReason = z.enum(["stop", "length", "tool_calls"]);
const ToolCall = z.object({ id: z.string(), type: z.literal("function"), function: z.object({ name: z.string(), arguments: z.string() }) });
export type ToolCall = z.infer<typeof ToolCall>;
/** The first of a call has id, type and name; further ones a piece of its arguments. */
const ToolCallDelta = z.object({
  index: z.number().int(),
  id: z.string().optional(),
  type: z.literal("function").optional(),
  function: z.object({ name: z.string().optional(), arguments: z.string() }),
});
/** On request: ids (return_token_ids) and digests (pelagic.digests). */
const tokenReports = { token_ids: z.array(z.number().int()).optional(), logits_digests: z.array(z.string()).optional() };

export const ChatCompletion = z.object({
  id: z.string(),
  object: z.literal("chat.completion"),
  created: z.number().int(),
  model: z.string(),
  prompt_token_ids: z.array(z.number().int()).optional(),
  prompt_logprobs: PromptLogprobs.optional(),
  choices: z.array(
    z.object({
      index: z.number().int(),
      message: z.object({
        role: z.literal("assistant"),
        content: z.string().nullable(),
        reasoning_content: z.string().optional(),
        tool_calls: z.array(ToolCall).optional(),
        refusal: z.null(),
      }),
      logprobs: ChatLogprobs.nullable(),
      finish_reason: finishReason,
      ...tokenReports,
    }),
  ),
  usage: Usage,
});
export type ChatCompletion = z.infer<typeof ChatCompletion>;

export const ChatCompletionChunk = z.object({
  id: z.string(),
  object: z.literal("chat.completion.chunk"),
  created: z.number().int(),
  model: z.string(),
  prompt_token_ids: z.array(z.number().int()).optional(),
  choices: z.array(
    z.object({
      index: z.number().int(),
      delta: z.object({
        role: z.literal("assistant").optional(),
        content: z.string().optional(),
        reasoning_content: z.string().optional(),
        tool_calls: z.array(ToolCallDelta).optional(),
      }),
      logprobs: ChatLogprobs.nullable(),
      finish_reason: finishReason.nullable(),
      ...tokenReports,
    }),
  ),
  usage: Usage.nullish(),
});
export type ChatCompletionChunk = z.infer<typeof ChatCompletionChunk>;

const completionShape = {
  id: z.string(),
  object: z.literal("text_completion"),
  created: z.number().int(),
  model: z.string(),
  prompt_token_ids: z.array(z.number().int()).optional(),
};
const completionChoice = {
  index: z.number().int(),
  text: z.string(),
  logprobs: CompletionLogprobs.nullable(),
  /** Where the request has several prompts. */
  prompt_token_ids: z.array(z.number().int()).optional(),
  ...tokenReports,
};

export const Completion = z.object({
  ...completionShape,
  choices: z.array(z.object({ ...completionChoice, finish_reason: finishReason, prompt_logprobs: PromptLogprobs.optional() })),
  usage: Usage,
});
export type Completion = z.infer<typeof Completion>;

export const CompletionChunk = z.object({
  ...completionShape,
  choices: z.array(z.object({ ...completionChoice, finish_reason: finishReason.nullable() })),
  usage: Usage.nullish(),
});
export type CompletionChunk = z.infer<typeof CompletionChunk>;

export const Model = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: z.number().int(),
  owned_by: z.string(),
  root: z.string(),
  parent: z.null(),
  max_model_len: z.number().int().nullable(),
});
export type Model = z.infer<typeof Model>;

export const ModelList = z.object({ object: z.literal("list"), data: z.array(Model) });
export type ModelList = z.infer<typeof ModelList>;

export const ErrorBody = z.object({
  error: z.object({ message: z.string(), type: z.string(), param: z.string().nullable(), code: z.string() }),
});
export type ErrorBody = z.infer<typeof ErrorBody>;

export const Health = z.object({ status: z.literal("ok") });
export const Ready = z.object({
  status: z.literal("ready"),
  waits_for: z.string().optional().meta({ description: "What is still to come before any model can answer." }),
});
export type Ready = z.infer<typeof Ready>;
export const Version = z.object({ name: z.literal("pelagic"), version: z.string() });

/** Where a request body departs from its schema: the field, as a client writes it (`messages[0].content`), and what is wrong. */
export function firstIssue(error: z.ZodError): { param: string; message: string } {
  const issue = error.issues[0];
  if (issue === undefined) return { param: "", message: "invalid" };
  const { path, message } = deepest(issue);
  const param = path.map((key, index) => (typeof key === "number" ? `[${key}]` : index === 0 ? String(key) : `.${String(key)}`)).join("");
  return { param, message: param === "" ? message : `${param}: ${message}` };
}

/** Of a union's branches the one that went furthest says what is wrong: it is the one that was meant. */
function deepest(issue: z.core.$ZodIssue): { path: readonly PropertyKey[]; message: string } {
  const branches = issue.code === "invalid_union" ? issue.errors : [];
  const found = branches.flatMap(([first]) => (first === undefined ? [] : [deepest(first)]));
  const furthest = found.reduce((best, one) => (one.path.length >= best.path.length ? one : best), {
    path: [],
    message: "",
  } as (typeof found)[0]);
  if (furthest.path.length === 0) return { path: issue.path, message: isMissing(issue) ? `missing: ${issue.expected}` : issue.message };
  return { path: [...issue.path, ...furthest.path], message: furthest.message };
}

function isMissing(issue: z.core.$ZodIssue): issue is z.core.$ZodIssueInvalidType {
  return issue.code === "invalid_type" && issue.message.endsWith("received undefined");
}

/**
 * The first list or record in a body that is too long to be looked at, or null. Comes before the schema, which would describe the fault
 * of every element.
 */
export function oversizedField(body: Record<string, unknown>): string | null {
  let parts = 0;
  for (const [name, value] of Object.entries(body)) {
    // Both are as long as a prompt may be, and looked at by hand.
    if (typeof value !== "object" || value === null || name === "prompt" || name === "tokens") continue;
    if ((Array.isArray(value) ? value : Object.keys(value)).length > httpLimits.messages) return name;
    if (name !== "messages" || !Array.isArray(value)) continue;
    for (const [index, message] of (value as unknown[]).entries()) {
      const content = (message as { content?: unknown } | null)?.content;
      if (Array.isArray(content)) parts += content.length;
      if (parts > httpLimits.contentParts) return `messages[${index}].content`;
    }
  }
  return null;
}

/** Names in a body that its schema does not have. */
export function unknownFields(schema: z.ZodObject, body: object): string[] {
  return Object.keys(body).filter((name) => !Object.hasOwn(schema.shape, name));
}
