// The HTTP bodies of the gateway: what it accepts, within which limits, and what it answers. openapi.ts is generated from these.
//
// Three kinds of request field: honoured (described here), `ignored` (accepted, without effect) and refused (declared so narrowly that
// only the value that changes nothing passes, with an error that names the field). Fields nobody knows are accepted and counted.
import { z } from "zod";

export const httpLimits = {
  messages: 10_000,
  contentParts: 10_000,
  textCharacters: 16_000_000,
  promptTokens: 4_000_000,
  stops: 16,
  stopCharacters: 1_024,
  stopTokenIds: 256,
  logitBias: 1_024,
  choices: 1_024,
  isolationCharacters: 512,
  tokenId: 2 ** 31 - 1,
} as const;

const text = z.string().max(httpLimits.textCharacters);
const tokenId = z.number().int().min(0).max(httpLimits.tokenId);

/** A field whose effect we do not have: passes only as null or as a value that asks for nothing. */
function refused<S extends z.ZodType>(harmless: S): z.ZodOptional<z.ZodNullable<S>> {
  return harmless.nullish();
}
const unsupported = (what: string) => ({ error: `${what} is not supported by this server: leave it out` });
const noneOf = (what: string) => refused(z.array(z.unknown(), unsupported(what)).max(0, unsupported(what)));
const nothing = (what: string) => z.null(unsupported(what)).optional();
const only = <const V extends string | number | boolean>(value: V, what: string) => refused(z.literal(value, unsupported(what)));

const wellFormed = (value: string) => !/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(value);
const stopString = z
  .string()
  .min(1, { error: "a stop string cannot be empty" })
  .max(httpLimits.stopCharacters)
  .refine(wellFormed, { error: "a stop string must be valid Unicode" });

