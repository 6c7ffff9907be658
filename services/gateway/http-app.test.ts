import { connect } from "node:net";
import Anthropic from "@anthropic-ai/sdk";
import { createDeepSeek } from "@ai-sdk/deepseek";
import { generateText, streamText } from "ai";
import fc from "fast-check";
import OpenAI from "openai";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, say, startGatewayUnderTest, waitFor } from "../../tests/gateway/gateway-under-test.ts";
import { PelagicError } from "../lib/contracts/errors.ts";
import {
  ChatCompletion,
  CompletionLogprobs,
  ChatCompletionChunk,
  ChatCompletionRequest,
  Completion,
  CompletionChunk,
  CompletionRequest,
  ErrorBody,
} from "../lib/contracts/http.ts";

import { MessagesModel } from "../lib/contracts/http-messages.ts";

let stack: GatewayUnderTest;
beforeEach(async () => {
  stack = await startGatewayUnderTest();
});
afterEach(() => stack.close());

const messages = [{ role: "user" as const, content: "hi" }];
const tool = (name: string, parameters?: object) => ({ type: "function", function: { name, ...(parameters && { parameters }) } });
const chatBody = (more: object = {}) => ({ model: "test-model", messages, ...more });

function post(path: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(stack.url + path, {
    method: "POST",
    headers: { "content-type": "application/json", ...(init.headers as Record<string, string> | undefined) },
    body: typeof body === "string" ? body : JSON.stringify(body),
    signal: init.signal,
  });
}

/** The data of each event, parsed but for [DONE]. */
async function events(response: Response): Promise<unknown[]> {
  expect(response.headers.get("content-type")).toContain("text/event-stream");
  const text = await response.text();
  expect(text.endsWith("\n\n")).toBe(true);
  return text
    .split("\n\n")
    .slice(0, -1)
    .map((event) => {
      expect(event.startsWith("data: ")).toBe(true);
      return event === "data: [DONE]" ? "[DONE]" : JSON.parse(event.slice(6));
    });
}

async function errorOf(response: Response) {
  return { status: response.status, ...ErrorBody.parse(await response.json()).error };
}

describe("chat completions", () => {
  it("answer in one body, reasoning apart, with usage", async () => {
    stack.decode.script = () => say("why\n</think>\n\n663 é", { cacheHitTokens: 2 });
    const response = await post("/v1/chat/completions", chatBody(), { headers: { "x-request-id": "my.id" } });
    expect(response.status).toBe(200);
    expect(response.headers.get("x-request-id")).toBe("my.id");
    expect(JSON.parse(response.headers.get("x-pelagic-route") ?? "")).toMatchObject({ decode: "decode-0", prefill: null });
    const answer = ChatCompletion.parse(await response.json());
    expect(answer.choices).toEqual([
      {
        index: 0,
        message: { role: "assistant", content: "663 é", reasoning_content: "why\n", refusal: null },
        logprobs: null,
        finish_reason: "stop",
      },
    ]);
    // bos, User, "hi", Assistant, <think>, newline; 4 of reasoning, the tag, 2 newlines, 6 bytes, the end of sentence.
    expect(answer.usage).toEqual({
      prompt_tokens: 7,
      completion_tokens: 14,
      total_tokens: 21,
      prompt_tokens_details: { cached_tokens: 2 },
      completion_tokens_details: { reasoning_tokens: 4 },
      prompt_cache_hit_tokens: 2,
      prompt_cache_miss_tokens: 5,
    });
  });

  it("stream: the role with the first token, one kind of text a delta, usage, [DONE]", async () => {
    stack.decode.script = () => say("ab</think>\n\ncé", { tokensPerDelta: 2 });
    const all = await events(await post("/chat/completions", chatBody({ stream: true, stream_options: { include_usage: true } })));
    expect(all.pop()).toBe("[DONE]");
    const chunks = all.map((chunk) => ChatCompletionChunk.parse(chunk));
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
    expect(chunks.pop()).toMatchObject({
      choices: [],
      usage: { completion_tokens: 9, completion_tokens_details: { reasoning_tokens: 2 } },
    });
    expect(chunks.pop()?.choices[0]).toMatchObject({ delta: {}, finish_reason: "stop" });
    expect(chunks.shift()?.choices[0]?.delta).toEqual({ role: "assistant", content: "" });
    const deltas = chunks.map((chunk) => chunk.choices[0]?.delta ?? {});
    for (const delta of deltas) expect(Object.keys(delta)).toHaveLength(1);
    expect(deltas.map((delta) => delta.reasoning_content ?? "").join("")).toBe("ab");
    expect(deltas.map((delta) => delta.content ?? "").join("")).toBe("cé");
  });

  it("write the role chunk and the first token in one piece", async () => {
    stack.decode.script = () => say("abc", { gapMs: 100 });
    const response = await post("/v1/chat/completions", chatBody({ stream: true }));
    const first = await (response.body as ReadableStream<Uint8Array>).getReader().read();
    expect(
      Buffer.from(first.value as Uint8Array)
        .toString()
        .match(/data: /g),
    ).toHaveLength(2);
  });

  it("end at a stop string in the answer, and stop decode", async () => {
    stack.decode.script = () => say("a ST b</think>c STOP and much more", { gapMs: 2 });
    const answer = (await (await post("/v1/chat/completions", chatBody({ stop: ["STOP", "ST b"] }))).json()) as ChatCompletion;
    expect(answer.choices[0]?.message).toMatchObject({ content: "c ", reasoning_content: "a ST b" });
    expect(answer.choices[0]?.finish_reason).toBe("stop");
    await waitFor(() => stack.decode.cancelled.length === 1);
  });

  it("ask decode for what the request says", async () => {
    stack.decode.script = () => say("x", { reason: "length" });
    await post(
      "/v1/chat/completions",
      chatBody({
        max_tokens: 3,
        max_completion_tokens: 2,
        temperature: 0.5,
        top_k: 4,
        top_p: 0.9,
        seed: -1,
        logit_bias: { "65": 2 },
        stop_token_ids: [10],
        logprobs: true,
      }),
    );
    const [dispatch] = stack.decode.dispatches;
    expect(dispatch?.body).toMatchObject({
      maxTokens: 2,
      stopTokenIds: [257, 10],
      prefillWorkerId: null,
      sampling: { temperature: 0.5, topK: 4, topP: 0.9, seed: "18446744073709551615", logitBias: [[65, 2]], logprobs: 0 },
    });
    await post("/v1/chat/completions", chatBody({ thinking: { type: "disabled" }, ignore_eos: true }));
    const second = stack.decode.dispatches[1];
    expect(second?.body).toMatchObject({ stopTokenIds: [], maxTokens: 8192 - 11, sampling: { temperature: 1 } });
    expect([...(second?.tokens ?? [])].slice(-6)).toEqual([260, 10, 10, 261, 10, 10]);
  });

  it("report logprobs and digests", async () => {
    stack.decode.script = () => say("r</think>ok");
    const answer = ChatCompletion.parse(
      await (await post("/v1/chat/completions", chatBody({ logprobs: true, top_logprobs: 2, pelagic: { digests: true } }))).json(),
    );
    expect(answer.choices[0]?.logprobs?.content.map((entry) => entry.token)).toEqual(["o", "k"]);
    expect(answer.choices[0]?.logprobs?.reasoning_content?.[0]).toMatchObject({
      token: "r",
      bytes: [114],
      top_logprobs: [{ token: "r" }, { token: "A" }],
    });
    expect(answer.choices[0]?.logits_digests).toHaveLength(5);
  });
});

