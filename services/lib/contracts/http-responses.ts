// POST /v1/responses, OpenAI's newer form of a conversation, as far as a server without memory of earlier ones can honour it.
import { z } from "zod";
import { anything, httpLimits, isolation, nothing, only, refused, schema, text, toolName, unsupported } from "./http-fields.ts";

const loosely = <T extends string>(type: T) => z.looseObject({ type: z.literal(type) });
const TextPart = z.looseObject({
  type: z.enum(["input_text", "output_text", "text"], { error: "only text is supported" }),
  text,
});
const content = z.union([text, z.array(TextPart).max(httpLimits.contentParts)], { error: "a string or an array of text parts" });
const callId = z.string().max(256);

const InputMessage = z.looseObject({
  type: z.literal("message").optional(),
  role: z.enum(["user", "assistant", "system", "developer"]),
  content,
});
const TypedItem = z.discriminatedUnion(
  "type",
  [
    loosely("function_call").extend({ call_id: callId, name: toolName, arguments: text }),
    loosely("function_call_output").extend({ call_id: callId, output: content }),
    loosely("custom_tool_call").extend({ call_id: callId, name: toolName, input: text }),
    loosely("custom_tool_call_output").extend({ call_id: callId, output: content }),
    loosely("reasoning").extend({ content: z.array(z.looseObject({ text })).max(httpLimits.contentParts).nullish() }),
    loosely("item_reference")
      .extend({ id: z.string().max(256) })
      .describe("Only to reasoning, which is left out then: this server keeps no items."),
  ],
  { error: "message, function_call, function_call_output, custom_tool_call, custom_tool_call_output, reasoning or item_reference" },
);
export const ResponsesItem = z.union([InputMessage, TypedItem]);
export type ResponsesItem = z.infer<typeof ResponsesItem>;

export const ResponsesTool = z.discriminatedUnion(
  "type",
  [
    loosely("function").extend({
      name: toolName,
      description: text.nullish(),
      parameters: schema.nullish(),
      strict: z.boolean().nullish(),
    }),
    loosely("custom").extend({
      name: toolName,
      description: text.nullish(),
      format: z.looseObject({ type: z.literal("text", unsupported("a grammar for a custom tool")) }).nullish(),
    }),
  ],
  { error: "only tools of type function and custom are supported" },
);
export type ResponsesTool = z.infer<typeof ResponsesTool>;

const TextFormat = z.discriminatedUnion(
  "type",
  [
    loosely("text"),
    loosely("json_object"),
    loosely("json_schema").extend({
      name: z.string().max(256).nullish(),
      schema: schema.nullish(),
      strict: z.boolean().nullish(),
    }),
  ],
  { error: "type must be text, json_object or json_schema" },
);

export const ResponsesRequest = z.object({
  model: z.string().min(1).max(256),
  input: z.union([text, z.array(ResponsesItem).min(1).max(httpLimits.messages)], { error: "a string or an array of items" }),
  instructions: text.nullish().describe("Goes before the conversation as its system message."),
  max_output_tokens: z.number().int().min(1).max(httpLimits.tokenId).nullish().describe("Reasoning included."),
  reasoning: z
    .looseObject({ effort: z.enum(["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]).nullish() })
    .nullish()
    .describe("Effort none: no thinking."),
  text: z.looseObject({ format: TextFormat.nullish() }).nullish(),
  tools: z.array(ResponsesTool).max(httpLimits.tools).nullish(),
  tool_choice: z
    .union([z.enum(["none", "auto", "required"]), z.looseObject({ type: z.enum(["function", "custom"]), name: z.string() })], {
      error: "none, auto, required, or the type and name of a tool",
    })
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  stream: z.boolean().nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(1e-6).max(1).nullish(),
  top_logprobs: z.number().int().min(0).max(20).nullish(),
  include: z
    .array(z.string())
    .max(64)
    .nullish()
    .describe("message.output_text.logprobs is honoured; what is never there to be included is left out."),
  user_id: isolation.nullish(),
  cache_salt: isolation.nullish(),
  metadata: z
    .record(z.string().max(64), z.string().max(512))
    .refine((all) => Object.keys(all).length <= 16, { error: "at most 16 entries" })
    .meta({ maxProperties: 16 })
    .nullish()
    .describe("Given back with the answer."),
  // Refused.
  store: refused(z.literal(false, { error: "this server keeps no responses: set it to false, and send the whole conversation each time" })),
  previous_response_id: nothing(),
  conversation: nothing(),
  background: only(false),
  prompt: nothing(),
  truncation: only("disabled"),
  // Ignored.
  user: anything,
  service_tier: anything,
  safety_identifier: anything,
  prompt_cache_key: anything,
  prompt_cache_retention: anything,
  max_tool_calls: anything,
  stream_options: anything,
});
export type ResponsesRequest = z.infer<typeof ResponsesRequest>;

const logprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.number().int()) });
const OutputText = z.object({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.never()),
  logprobs: z.array(logprob.extend({ top_logprobs: z.array(logprob) })),
});
const status = z.enum(["in_progress", "completed", "incomplete"]);
export const ResponsesOutput = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("reasoning"),
    id: z.string(),
    status,
    summary: z.array(z.never()),
    content: z.array(z.object({ type: z.literal("reasoning_text"), text: z.string() })),
  }),
  z.object({ type: z.literal("message"), id: z.string(), status, role: z.literal("assistant"), content: z.array(OutputText) }),
  z.object({
    type: z.literal("function_call"),
    id: z.string(),
    status,
    call_id: z.string(),
    name: z.string(),
    arguments: z.string(),
  }),
  z.object({ type: z.literal("custom_tool_call"), id: z.string(), status, call_id: z.string(), name: z.string(), input: z.string() }),
]);
export type ResponsesOutput = z.infer<typeof ResponsesOutput>;

/** The answer, and what the events of a stream carry. */
export const ResponsesAnswer = z.object({
  id: z.string(),
  object: z.literal("response"),
  created_at: z.number().int(),
  status: z.enum(["in_progress", "completed", "incomplete", "failed"]),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
  incomplete_details: z.object({ reason: z.literal("max_output_tokens") }).nullable(),
  instructions: z.string().nullable(),
  max_output_tokens: z.number().int().nullable(),
  model: z.string(),
  output: z.array(ResponsesOutput),
  parallel_tool_calls: z.boolean(),
  previous_response_id: z.null(),
  reasoning: z.object({ effort: z.string().nullable(), summary: z.null() }),
  store: z.literal(false),
  background: z.literal(false),
  temperature: z.number().nullable(),
  top_p: z.number().nullable(),
  text: z.unknown(),
  tool_choice: z.unknown(),
  tools: z.array(z.unknown()),
  truncation: z.literal("disabled"),
  metadata: z.unknown(),
  usage: z
    .object({
      input_tokens: z.number().int(),
      input_tokens_details: z.object({ cached_tokens: z.number().int() }),
      output_tokens: z.number().int(),
      output_tokens_details: z.object({ reasoning_tokens: z.number().int() }),
      total_tokens: z.number().int(),
    })
    .nullable(),
});
export type ResponsesAnswer = z.infer<typeof ResponsesAnswer>;
