// The OpenAPI 3.1 document of the gateway, derived from http.ts and errors.ts. Served at /openapi.json; docs/openapi.json is a copy.
import { z } from "zod";
import { type ErrorCode, errorCatalogue } from "./errors.ts";
import * as http from "./http.ts";

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

function errors(...codes: ErrorCode[]): Record<string, object> {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codes) byStatus.set(errorCatalogue[code].status, [...(byStatus.get(errorCatalogue[code].status) ?? []), code]);
  return Object.fromEntries(
    [...byStatus].map(([status, names]) => [status, { description: names.join(", "), content: json("ErrorBody") }]),
  );
}

function post(
  operationId: string,
  summary: string,
  request: keyof typeof named,
  answer: { description: string; content: object },
  ...codes: ErrorCode[]
) {
  return {
    post: {
      operationId,
      summary,
      requestBody: { required: true, content: json(request) },
      responses: {
        200: answer,
        ...errors(
          "invalid_request",
          "context_length_exceeded",
          "model_not_found",
          "method_not_allowed",
          "request_too_large",
          "overloaded",
          "internal",
          ...codes,
        ),
      },
    },
  };
}

function generation(
  operationId: string,
  summary: string,
  request: keyof typeof named,
  answer: keyof typeof named,
  chunk: keyof typeof named,
) {
  return post(
    operationId,
    summary,
    request,
    {
      description: `The answer; with stream: true, server-sent events, each a ${chunk} or an ErrorBody, then [DONE].`,
      content: { ...json(answer), "text/event-stream": { schema: { type: "string" } } },
    },
    "no_workers",
    "bus_unavailable",
    "worker_lost",
    "shutting_down",
    "deadline_exceeded",
  );
}

function tool(operationId: string, summary: string, request: keyof typeof named, answer: keyof typeof named) {
  return post(operationId, summary, request, { description: "OK", content: json(answer) }, "shutting_down");
}

function lookup(operationId: string, summary: string, answer: keyof typeof named, ...codes: ErrorCode[]) {
  return { get: { operationId, summary, responses: { 200: { description: "OK", content: json(answer) }, ...errors(...codes) } } };
}

export function openApiDocument(): object {
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
  }
  const modelById = lookup("getModel", "One model", "Model", "model_not_found");
  return {
    openapi: "3.1.0",
    info: {
      title: "Pelagic",
      version: apiVersion,
      description: "The OpenAI and DeepSeek APIs over a Pelagic service.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths: {
      "/v1/chat/completions": generation(
        "createChatCompletion",
        "Answer a conversation",
        "ChatCompletionRequest",
        "ChatCompletion",
        "ChatCompletionChunk",
      ),
      "/v1/completions": generation("createCompletion", "Continue a prompt", "CompletionRequest", "Completion", "CompletionChunk"),
      "/tokenize": tool("tokenize", "A prompt's token ids", "TokenizeRequest", "Tokenized"),
      "/detokenize": tool("detokenize", "The text of token ids", "DetokenizeRequest", "Detokenized"),
      "/v1/models": lookup("listModels", "The models served", "ModelList"),
      "/v1/models/{id}": {
        get: {
          ...modelById.get,
          parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" } }],
        },
      },
      "/health": lookup("health", "The process lives", "Health"),
      "/ready": lookup("ready", "A decode worker is ready", "Ready", "no_workers", "shutting_down"),
      "/version": lookup("version", "The build", "Version"),
    },
    components: { schemas },
  };
}