describe("completions", () => {
  it("take text or token ids and give whole text", async () => {
    stack.decode.script = () => say("a</think>b", { reason: "length" });
    for (const prompt of ["hi", [104, 105], ["hi"], [[104, 105]]]) {
      const answer = Completion.parse(
        await (await post("/v1/completions", { model: "test-model", prompt, logprobs: 1, return_token_ids: true })).json(),
      );
      expect(answer.choices[0]).toMatchObject({ text: "a</think>b", finish_reason: "length", token_ids: [97, 261, 98] });
      expect(answer.prompt_token_ids).toEqual([104, 105]);
    }
    const all = await events(await post("/completions", { model: "test-model", prompt: "hi", stream: true }));
    expect(all.pop()).toBe("[DONE]");
    expect(all.map((chunk) => CompletionChunk.parse(chunk).choices[0]?.text).join("")).toBe("a</think>b");
  });

  it("serve token ids where the model has no tokenizer; chat says why not", async () => {
    await stack.close();
    stack = await startGatewayUnderTest({ tokenizer: false });
    stack.decode.script = () => ({ tokens: [5, 6], reason: "length" });
    const answer = Completion.parse(
      await (await post("/v1/completions", { model: "test-model", prompt: [1, 2], return_token_ids: true })).json(),
    );
    expect(answer.choices[0]).toMatchObject({ text: "", token_ids: [5, 6] });
    const all = await events(await post("/v1/completions", { model: "test-model", prompt: [1, 2], return_token_ids: true, stream: true }));
    expect(all.slice(0, -1).flatMap((chunk) => CompletionChunk.parse(chunk).choices[0]?.token_ids ?? [])).toEqual([5, 6]);
    expect(await errorOf(await post("/v1/chat/completions", chatBody()))).toMatchObject({ status: 400, param: "messages" });
    expect(await errorOf(await post("/v1/completions", { model: "test-model", prompt: "x" }))).toMatchObject({
      status: 400,
      param: "prompt",
    });
  });
});

