// POST /v1/messages, Anthropic's form of a conversation.
import { z } from "zod";
import { anything, httpLimits, noneOf, nothing, refused, schema, stopString, text, toolName, unsupported } from "./http-fields.ts";

const loosely = <T extends string>(type: T) => z.looseObject({ type: z.literal(type) });
const TextBlock = z.looseObject({ type: z.literal("text", { error: "only text is supported here" }), text });
const words = z.union([text, z.array(TextBlock).max(httpLimits.contentParts)], { error: "a string or an array of text blocks" });
const toolUseId = z.string().max(256);

const Block = z.discriminatedUnion(
  "type",
  [
    TextBlock,
    loosely("thinking").extend({ thinking: text }),
    loosely("redacted_thinking"),
    loosely("tool_use").extend({ id: toolUseId, name: toolName, input: z.record(z.string(), z.unknown()) }),
    loosely("tool_result").extend({ tool_use_id: toolUseId, content: words.nullish(), is_error: z.boolean().nullish() }),
  ],
  { error: "a block of type text, thinking, redacted_thinking, tool_use or tool_result" },
);
export const MessagesMessage = z.looseObject({
  role: z.enum(["user", "assistant"]),
  content: z.union([text, z.array(Block).max(httpLimits.contentParts)], { error: "a string or an array of blocks" }),
});
export type MessagesMessage = z.infer<typeof MessagesMessage>;

const MessagesTool = z.looseObject({
  type: z.literal("custom", { error: "only tools of the client's own (type custom) are supported" }).nullish(),
  name: toolName,
  description: text.nullish(),
  input_schema: schema,
  strict: z.boolean().nullish(),
});

const conversation = {
  model: z.string().min(1).max(256),
  messages: z.array(MessagesMessage).min(1, { error: "at least one message is needed" }).max(httpLimits.messages),
  system: words.nullish(),
  tools: z.array(MessagesTool).max(httpLimits.tools).nullish(),
  tool_choice: z
    .discriminatedUnion("type", [
      loosely("auto").extend({ disable_parallel_tool_use: z.boolean().nullish() }),
      loosely("any").extend({ disable_parallel_tool_use: z.boolean().nullish() }),
      loosely("tool").extend({ name: z.string(), disable_parallel_tool_use: z.boolean().nullish() }),
      loosely("none"),
    ])
    .nullish(),
  thinking: z
    .discriminatedUnion("type", [
      loosely("enabled").extend({ budget_tokens: z.number().int().min(1).max(httpLimits.tokenId).nullish() }),
      loosely("adaptive"),
      loosely("disabled"),
    ])
    .nullish()
    .describe("Without it there is no thinking."),
};

export const MessagesRequest = z.object({
  ...conversation,
  max_tokens: z.number().int().min(1).max(httpLimits.tokenId).describe("Thinking included."),
  stop_sequences: z.array(stopString).max(httpLimits.stops).nullish(),
  stream: z.boolean().nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(1e-6).max(1).nullish(),
  top_k: z.number().int().min(-1).max(httpLimits.tokenId).nullish(),
  output_config: z
    .looseObject({
      effort: z.enum(["low", "medium", "high", "xhigh", "max"]).nullish(),
      format: loosely("json_schema").extend({ schema }).nullish(),
    })
    .nullish(),
  metadata: z
    .looseObject({ user_id: z.string().max(httpLimits.isolationCharacters).nullish() })
    .nullish()
    .describe("Requests of different users share no cached blocks."),
  // Refused.
  mcp_servers: noneOf(),
  container: nothing(),
  // Ignored.
  service_tier: anything,
  context_management: anything,
  cache_control: anything,
  inference_geo: anything,
  speed: refused(z.literal("standard", unsupported())),
});
export type MessagesRequest = z.infer<typeof MessagesRequest>;

export const CountTokensRequest = z.object({
  ...conversation,
  output_config: anything,
  cache_control: anything,
  context_management: anything,
});
export const CountedTokens = z.object({ input_tokens: z.number().int() });
export type CountedTokens = z.infer<typeof CountedTokens>;

const usage = z.object({
  /** Without those from the cache. */
  input_tokens: z.number().int(),
  cache_creation_input_tokens: z.number().int(),
  cache_read_input_tokens: z.number().int(),
  output_tokens: z.number().int(),
});
export type MessagesUsage = z.infer<typeof usage>;
const AnswerBlock = z.discriminatedUnion("type", [
  z.object({ type: z.literal("thinking"), thinking: z.string(), signature: z.string() }),
  z.object({ type: z.literal("text"), text: z.string() }),
  z.object({ type: z.literal("tool_use"), id: z.string(), name: z.string(), input: z.record(z.string(), z.unknown()) }),
]);
export type MessagesBlock = z.infer<typeof AnswerBlock>;
export const stopReasons = ["end_turn", "max_tokens", "stop_sequence", "tool_use"] as const;

export const MessagesAnswer = z.object({
  id: z.string(),
  type: z.literal("message"),
  role: z.literal("assistant"),
  model: z.string(),
  content: z.array(AnswerBlock),
  stop_reason: z.enum(stopReasons).nullable(),
  stop_sequence: z.string().nullable(),
  usage,
});
export type MessagesAnswer = z.infer<typeof MessagesAnswer>;

/** GET /v1/models as this API's clients read it. */
export const MessagesModel = z.object({
  type: z.literal("model"),
  id: z.string(),
  display_name: z.string(),
  created_at: z.string(),
  max_input_tokens: z.number().int().nullable(),
  max_tokens: z.number().int().nullable(),
  capabilities: z.null(),
  lifecycle: z.literal("active"),
  line: z.null(),
  deprecated_at: z.null(),
  retires_at: z.null(),
});
export type MessagesModel = z.infer<typeof MessagesModel>;
export const MessagesModelList = z.object({
  data: z.array(MessagesModel),
  first_id: z.string().nullable(),
  last_id: z.string().nullable(),
  has_more: z.literal(false),
});
export type MessagesModelList = z.infer<typeof MessagesModelList>;

export const MessagesError = z.object({
  type: z.literal("error"),
  error: z.object({ type: z.string(), message: z.string() }),
  request_id: z.string().nullable(),
});
export type MessagesError = z.infer<typeof MessagesError>;
