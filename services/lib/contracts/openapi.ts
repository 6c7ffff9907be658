// The OpenAPI 3.1 document of the gateway, derived from http.ts and errors.ts. Served at /openapi.json; docs/openapi.json is a copy.
import { z } from "zod";
import { type ErrorCode, errorCatalogue } from "./errors.ts";
import * as http from "./http.ts";
import { tokenIdTitle } from "./http-fields.ts";
import * as messages from "./http-messages.ts";
import * as responses from "./http-responses.ts";

/** Equal to package.json's version; a test says so. */
export const apiVersion = "0.1.0";

const named = {
  ChatCompletionRequest: http.ChatCompletionRequest,
  ChatCompletion: http.ChatCompletion,
  ChatCompletionChunk: http.ChatCompletionChunk,
  CompletionRequest: http.CompletionRequest,
  Completion: http.Completion,
  CompletionChunk: http.CompletionChunk,
  ChatMessage: http.ChatMessage,
  ResponsesRequest: responses.ResponsesRequest,
  ResponsesAnswer: responses.ResponsesAnswer,
  MessagesRequest: messages.MessagesRequest,
  MessagesAnswer: messages.MessagesAnswer,
  MessagesError: messages.MessagesError,
  MessagesModel: messages.MessagesModel,
  MessagesModelList: messages.MessagesModelList,
  CountTokensRequest: messages.CountTokensRequest,
  CountedTokens: messages.CountedTokens,
  TokenizeRequest: http.TokenizeRequest,
  Tokenized: http.Tokenized,
  DetokenizeRequest: http.DetokenizeRequest,
  Detokenized: http.Detokenized,
  Usage: http.Usage,
  Model: http.Model,
  ModelList: http.ModelList,
  ErrorBody: http.ErrorBody,
  Health: http.Health,
  Ready: http.Ready,
  Version: http.Version,
};

const ref = (name: keyof typeof named) => ({ $ref: `#/components/schemas/${name}` });
const json = (name: keyof typeof named) => ({ "application/json": { schema: ref(name) } });

function errors(codes: ErrorCode[], body: keyof typeof named = "ErrorBody"): Record<string, object> {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codes) byStatus.set(errorCatalogue[code].status, [...(byStatus.get(errorCatalogue[code].status) ?? []), code]);
  return Object.fromEntries([...byStatus].map(([status, names]) => [status, { description: names.join(", "), content: json(body) }]));
}

const commonErrors: ErrorCode[] = [
  "invalid_request",
  "invalid_api_key",
  "rate_limit_exceeded",
  "context_length_exceeded",
  "model_not_found",
  "method_not_allowed",
  "request_too_large",
  "overloaded",
  "internal",
];
const servingErrors: ErrorCode[] = ["no_workers", "bus_unavailable", "worker_lost", "shutting_down", "deadline_exceeded"];

function post(
  operationId: string,
  summary: string,
  request: keyof typeof named,
  answer: { description: string; content: object },
  codes: ErrorCode[],
  errorBody: keyof typeof named = "ErrorBody",
) {
  return {
    post: {
      operationId,
      summary,
      requestBody: { required: true, content: json(request) },
      responses: {
        200: answer,
        ...errors([...commonErrors, ...codes], errorBody),
      },
    },
  };
}

function generation(
  operationId: string,
  summary: string,
  request: keyof typeof named,
  answer: keyof typeof named,
  events: { what: string; data?: keyof typeof named },
  errorBody: keyof typeof named = "ErrorBody",
) {
  return post(
    operationId,
    summary,
    request,
    {
      description: `The answer; with stream: true, server-sent events: ${events.what}.`,
      content: { ...json(answer), "text/event-stream": { schema: event(events.data) } },
    },
    servingErrors,
    errorBody,
  );
}

/** In documents before OpenAPI 3.2, tools take the schema of a stream for that of one event. */
function event(data?: keyof typeof named): object {
  const json = { contentMediaType: "application/json" };
  const chunk = data && { ...json, contentSchema: { anyOf: [ref(data), ref("ErrorBody")] } };
  return {
    type: "object",
    required: ["data"],
    properties: { event: { type: "string" }, data: { type: "string", ...(chunk ? { anyOf: [{ const: "[DONE]" }, chunk] } : json) } },
  };
}

function tool(
  operationId: string,
  summary: string,
  request: keyof typeof named,
  answer: keyof typeof named,
  errorBody: keyof typeof named = "ErrorBody",
) {
  return post(
    operationId,
    summary,
    request,
    { description: "OK", content: json(answer) },
    ["no_workers", "shutting_down", "deadline_exceeded"],
    errorBody,
  );
}

function lookup(operationId: string, summary: string, answer: keyof typeof named, ...codes: ErrorCode[]) {
  return { get: { operationId, summary, responses: { 200: { description: "OK", content: json(answer) }, ...errors(codes) } } };
}

type Lookup = ReturnType<typeof lookup>["get"];