describe("the tokenizer", () => {
  it("says what a prompt and a conversation become, and back", async () => {
    const of = async (path: string, body: object) =>
      (await (await post(path, body)).json()) as { tokens: number[]; count: number; token_strs: string[]; prompt: string };
    const plain = await of("/tokenize", { prompt: "Hi é", return_token_strs: true });
    expect(plain.tokens.slice(-5)).toEqual([72, 105, 32, 0xc3, 0xa9]);
    expect(plain.count).toBe(plain.tokens.length);
    expect(plain.token_strs.slice(-5)).toEqual(["H", "i", " ", "\ufffd", "\ufffd"]);
    expect((await of("/tokenize", { prompt: "Hi", add_special_tokens: false })).tokens).toEqual([72, 105]);
    const chat = await of("/tokenize", { model: "test-model", messages });
    expect((await of("/detokenize", { tokens: chat.tokens })).prompt).toContain("<think>");
    expect((await of("/detokenize", { tokens: plain.tokens })).prompt.endsWith("Hi é")).toBe(true);
    // As long as a prompt may be.
    const many = Array.from({ length: 100_000 }, (_, i) => 65 + (i % 26));
    expect((await of("/detokenize", { tokens: many })).prompt).toBe(Buffer.from(many).toString());
    const textOf = async (body: object) => (await of("/detokenize", { tokens: (await of("/tokenize", body)).tokens })).prompt;
    const begun = [...messages, { role: "assistant", content: [{ type: "refusal", refusal: "I will not" }] }];
    expect(await textOf({ messages: begun, continue_final_message: true })).toMatch(/I will not$/);
    expect(await textOf({ messages: begun })).toMatch(/I will not.+/s);
    const thoughtless = await textOf({ messages, thinking: { type: "disabled" } });
    expect(thoughtless).not.toBe(await textOf({ messages }));
    expect(await textOf({ messages, reasoning_effort: "none" })).toBe(thoughtless);
    const unopened = await textOf({ messages, add_generation_prompt: false });
    expect(unopened).not.toContain("<think>");
    expect((await textOf({ messages })).startsWith(unopened)).toBe(true);
    for (const [path, body, param] of [
      ["/tokenize", {}, null],
      ["/tokenize", { prompt: "x", messages }, null],
      ["/tokenize", { prompt: 7 }, "prompt"],
      ["/detokenize", { tokens: [999_999] }, "tokens"],
      ["/detokenize", { tokens: "x" }, "tokens"],
      ["/detokenize", { tokens: [1, -1] }, "tokens"],
      ["/detokenize", { tokens: [1.5] }, "tokens"],
    ] as const) {
      const error = await errorOf(await post(path, body));
      expect(error).toMatchObject({ status: 400, code: "invalid_request" });
      if (param !== null) expect(error).toMatchObject({ param });
    }
    expect(await errorOf(await post("/detokenize", { model: "other", tokens: [1] }))).toMatchObject({ status: 404 });
  });
});