const schema = z.union([z.boolean(), z.record(z.string(), z.unknown())], { error: "a JSON schema: an object or a boolean" });
const isolation = z.string().max(httpLimits.isolationCharacters);
const ResponseFormat = z.discriminatedUnion(
  "type",
  [
    z.looseObject({ type: z.literal("text") }),
    z.looseObject({ type: z.literal("json_object") }).describe("Any JSON object."),
    z.looseObject({
      type: z.literal("json_schema"),
      json_schema: z
        .looseObject({ name: z.string().max(256).nullish(), schema: schema.nullish(), strict: z.boolean().nullish() })
        .describe("Kept by construction, strict or not; a keyword that cannot be is refused by name."),
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
  });

/** Sampling, stopping and reporting: the fields that chat and completions share. */
const generationFields = {
  model: z.string().min(1).max(256).describe("Name of the served model, as GET /v1/models lists it."),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
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
    .nullish(),
  seed: z.number().int().nullish().describe("Drawn at random when missing; the same seed gives the same answer."),
  stop: z
    .union([stopString, z.array(stopString).max(httpLimits.stops)], {
      error: `a non-empty string of at most ${httpLimits.stopCharacters} characters, an array of up to ${httpLimits.stops} of them, or null`,
    })
    .nullish()
    .describe("Ends the answer before any of these; not looked for in the reasoning."),
  stop_token_ids: z.array(tokenId).max(httpLimits.stopTokenIds).nullish(),
  ignore_eos: z.boolean().nullish(),
  response_format: ResponseFormat.nullish().describe("What the answer is; the reasoning before it is free."),
  structured_outputs: StructuredOutputs.nullish().describe("As vLLM has it."),
  user_id: isolation
    .nullish()
    .describe("DeepSeek's: requests of different users share no cached blocks, and queue fairly beside each other."),
  cache_salt: isolation.nullish().describe("vLLM's, to the same effect; both together are one more user."),
  return_token_ids: z.boolean().nullish().describe("Report prompt_token_ids and token_ids."),
  pelagic: z.strictObject({ digests: z.boolean().optional() }).nullish().describe("Only with PELAGIC_DEBUG=1: digests of the logits rows."),
  // Refused.
  n: only(1, "more than one choice (n)"),
  min_tokens: only(0, "min_tokens"),
  bad_words: noneOf("bad_words"),
  allowed_token_ids: nothing("allowed_token_ids"),
  prompt_logprobs: nothing("prompt_logprobs"),
  truncate_prompt_tokens: nothing("truncate_prompt_tokens"),
  include_stop_str_in_output: only(false, "include_stop_str_in_output"),
  skip_special_tokens: only(true, "skip_special_tokens: false"),
  thinking_token_budget: nothing("thinking_token_budget"),
  kv_transfer_params: nothing("kv_transfer_params"),
};

/** Accepted without effect. */
const anything = z.unknown().optional();
const ignored = {
  user: anything,
  metadata: anything,
  store: anything,
  service_tier: anything,
  safety_identifier: anything,
  prompt_cache_key: anything,
  prompt_cache_retention: anything,
  priority: anything,
  request_id: anything,
  session_id: anything,
  stream_interval: anything,
};

const TextPart = z.object({ type: z.literal("text", { error: "only text parts are supported" }), text });
const content = z.union([text, z.array(TextPart).max(httpLimits.contentParts)], { error: "a string or an array of text parts" });

export const ChatMessage = z.discriminatedUnion(
  "role",
  [
    z.object({ role: z.literal("system"), content }),
    z.object({ role: z.literal("developer"), content }).describe("Treated as system."),
    z.object({ role: z.literal("user"), content }),
    z.object({
      role: z.literal("assistant"),
      content: content.nullish(),
      reasoning_content: text.nullish().describe("Accepted and left out of the prompt."),
      tool_calls: noneOf("tool_calls"),
      prefix: only(false, "prefix completion"),
    }),
  ],
  { error: "role must be system, developer, user or assistant (tool messages are not supported by this server)" },
);
export type ChatMessage = z.infer<typeof ChatMessage>;

export const ChatCompletionRequest = z.object({
  ...generationFields,
  messages: z.array(ChatMessage).min(1, { error: "at least one message is needed" }).max(httpLimits.messages),
  max_completion_tokens: z.number().int().min(1).max(httpLimits.tokenId).nullish().describe("Wins over max_tokens."),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.number().int().min(0).max(20).nullish(),
  thinking: z.looseObject({ type: z.enum(["enabled", "disabled", "adaptive"]) }).nullish(),
  chat_template_kwargs: z.looseObject({ thinking: z.boolean().nullish(), enable_thinking: z.boolean().nullish() }).nullish(),
  // Refused.
  tools: noneOf("tools"),
  tool_choice: refused(z.enum(["none", "auto"], unsupported("tool_choice"))),
  functions: noneOf("functions"),
  function_call: refused(z.enum(["none", "auto"], unsupported("function_call"))),
  modalities: refused(z.array(z.literal("text", unsupported("a modality other than text")))),
  audio: nothing("audio"),
  prediction: nothing("prediction"),
  web_search_options: nothing("web_search_options"),
  moderation: nothing("moderation"),
  continue_final_message: only(false, "continue_final_message"),
  add_generation_prompt: only(true, "add_generation_prompt: false"),
  include_reasoning: only(true, "include_reasoning: false"),
  ...ignored,
  parallel_tool_calls: anything,
  reasoning_effort: anything,
  verbosity: anything,
});
export type ChatCompletionRequest = z.infer<typeof ChatCompletionRequest>;

// Checked by hand: a schema would look at each of a million ids through four alternatives.
function isPrompt(value: unknown): value is string | number[] | [string] | [number[]] {
  const single = Array.isArray(value) && value.length === 1 && typeof value[0] !== "number" ? (value[0] as unknown) : value;
  if (typeof single === "string") return single.length <= httpLimits.textCharacters;
  if (!Array.isArray(single) || single.length === 0 || single.length > httpLimits.promptTokens) return false;
  return single.every((id) => Number.isInteger(id) && id >= 0 && id <= httpLimits.tokenId);
}
const promptJsonSchema = {
  anyOf: [
    { type: "string", maxLength: httpLimits.textCharacters },
    { type: "array", items: { type: "integer", minimum: 0, maximum: httpLimits.tokenId }, minItems: 1, maxItems: httpLimits.promptTokens },
    { type: "array", items: { type: "string", maxLength: httpLimits.textCharacters }, minItems: 1, maxItems: 1 },
    {
      type: "array",
      items: {
        type: "array",
        items: { type: "integer", minimum: 0, maximum: httpLimits.tokenId },
        minItems: 1,
        maxItems: httpLimits.promptTokens,
      },
      minItems: 1,
      maxItems: 1,
    },
  ],
};

export const CompletionRequest = z.object({
  ...generationFields,
  prompt: z
    .custom<string | number[] | [string] | [number[]]>(isPrompt, {
      error: "a string or an array of token ids; several prompts in one request are not supported by this server",
    })
    .describe("Text, in which the tokenizer's special tokens are recognised, or token ids.")
    .meta(promptJsonSchema),
  logprobs: z.number().int().min(0).max(20).nullish(),
  // Refused.
  best_of: only(1, "best_of"),
  echo: only(false, "echo"),
  suffix: refused(z.literal("", unsupported("suffix"))),
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
    messages: z.array(ChatMessage).min(1).max(httpLimits.messages).nullish(),
    add_special_tokens: z
      .boolean()
      .nullish()
      .describe("Of a prompt: begin with the beginning of sentence, where the model wants one. Default: true."),
    chat_template_kwargs: z.looseObject({ thinking: z.boolean().nullish(), enable_thinking: z.boolean().nullish() }).nullish(),
    add_generation_prompt: only(true, "add_generation_prompt: false"),
    tools: noneOf("tools"),
  })
  .refine((body) => (typeof body.prompt === "string") !== Array.isArray(body.messages), { error: "exactly one of prompt and messages" });
export type TokenizeRequest = z.infer<typeof TokenizeRequest>;

export const Tokenized = z.object({
  count: z.number().int(),
  max_model_len: z.number().int().nullable(),
  tokens: z.array(z.number().int()),
  token_strs: z.array(z.string()).nullable(),
});
export type Tokenized = z.infer<typeof Tokenized>;

export const DetokenizeRequest = z.object({ ...ofModel, tokens: z.array(tokenId).max(httpLimits.promptTokens) });
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
  token_logprobs: z.array(z.number()),
  top_logprobs: z.array(z.record(z.string(), z.number())),
  text_offset: z.array(z.number().int()),
});
export type CompletionLogprobs = z.infer<typeof CompletionLogprobs>;