/** The same in Anthropic's form, for clients that say so in a header. */
function orAnthropics({ get }: { get: Lookup }, answer: keyof typeof named) {
  const either = (response: object, other: keyof typeof named) => {
    const { content } = response as { content: ReturnType<typeof json> };
    return { ...response, content: { "application/json": { schema: { anyOf: [content["application/json"].schema, ref(other)] } } } };
  };
  const responses = Object.entries(get.responses as Record<string, object>).map(([status, response]) => [
    status,
    either(response, status === "200" ? answer : "MessagesError"),
  ]);
  const header = {
    name: "anthropic-version",
    in: "header",
    schema: { type: "string" },
    description: "Where it is, the answer is in the form of Anthropic's API.",
  };
  return { get: { ...get, parameters: [header], responses: Object.fromEntries(responses) as Lookup["responses"] } };
}

/** Longer lists and texts are refused all the same. Whoever makes requests by this document would make them millions of characters long. */
const largestBound = 1_024;

/** The schemas as they are told: without bounds that nobody should try, and with what this server knows of its model. */
function told(schema: unknown, vocabularySize: number | undefined): unknown {
  if (Array.isArray(schema)) return schema.map((each) => told(each, vocabularySize));
  if (typeof schema !== "object" || schema === null) return schema;
  const isTold = ([key, value]: [string, unknown]) => !["maxItems", "maxLength"].includes(key) || !((value as number) > largestBound);
  const kept = Object.fromEntries(
    Object.entries(schema)
      .filter(isTold)
      .map(([key, value]) => [key, told(value, vocabularySize)]),
  );
  if (vocabularySize !== undefined && kept.title === tokenIdTitle) kept.maximum = vocabularySize - 1;
  return kept;
}

/** Of a server whose model has so many tokens, or of any. */
export function openApiDocument(vocabularySize?: number): object {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of Object.entries(named)) registry.add(schema, { id });
  const { schemas } = z.toJSONSchema(registry, {
    uri: (id) => `#/components/schemas/${id}`,
    io: "input",
    target: "draft-2020-12",
    unrepresentable: "any",
  });
  for (const schema of Object.values(schemas)) {
    delete schema.$schema;
    delete schema.$id;
    // Refused, but by a server that is being debugged.
    delete schema.properties?.pelagic;
  }
  const modelById = orAnthropics(
    lookup("getModel", "One model", "Model", "invalid_api_key", "model_not_found", "no_workers"),
    "MessagesModel",
  );
  return {
    openapi: "3.1.0",
    info: {
      title: "Pelagic",
      version: apiVersion,
      description: `The OpenAI, DeepSeek and Anthropic APIs over a Pelagic service. Bounds of texts and lists beyond ${largestBound} are not told here.`,
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths: {
      "/v1/chat/completions": generation("createChatCompletion", "Answer a conversation", "ChatCompletionRequest", "ChatCompletion", {
        what: "each a ChatCompletionChunk or an ErrorBody, then [DONE]",
        data: "ChatCompletionChunk",
      }),
      "/v1/completions": generation("createCompletion", "Continue a prompt", "CompletionRequest", "Completion", {
        what: "each a CompletionChunk or an ErrorBody, then [DONE]",
        data: "CompletionChunk",
      }),
      "/v1/responses": generation(
        "createResponse",
        "Answer a conversation, by OpenAI's Responses API (nothing is stored)",
        "ResponsesRequest",
        "ResponsesAnswer",
        { what: "response.created, then what grows, then response.completed, response.incomplete or response.failed" },
      ),
      "/v1/messages": generation(
        "createMessage",
        "Answer a conversation, by Anthropic's Messages API",
        "MessagesRequest",
        "MessagesAnswer",
        { what: "message_start, content blocks, message_delta and message_stop, or error" },
        "MessagesError",
      ),
      "/v1/messages/count_tokens": tool(
        "countTokens",
        "How many tokens a conversation has",
        "CountTokensRequest",
        "CountedTokens",
        "MessagesError",
      ),
      "/tokenize": tool("tokenize", "A prompt's token ids", "TokenizeRequest", "Tokenized"),
      "/detokenize": tool("detokenize", "The text of token ids", "DetokenizeRequest", "Detokenized"),
      "/v1/models": orAnthropics(lookup("listModels", "The models served", "ModelList", "invalid_api_key"), "MessagesModelList"),
      "/v1/models/{id}": {
        get: {
          ...modelById.get,
          parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" } }, ...modelById.get.parameters],
        },
      },
      "/health": { get: { ...lookup("health", "The process lives", "Health").get, security: [] } },
      "/metrics": {
        get: {
          operationId: "metrics",
          summary: "The load of the workers behind this gateway, for whoever picks among gateways",
          responses: { 200: { description: "Prometheus's text format", content: { "text/plain": { schema: { type: "string" } } } } },
          security: [],
        },
      },
      "/ready": lookup(
        "ready",
        "A model has a ready decode worker",
        "Ready",
        "invalid_api_key",
        "no_workers",
        "bus_unavailable",
        "shutting_down",
      ),
      "/version": lookup("version", "The build", "Version", "invalid_api_key"),
    },
    // The last: a gateway without API keys.
    security: [{ bearer: [] }, { apiKey: [] }, {}],
    components: {
      schemas: told(schemas, vocabularySize),
      securitySchemes: { bearer: { type: "http", scheme: "bearer" }, apiKey: { type: "apiKey", in: "header", name: "x-api-key" } },
    },
  };
}