describe("refusals", () => {
  it("name the field", async () => {
    const cases: [object, string][] = [
      [{ n: 129 }, "n"],
      [{ tools: [{ type: "function" }] }, "tools[0].function"],
      [{ response_format: { type: "xml" } }, "response_format.type"],
      [{ response_format: { type: "json_schema" } }, "response_format.json_schema"],
      [{ structured_outputs: { json: {}, regex: "a" } }, "structured_outputs"],
      [{ structured_outputs: { grammar: "root" } }, "structured_outputs"],
      [{ structured_outputs: { json: "{" } }, "structured_outputs.json"],
      [{ structured_outputs: { choice: ["a"] }, response_format: { type: "json_object" } }, "structured_outputs"],
      [{ guided_json: {} }, "guided_json"],
      [{ guided_regex: "a" }, "guided_regex"],
      [{ guided_choice: ["a"] }, "guided_choice"],
      [{ use_beam_search: true }, "use_beam_search"],
      [{ length_penalty: 0.8 }, "length_penalty"],
      [{ chat_template: "{{ messages }}" }, "chat_template"],
      [{ documents: [{ text: "a" }] }, "documents"],
      [{ audio: {} }, "audio"],
      [{ modalities: ["audio"] }, "modalities[0]"],
      [{ messages: [] }, "messages"],
      [{ messages: [{ role: "tool", content: "x" }] }, "messages[0].tool_call_id"],
      [{ messages: [...messages, { role: "user", content: [{ type: "image_url" }] }] }, "messages[1].content[0].type"],
      [{ messages: Array.from({ length: 20_000 }, () => 1) }, "messages"],
      [{ temperature: 3 }, "temperature"],
      [{ top_p: 0 }, "top_p"],
      [{ top_p: 1e-50 }, "top_p"],
      [{ repetition_penalty: 1e-50 }, "repetition_penalty"],
      [{ max_tokens: 0 }, "max_tokens"],
      [{ seed: 1.5 }, "seed"],
      [{ stop: [""] }, "stop[0]"],
      [{ stop: "\ud800" }, "stop"],
      [{ stop_token_ids: [320] }, "stop_token_ids"],
      [{ logit_bias: { x: 1 } }, "logit_bias"],
      [{ logit_bias: JSON.parse('{"__proto__": 1}') }, "logit_bias"],
      [{ logit_bias: { "999": 1 } }, "logit_bias"],
      [{ top_logprobs: 2 }, "top_logprobs"],
      [{ stream_options: { include_usage: 1 } }, "stream_options.include_usage"],
      [{ thinking: { type: "maybe" } }, "thinking.type"],
      [{ min_tokens: -1 }, "min_tokens"],
      [{ allowed_token_ids: [999] }, "allowed_token_ids"],
      [{ tool_choice: "required" }, "tool_choice"],
      [{ tools: [tool("a"), tool("a")] }, "tools[1].function.name"],
      [{ tools: [tool("a b")] }, "tools[0].function.name"],
      [{ tools: [tool("a", { type: "string" })] }, "tools[0].function.parameters.type"],
      [{ tools: [tool("a")], tool_choice: { type: "function", function: { name: "b" } } }, "tool_choice.function.name"],
      [{ continue_final_message: true, add_generation_prompt: true }, "continue_final_message"],
      [{ continue_final_message: true }, "continue_final_message"],
      [{ messages: [{ role: "assistant", content: "a", prefix: true }] }, "messages"],
      [
        { messages: [...messages, { role: "assistant", tool_calls: [{ id: "1", function: { name: "a" } }], prefix: true }] },
        "messages[1].prefix",
      ],
    ];
    for (const [more, param] of cases) {
      const response = await post("/v1/chat/completions", chatBody(more));
      expect(response.status, JSON.stringify(more)).toBe(400);
      expect(await errorOf(response)).toMatchObject({
        status: 400,
        code: "invalid_request",
        param,
      });
    }
    for (const prompt of [["a", [1]], [1, -1], [1.5], 7, [[1], []], [999], "", [], Array(129).fill("a")]) {
      expect(await errorOf(await post("/v1/completions", { model: "test-model", prompt }))).toMatchObject({ status: 400, param: "prompt" });
    }
    for (const [more, param] of [
      [{ n: 2, best_of: 1 }, "best_of"],
      [{ best_of: 2, stream: true }, "best_of"],
      [{ n: 100, prompt: ["a", "b"] }, "n"],
      [{ max_tokens: 0 }, "max_tokens"],
      [{ prompt_logprobs: 1, stream: true }, "prompt_logprobs"],
      [{ suffix: "x" }, "suffix"],
    ] as const) {
      expect(await errorOf(await post("/v1/completions", { model: "test-model", prompt: "x", ...more }))).toMatchObject({
        status: 400,
        param,
      });
    }
    expect(stack.decode.dispatches).toHaveLength(0);
  });

  it("leave alone what they do not know or need not honour", async () => {
    const harmless = {
      n: 1,
      tools: [],
      tool_choice: "none",
      stop: null,
      user: "u",
      metadata: { a: 1 },
      response_format: { type: "text" },
      something_new: {},
      seed: null,
      // A prefix that an earlier answer went on from.
      messages: [...messages, { role: "assistant", content: "a", prefix: true }, ...messages],
    };
    expect((await post("/v1/chat/completions", chatBody(harmless))).status).toBe(200);
    expect(await stack.registry.metrics()).toContain("pelagic_gateway_unknown_fields_total 1");
  });

  it("name a request as its headers do, in the body of an API that has it there", async () => {
    const refused = await post("/v1/messages", {}, { headers: { "x-request-id": "mine:1" } });
    expect(refused.headers.get("x-request-id")).toBe("mine:1");
    expect(await refused.json()).toMatchObject({ type: "error", request_id: "mine:1" });
  });

  it("keep to the context", async () => {
    const long = await errorOf(await post("/v1/completions", { model: "test-model", prompt: "x".repeat(8192) }));
    expect(long).toMatchObject({ status: 400, code: "context_length_exceeded" });
    expect(await errorOf(await post("/v1/completions", { model: "test-model", prompt: "x".repeat(100_000) }))).toMatchObject({
      code: "context_length_exceeded",
    });
    // Named by what is long, at both looks: at the bytes and at the tokens.
    for (const length of [8_192, 100_000]) {
      const [text, asked] = ["x".repeat(length), { model: "test-model", max_tokens: 5 }];
      for (const [path, body, param] of [
        ["/v1/chat/completions", { messages: [{ role: "system", content: text }, ...messages] }, "messages"],
        ["/v1/responses", { instructions: text, input: "hi", max_tokens: undefined }, "instructions"],
        ["/v1/responses", { instructions: "hi", input: text, max_tokens: undefined }, "input"],
      ] as const) {
        expect(await errorOf(await post(path, { ...asked, ...body }))).toMatchObject({ code: "context_length_exceeded", param });
      }
      const anthropic = await post("/v1/messages", { ...asked, system: text, messages });
      expect(JSON.stringify(await anthropic.json())).toContain("system: this model's maximum context length");
    }
    const answer = await errorOf(await post("/v1/chat/completions", chatBody({ max_completion_tokens: 8192 })));
    expect(answer).toMatchObject({ status: 400, code: "context_length_exceeded", param: "max_completion_tokens" });
  });

  it("of bodies that are no JSON, too deep, too large or of another type", async () => {
    expect(await errorOf(await post("/v1/chat/completions", "{"))).toMatchObject({
      status: 400,
      message: "the body is not valid JSON in UTF-8",
    });
    expect(await errorOf(await post("/v1/chat/completions", "[]"))).toMatchObject({ status: 400 });
    expect(await errorOf(await post("/v1/chat/completions", `{"model":${"[".repeat(100_000)}`))).toMatchObject({ status: 400 });
    expect(await errorOf(await post("/v1/chat/completions", JSON.stringify(chatBody({ x: "y".repeat(2 ** 20) }))))).toMatchObject({
      status: 413,
    });
    expect(await errorOf(await post("/v1/chat/completions", "x", { headers: { "content-type": "text/plain" } }))).toMatchObject({
      status: 400,
    });
    expect(stack.gateway.bodyBudget.usedBytes).toBe(0);
  });

  it("of paths, methods and models", async () => {
    expect(await errorOf(await fetch(`${stack.url}/v1/nothing`))).toMatchObject({ status: 404, code: "not_found" });
    expect(await errorOf(await fetch(`${stack.url}/%ff`))).toMatchObject({ status: 404 });
    const wrong = await fetch(`${stack.url}/v1/chat/completions`);
    expect(wrong.headers.get("allow")).toBe("POST");
    expect(await errorOf(wrong)).toMatchObject({ status: 405, code: "method_not_allowed" });
    expect(await errorOf(await post("/v1/chat/completions", { ...chatBody(), model: "gpt" }))).toMatchObject({
      status: 404,
      code: "model_not_found",
      param: "model",
    });
    expect(await errorOf(await fetch(`${stack.url}/v1/models/gpt`))).toMatchObject({ status: 404, code: "model_not_found" });
  });

  it("come before any byte when the gateway or every worker is full", async () => {
    stack.decode.busy = true;
    const full = await post("/v1/chat/completions", chatBody({ stream: true }));
    expect(full.headers.get("retry-after")).toBe("2");
    expect(await errorOf(full)).toMatchObject({ status: 503, code: "overloaded" });
    await stack.close();
    stack = await startGatewayUnderTest({ maxRunning: 1, maxWaitMs: 50 });
    stack.decode.script = () => say("slow", { gapMs: 50 });
    const first = post("/v1/chat/completions", chatBody());
    await waitFor(() => stack.gateway.admission.running === 1);
    expect(await errorOf(await post("/v1/chat/completions", chatBody()))).toMatchObject({ status: 503 });
    expect((await first).status).toBe(200);
  });
});