const finishReason = z.enum(["stop", "length"]);
/** On request: ids (return_token_ids) and digests (pelagic.digests). */
const tokenReports = { token_ids: z.array(z.number().int()).optional(), logits_digests: z.array(z.string()).optional() };

export const ChatCompletion = z.object({
  id: z.string(),
  object: z.literal("chat.completion"),
  created: z.number().int(),
  model: z.string(),
  prompt_token_ids: z.array(z.number().int()).optional(),
  choices: z.array(
    z.object({
      index: z.number().int(),
      message: z.object({
        role: z.literal("assistant"),
        content: z.string(),
        reasoning_content: z.string().optional(),
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
const completionChoice = { index: z.number().int(), text: z.string(), logprobs: CompletionLogprobs.nullable(), ...tokenReports };

export const Completion = z.object({
  ...completionShape,
  choices: z.array(z.object({ ...completionChoice, finish_reason: finishReason })),
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
export const Ready = z.object({ status: z.literal("ready") });
export const Version = z.object({ name: z.literal("pelagic"), version: z.string() });

/** Where a request body departs from its schema: the field, as a client writes it (`messages[0].content`), and what is wrong. */
export function firstIssue(error: z.ZodError): { param: string; message: string } {
  const issue = error.issues[0];
  if (issue === undefined) return { param: "", message: "invalid" };
  const param = issue.path
    .map((key, index) => (typeof key === "number" ? `[${key}]` : index === 0 ? String(key) : `.${String(key)}`))
    .join("");
  return { param, message: param === "" ? issue.message : `${param}: ${issue.message}` };
}

/**
 * The first list or record in a body that is too long to be looked at, or null. Comes before the schema, which would describe the fault
 * of every element.
 */
export function oversizedField(body: Record<string, unknown>): string | null {
  let parts = 0;
  for (const [name, value] of Object.entries(body)) {
    if (typeof value !== "object" || value === null || name === "prompt") continue;
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