describe("any body", () => {
  it("is answered or refused, never an internal error", async () => {
    stack.decode.script = ({ maxTokens }) => ({ tokens: say("x</think>y").tokens.slice(0, maxTokens) });
    const value = fc.oneof(
      fc.constantFrom<unknown>(
        null,
        true,
        false,
        0,
        -1,
        1,
        2,
        0.5,
        1e308,
        2 ** 53,
        "",
        "x",
        "\ud800",
        "__proto__",
        [],
        {},
        [[]],
        [null],
        [1, 2],
        ["a"],
        { type: "text" },
      ),
      fc.jsonValue({ maxDepth: 3 }),
    );
    const chatFields = fc.constantFrom(...Object.keys(ChatCompletionRequest.shape), "__proto__", "constructor");
    const completionFields = fc.constantFrom(...Object.keys(CompletionRequest.shape));
    const change = (field: fc.Arbitrary<string>) => fc.array(fc.tuple(field, value), { minLength: 1, maxLength: 2 });
    const statuses = new Map<number, number>();
    const send = async (path: string, base: object, changes: [string, unknown][]) => {
      const body = `{${Object.entries({ ...base, ...Object.fromEntries(changes) })
        .map(([name, one]) => `${JSON.stringify(name)}:${JSON.stringify(one)}`)
        .join(",")}}`;
      const response = await post(path, body);
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
      expect([200, 400, 404]).toContain(response.status);
      if (response.status !== 200) await errorOf(response);
      else expect(await response.text()).not.toContain('"error"');
    };
    await fc.assert(
      fc.asyncProperty(change(chatFields), change(completionFields), async (chat, completion) => {
        await send("/v1/chat/completions", chatBody(), chat);
        await send("/v1/completions", { model: "test-model", prompt: "hi" }, completion);
      }),
      { numRuns: 300 },
    );
    expect(statuses.get(200)).toBeGreaterThan(50);
    await waitFor(() => stack.gateway.client.running === 0 && stack.gateway.admission.running === 0);
  });
});

describe("failures", () => {
  it("before the first token are an HTTP error, after it an event and [DONE]", async () => {
    stack.decode.script = () => ({ tokens: [], error: new PelagicError("internal", "broken") });
    const early = await post("/v1/chat/completions", chatBody({ stream: true }));
    expect(early.headers.get("x-should-retry")).toBe("false");
    expect(await errorOf(early)).toMatchObject({ status: 500, code: "internal" });
    stack.decode.script = () => ({ tokens: [...Buffer.from("abc")], error: new PelagicError("internal", "broken"), gapMs: 5 });
    const all = await events(await post("/v1/chat/completions", chatBody({ stream: true })));
    expect(all.pop()).toBe("[DONE]");
    expect(ErrorBody.parse(all.pop()).error).toMatchObject({ code: "internal", message: "broken" });
  });

  it("of the worker are named", async () => {
    stack.decode.script = () => say("abcdef", { gapMs: 100 });
    const request = post("/v1/chat/completions", chatBody());
    await waitFor(() => stack.decode.dispatches.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 250));
    stack.decode.kill();
    expect(await errorOf(await request)).toMatchObject({ status: 503, code: "worker_lost" });
    await waitFor(() => stack.gateway.directory.snapshot().workers.length === 0);
    const ready = await fetch(`${stack.url}/ready`);
    expect(await errorOf(ready)).toMatchObject({ status: 503, code: "no_workers", message: "no decode worker of test-model has reported" });
    expect(await errorOf(await post("/v1/chat/completions", chatBody()))).toMatchObject({ status: 503, code: "no_workers" });
  });

  it("a client that leaves, streamed or not, frees decode at once", async () => {
    stack.decode.script = () => say("a".repeat(500), { gapMs: 10 });
    for (const stream of [true, false]) {
      const controller = new AbortController();
      const before = stack.decode.cancelled.length;
      const request = post("/v1/chat/completions", chatBody({ stream }), { signal: controller.signal }).catch(() => null);
      await waitFor(() => stack.decode.attempts.size === 1);
      if (stream) await request;
      controller.abort();
      await waitFor(() => stack.decode.cancelled.length > before, 500);
      await (await request)?.text().catch(() => undefined);
      await waitFor(() => stack.gateway.admission.running === 0 && stack.gateway.client.running === 0);
    }
  });

  it("a reader that stalls loses its stream, or its whole answer, after a bound", async () => {
    // More than the kernel's buffers take.
    stack.decode.state = { maxPositions: 200_000 };
    stack.decode.sayState();
    await waitFor(() => stack.gateway.directory.snapshot().workers[0]?.maxPositions === 200_000);
    stack.decode.script = () => say("a".repeat(80_000), { tokensPerDelta: 200 });
    const { hostname, port } = new URL(stack.url);
    for (const [cancelled, stream] of [true, false].entries()) {
      const socket = connect({ host: hostname, port: Number(port) });
      socket.on("error", () => undefined);
      const body = JSON.stringify(chatBody({ stream, logprobs: true, top_logprobs: 2, max_tokens: 100_000 }));
      socket.write(
        `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      );
      socket.pause();
      await waitFor(() => stack.gateway.admission.running === 1);
      await waitFor(() => stack.gateway.admission.running === 0, 60_000);
      expect(await stack.registry.metrics()).toContain(
        `pelagic_gateway_requests_total{endpoint="chat",outcome="cancelled",model_name="test-model"} ${cancelled + 1}`,
      );
      socket.destroy();
    }
  });
});

describe("what a body takes", () => {
  it("counts until its answer ends; of fields without effect nothing is kept", async () => {
    stack.decode.script = () => say("abc", { hangAfter: 1 });
    const sent = JSON.stringify(chatBody({ stream: true, metadata: { text: "x".repeat(100_000) } }));
    const response = await post("/v1/chat/completions", sent);
    expect(stack.gateway.bodyBudget.usedBytes).toBe(sent.length);
    await response.body?.cancel();
    await waitFor(() => stack.gateway.bodyBudget.usedBytes === 0);
    const ignored = { user: "a", metadata: { a: 1 }, store: true, verbosity: [[]] };
    expect(ChatCompletionRequest.parse(chatBody(ignored))).toEqual(ChatCompletionRequest.parse(chatBody()));
  });
});

it("takes seeds of 64 bits and more as they are written, modulo 2^64", async () => {
  const seedOf = async (text: string) => {
    const response = await post(
      "/v1/chat/completions",
      `{"model":"test-model","seed":${text},"messages":[{"role":"user","content":"hi"}]}`,
    );
    await response.text();
    return response.status === 200 ? stack.decode.dispatches.at(-1)?.body.sampling.seed : response.status;
  };
  expect(await seedOf("7")).toBe("7");
  expect(await seedOf("-1")).toBe(String(2n ** 64n - 1n));
  expect(await seedOf("9007199254740993")).toBe("9007199254740993");
  expect(await seedOf("18446744073709551615")).toBe("18446744073709551615");
  expect(await seedOf("18446744073709551619")).toBe("3");
  expect(await seedOf("1e20")).toBe(String(10n ** 20n % 2n ** 64n));
  for (const wrong of ["1.5", '"1"', "1e999", "true"]) expect(await seedOf(wrong), wrong).toBe(400);
});

describe("the other routes", () => {
  it("answer", async () => {
    const get = async (path: string) => (await fetch(stack.url + path)).json();
    expect(await get("/health")).toEqual({ status: "ok" });
    expect(await get("/ready")).toEqual({ status: "ready" });
    expect(await get("/v1/models")).toMatchObject({ object: "list", data: [{ id: "test-model", object: "model", max_model_len: 8192 }] });
    expect(await get("/v1/models/test-model")).toMatchObject({ id: "test-model" });
    const anthropic = new Anthropic({ baseURL: stack.url, apiKey: "none", maxRetries: 0 });
    const listed = [];
    for await (const model of anthropic.models.list()) listed.push(model);
    expect(listed.map((model) => MessagesModel.parse(model))).toMatchObject([{ type: "model", id: "test-model", max_input_tokens: 8192 }]);
    expect(await anthropic.models.list()).toMatchObject({ has_more: false, first_id: "test-model", last_id: "test-model" });
    expect(await anthropic.models.retrieve("test-model")).toMatchObject({
      display_name: "test-model",
      created_at: expect.any(String) as string,
    });
    await expect(anthropic.models.retrieve("other")).rejects.toMatchObject({
      status: 404,
      error: { type: "error", error: { type: "not_found_error" } },
    });
    expect(await get("/version")).toMatchObject({ name: "pelagic" });
    expect(await get("/openapi.json")).toMatchObject({ openapi: "3.1.0" });
  });
});

describe("several answers", () => {
  it("n: one prompt, each answer its own noise; those behind the first begin when it has begun", async () => {
    stack.decode.script = (body) => say(`a${body.sampling.choice}</think>b${body.sampling.choice}`, { gapMs: 1 });
    const answer = ChatCompletion.parse(await (await post("/v1/chat/completions", chatBody({ n: 3 }))).json());
    expect(answer.choices.map(({ index, message }) => [index, message.content])).toEqual([
      [0, "b0"],
      [1, "b1"],
      [2, "b2"],
    ]);
    expect(answer.usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 18 });
    expect(stack.decode.dispatches.map(({ body }) => body.sampling.choice)).toEqual([0, 1, 2]);
    expect(new Set(stack.decode.dispatches.map(({ body }) => body.sampling.seed)).size).toBe(1);
  });

  it("wait until the workers have a place for each, before prefill is spent; more than they can ever take are refused", async () => {
    const say = async (waiting: number) => {
      stack.decode.state = { requests: { running: 1, waiting, maxWaiting: 4 } };
      stack.decode.sayState();
      await waitFor(() => stack.gateway.directory.snapshot().workers[0]?.requests.waiting === waiting);
    };
    await say(1);
    const answer = post("/v1/chat/completions", chatBody({ n: 4 }));
    await waitFor(() => stack.gateway.admission.waiting === 1);
    expect(stack.decode.dispatches).toHaveLength(0);
    await say(0);
    expect(ChatCompletion.parse(await (await answer).json()).choices).toHaveLength(4);
    expect(await errorOf(await post("/v1/chat/completions", chatBody({ n: 5 })))).toMatchObject({ status: 400, param: "n" });
    const prompt = Array.from({ length: 5 }, () => "hi");
    expect(await errorOf(await post("/v1/completions", { model: "test-model", prompt }))).toMatchObject({ status: 400, param: "prompt" });
    expect(stack.decode.dispatches).toHaveLength(4);
  });

  it("streamed: each opens, goes on and ends under its index, and the usage comes once", async () => {
    stack.decode.script = (body) => say(`${body.sampling.choice}</think>x${body.sampling.choice}`);
    const options = { include_usage: true, continuous_usage_stats: true };
    const all = await events(await post("/v1/chat/completions", chatBody({ stream: true, n: 2, stream_options: options })));
    expect(all.pop()).toBe("[DONE]");
    const chunks = all.map((chunk) => ChatCompletionChunk.parse(chunk));
    expect(chunks.pop()).toMatchObject({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 10 } });
    for (const index of [0, 1]) {
      const own = chunks.filter(({ choices }) => choices[0]?.index === index);
      expect(own[0]?.choices[0]?.delta.role).toBe("assistant");
      expect(own.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(`x${index}`);
      expect(own.at(-1)).toMatchObject({ choices: [{ finish_reason: "stop" }], usage: { completion_tokens: 5 } });
    }
  });

  it("several prompts, each n times, with echo", async () => {
    stack.decode.script = (body, tokens) => say(`<${tokens.length}${body.sampling.choice}>`);
    const answer = Completion.parse(
      await (await post("/v1/completions", { model: "test-model", prompt: ["ab", "c"], n: 2, echo: true })).json(),
    );
    expect(answer.choices.map(({ index, text }) => [index, text])).toEqual([
      [0, "ab<20>"],
      [1, "ab<21>"],
      [2, "c<10>"],
      [3, "c<11>"],
    ]);
    expect(answer.usage.prompt_tokens).toBe(3);
  });

  it("echo with logprobs: the prompt's own before the answer's, with the offsets of the text that is given, streamed and not", async () => {
    stack.decode.script = () => say("xy");
    const body = { model: "test-model", prompt: "aé", echo: true, logprobs: 1 };
    const whole = Completion.parse(await (await post("/v1/completions", body)).json()).choices[0];
    expect(whole?.text).toBe("aéxy");
    const { tokens, token_logprobs, top_logprobs, text_offset } = CompletionLogprobs.parse(whole?.logprobs);
    const prompt = tokens.length - 2;
    expect(token_logprobs).toEqual([null, ...range(1, prompt).map((at) => -at), -0.5, -0.5]);
    expect(top_logprobs.slice(0, prompt)).toEqual([null, ...range(1, prompt).map(() => ({ A: 0 }))]);
    expect(text_offset.slice(-2)).toEqual([2, 3]);
    expect(text_offset.slice(0, 2)).toEqual([0, tokens[0] === "a" ? 1 : 0]);

    stack.decode.script = () => ({ tokens: [65], reason: "length" });
    const nothing = Completion.parse(await (await post("/v1/completions", { ...body, max_tokens: 0 })).json());
    expect(nothing.choices[0]).toMatchObject({ text: "aé", finish_reason: "length", logprobs: { tokens: tokens.slice(0, prompt) } });
    expect(nothing.usage).toMatchObject({ prompt_tokens: prompt, completion_tokens: 0 });
  });

  it("prompt_logprobs: the token itself and the likeliest, by id", async () => {
    stack.decode.script = () => say("x");
    const body = { model: "test-model", prompt: [66, 67, 70], prompt_logprobs: 2 };
    const { prompt_logprobs: all } = Completion.parse(await (await post("/v1/completions", body)).json()).choices[0] ?? {};
    const likeliest = { 65: { logprob: 0, rank: 1, decoded_token: "A" }, 66: { logprob: -0.5, rank: 2, decoded_token: "B" } };
    expect(all).toEqual([
      null,
      { ...likeliest, 67: { logprob: -1, rank: 2, decoded_token: "C" } },
      { ...likeliest, 70: { logprob: -2, rank: 3, decoded_token: "F" } },
    ]);
  });

  it("best_of: the n with the highest mean log probability", async () => {
    stack.decode.script = (body) => ({ ...say(`${body.sampling.choice}`), logprob: [-3, -1, -2][body.sampling.choice] });
    const answer = Completion.parse(await (await post("/v1/completions", { model: "test-model", prompt: "ab", n: 2, best_of: 3 })).json());
    expect(answer.choices.map(({ text, logprobs }) => [text, logprobs])).toEqual([
      ["1", null],
      ["2", null],
    ]);
  });

  it("are refused where they are more than may be held until all are whole; streamed nothing is held", async () => {
    const long = { max_tokens: 8_000, logprobs: true, top_logprobs: 20 };
    const refusal = await errorOf(await post("/v1/chat/completions", chatBody({ ...long, n: 6 })));
    expect(refusal).toMatchObject({ status: 400, param: "max_tokens", message: expect.stringContaining("1056000") });
    expect(stack.decode.dispatches).toHaveLength(0);
    expect((await post("/v1/chat/completions", chatBody({ ...long, n: 5 }))).status).toBe(200);
    expect((await post("/v1/chat/completions", chatBody({ ...long, n: 6, stream: true }))).status).toBe(200);
  });

  it("count one by one for the time from token to token", async () => {
    await post("/v1/chat/completions", chatBody({ n: 3 }));
    await waitFor(() => stack.gateway.admission.running === 0);
    expect(await stack.registry.metrics()).toContain(
      'gen_ai_server_time_per_output_token_seconds_count{endpoint="chat",model_name="test-model"} 3',
    );
  });

  it("end together when one fails", async () => {
    stack.decode.script = (body) =>
      body.sampling.choice === 1 ? { tokens: [97], error: new PelagicError("internal", "broken") } : say("x".repeat(1000), { gapMs: 5 });
    expect(await errorOf(await post("/v1/chat/completions", chatBody({ n: 2 })))).toMatchObject({ status: 500 });
    await waitFor(() => stack.decode.cancelled.length === 1);
  });
});

describe("clients, unmodified", () => {
  it("openai", async () => {
    stack.decode.script = () => say("why</think>\n\n663", { cacheHitTokens: 3 });
    const client = new OpenAI({ baseURL: `${stack.url}/v1`, apiKey: "none", maxRetries: 0 });
    const answer = await client.chat.completions.create({ model: "test-model", messages });
    expect(answer.choices[0]?.message.content).toBe("663");
    expect(answer.usage?.prompt_tokens_details?.cached_tokens).toBe(3);
    const streamed = client.chat.completions.stream({ model: "test-model", messages, stream_options: { include_usage: true } });
    expect((await streamed.finalChatCompletion()).choices[0]?.message.content).toBe("663");
    expect((await client.completions.create({ model: "test-model", prompt: "x" })).choices[0]?.text).toBe("why</think>\n\n663");
    expect((await client.models.list()).data.map((model) => model.id)).toEqual(["test-model"]);
    await expect(client.chat.completions.create({ model: "test-model", messages, n: 200 })).rejects.toMatchObject({
      status: 400,
      param: "n",
    });
    stack.decode.script = () => ({ tokens: [97], error: new PelagicError("worker_lost", "gone") });
    const failing = await client.chat.completions.create({ model: "test-model", messages, stream: true });
    await expect(
      (async () => {
        for await (const _ of failing);
      })(),
    ).rejects.toMatchObject({ code: "worker_lost" });
  });

  it("@ai-sdk/deepseek", async () => {
    stack.decode.script = () => say("why</think>\n\n663", { cacheHitTokens: 3 });
    const model = createDeepSeek({ baseURL: stack.url, apiKey: "none" })("test-model");
    const answer = await generateText({ model, prompt: "hi" });
    expect(answer).toMatchObject({ text: "663", reasoningText: "why", finishReason: "stop" });
    expect(answer.usage).toMatchObject({ inputTokens: 7, cachedInputTokens: 3, reasoningTokens: 3 });
    const streamed = streamText({ model, prompt: "hi" });
    expect(await streamed.text).toBe("663");
    expect(await streamed.reasoningText).toBe("why");
    expect((await streamed.usage).outputTokens).toBe(10);
  });
});

it("a request's span is named by its route, whatever path the client wrote", async () => {
  const names: string[] = [];
  stack.gateway.tracer = {
    child: () => `00-${"1".repeat(32)}-${"2".repeat(16)}-01`,
    report: ({ kind, name }) => void (kind === "server" && names.push(name)),
  };
  stack.decode.script = () => say("hello");
  const paths = ["/v1/chat/completions?a=1", "/V1/CHAT/completions/", "/chat/completions", "/beta/chat/completions"];
  for (const path of paths) {
    const answer = await fetch(stack.url + path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }] }),
    });
    expect([path, answer.status]).toEqual([path, 200]);
    await answer.arrayBuffer();
  }
  expect(names).toEqual(paths.map(() => "POST /v1/chat/completions"));
});

function range(from: number, end: number): number[] {
  return Array.from({ length: end - from }, (_, i) => from + i);
}
