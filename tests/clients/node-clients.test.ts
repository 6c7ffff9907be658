// The npm packages that people call models with, unmodified.
import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createDeepSeek } from "@ai-sdk/deepseek";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { tool as langchainTool } from "@langchain/core/tools";
import { ChatDeepSeek } from "@langchain/deepseek";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, generateText, type LanguageModel, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";

let stack: Stack;
let v1: string;
beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 1 });
  v1 = `${stack.baseUrl}/v1`;
}, 120_000);
afterAll(() => stack?.stop());

const question = "What is 12 + 30?";
const apiKey = "none";
const Sum = z.object({ sum: z.int().min(0).max(999) });
const addSchema = z.object({ a: z.int().min(0).max(99), b: z.int().min(0).max(99) });
const addParameters = { ...z.toJSONSchema(addSchema), type: "object" as const };

describe("openai: responses", () => {
  let client: OpenAI;
  beforeAll(() => {
    client = new OpenAI({ baseURL: v1, apiKey, maxRetries: 0 });
  });

  test("whole: reasoning, then the answer, with usage", async () => {
    const response = await client.responses.create({ model: stack.modelName, input: question, temperature: 0 });
    expect(response.status).toBe("completed");
    expect(response.output.map(({ type }) => type)).toEqual(["reasoning", "message"]);
    expect(response.output_text.length).toBeGreaterThan(0);
    expect(response.usage?.output_tokens_details.reasoning_tokens).toBeGreaterThan(5);
  });

  test("streamed: numbered events that add up to the same response", async () => {
    const whole = await client.responses.create({ model: stack.modelName, input: question, temperature: 0 });
    const events: OpenAI.Responses.ResponseStreamEvent[] = [];
    const stream = client.responses.stream({ model: stack.modelName, input: question, temperature: 0 });
    for await (const event of stream) events.push(event);
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i));
    expect(events.slice(0, 2).map(({ type }) => type)).toEqual(["response.created", "response.in_progress"]);
    expect(events.at(-1)?.type).toBe("response.completed");
    const text = events.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join("");
    expect(text).toBe(whole.output_text);
    expect((await stream.finalResponse()).output_text).toBe(whole.output_text);
  });

  test("a schema, a length, a tool, and a talk that goes on", async () => {
    const schema = { type: "json_schema" as const, name: "sum", strict: true, schema: z.toJSONSchema(Sum) };
    const response = await client.responses.create({ model: stack.modelName, input: question, temperature: 0, text: { format: schema } });
    Sum.parse(JSON.parse(response.output_text));
    const cut = await client.responses.create({ model: stack.modelName, input: question, temperature: 0, max_output_tokens: 3 });
    expect(cut).toMatchObject({ status: "incomplete", incomplete_details: { reason: "max_output_tokens" } });
    const tools = [{ type: "function" as const, name: "add", parameters: addParameters, strict: true }];
    const choice = { type: "function" as const, name: "add" };
    const asked = await client.responses.create({ model: stack.modelName, input: question, temperature: 0, tools, tool_choice: choice });
    const call = asked.output.find(({ type }) => type === "function_call") as OpenAI.Responses.ResponseFunctionToolCall;
    const { a, b } = addSchema.parse(JSON.parse(call.arguments));
    const next = await client.responses.create({
      model: stack.modelName,
      input: [
        { role: "user", content: question },
        ...(asked.output as OpenAI.Responses.ResponseInputItem[]),
        { type: "function_call_output", call_id: call.call_id, output: String(a + b) },
      ],
      temperature: 0,
      tools,
      tool_choice: "none",
      reasoning: { effort: "none" },
    });
    expect(next.output.map(({ type }) => type)).toEqual(["message"]);
    const custom = await client.responses.create({
      model: stack.modelName,
      input: question,
      temperature: 1,
      max_output_tokens: 900,
      tools: [{ type: "custom", name: "say" }],
      tool_choice: "required",
      parallel_tool_calls: false,
      reasoning: { effort: "none" },
    });
    expect(custom.output[0]).toMatchObject({ type: "custom_tool_call", name: "say" });
  });

  test("what a server without memory cannot do is refused by name", async () => {
    for (const [more, param] of [
      [{ previous_response_id: "resp_1" }, "previous_response_id"],
      [{ store: true }, "store"],
      [{ background: true }, "background"],
      [{ tools: [{ type: "web_search" }] }, "tools[0].type"],
      [{ text: { format: { type: "json_schema", name: "x", strict: true, schema: { not: {} } } } }, "text.format.schema"],
      [
        { tools: [{ type: "function", name: "f", strict: true, parameters: { type: "object", not: {} } }], tool_choice: "required" },
        "tools[0].parameters",
      ],
      [{ input: [{ type: "item_reference", id: "msg_x" }] }, "input[0]"],
      [{ max_output_tokens: 1_000_000 }, "max_output_tokens"],
    ] as const) {
      const asked = client.responses.create({ model: stack.modelName, input: question, ...(more as object) });
      await expect(asked, param).rejects.toMatchObject({ status: 400, param });
    }
  });
});

describe("@anthropic-ai/sdk", () => {
  let client: Anthropic;
  beforeAll(() => {
    client = new Anthropic({ baseURL: stack.baseUrl, apiKey, maxRetries: 0 });
  });
  const messages = [{ role: "user" as const, content: question }];
  // Its types have the field no more.
  const greedy = { temperature: 0 } as object;

  test("whole and streamed, with thinking and without", async () => {
    const plain = await client.messages.create({ model: stack.modelName, max_tokens: 400, messages, ...greedy });
    expect(plain.content.map(({ type }) => type)).toEqual(["text"]);
    expect(plain.stop_reason).toBe("end_turn");
    const thinking = { type: "enabled" as const, budget_tokens: 1_024 };
    const whole = await client.messages.create({ model: stack.modelName, max_tokens: 2_000, messages, ...greedy, thinking });
    expect(whole.content.map(({ type }) => type)).toEqual(["thinking", "text"]);
    const stream = client.messages.stream({ model: stack.modelName, max_tokens: 2_000, messages, ...greedy, thinking });
    let text = "";
    stream.on("text", (delta) => {
      text += delta;
    });
    const streamed = await stream.finalMessage();
    expect(streamed.content).toEqual(whole.content);
    expect(text).toBe((whole.content[1] as Anthropic.TextBlock).text);
    expect(streamed.usage.output_tokens).toBe(whole.usage.output_tokens);
  });

  test("tools, their results, a schema, stop sequences and counting", async () => {
    const tools: Anthropic.Tool[] = [{ name: "add", description: "Adds.", input_schema: addParameters }];
    const choice = { type: "tool" as const, name: "add" };
    const params = { model: stack.modelName, max_tokens: 600, ...greedy, tools };
    const asked = await client.messages.create({ ...params, messages, tool_choice: choice });
    expect(asked.stop_reason).toBe("tool_use");
    const use = asked.content.at(-1) as Anthropic.ToolUseBlock;
    const { a, b } = addSchema.parse(use.input);
    const streamed = await client.messages.stream({ ...params, messages, tool_choice: choice }).finalMessage();
    expect((streamed.content.at(-1) as Anthropic.ToolUseBlock).input).toEqual(use.input);
    const next = await client.messages.create({
      ...params,
      messages: [
        ...messages,
        { role: "assistant", content: asked.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: String(a + b) }] },
      ],
      tool_choice: { type: "none" },
    });
    expect(next.content[0]?.type).toBe("text");
    const plain = (await client.messages.create({ model: stack.modelName, max_tokens: 60, messages, ...greedy }))
      .content[0] as Anthropic.TextBlock;
    const stop = plain.text.slice(1, 2);
    const stopped = await client.messages.create({
      model: stack.modelName,
      max_tokens: 60,
      messages,
      ...greedy,
      stop_sequences: [stop],
    });
    expect(stopped).toMatchObject({ stop_reason: "stop_sequence", stop_sequence: stop });
    const counted = await client.messages.countTokens({ model: stack.modelName, messages });
    expect(counted.input_tokens).toBe(stopped.usage.input_tokens + (stopped.usage.cache_read_input_tokens ?? 0));
  });

  test("errors are in its own form", async () => {
    const wrong = client.messages.create({ model: "other", max_tokens: 10, messages });
    await expect(wrong).rejects.toBeInstanceOf(Anthropic.NotFoundError);
    const tools = [{ name: "f", strict: true, input_schema: { type: "object" as const, not: {} } }];
    const refused = client.messages.create({ model: stack.modelName, max_tokens: 10, messages, tools, tool_choice: { type: "any" } });
    await expect(refused).rejects.toThrow(/tools\[0\]\.input_schema: the keyword/);
    await expect(refused).rejects.toBeInstanceOf(Anthropic.BadRequestError);
  });
});

describe("@ai-sdk", () => {
  /** Whether it hands a schema on: DeepSeek's own API has none. */
  const providers: [string, () => LanguageModel, boolean?][] = [
    ["openai-compatible", () => createOpenAICompatible({ name: "pelagic", baseURL: v1, supportsStructuredOutputs: true })(stack.modelName)],
    ["deepseek", () => createDeepSeek({ baseURL: v1, apiKey })(stack.modelName), false],
    ["openai, chat", () => createOpenAI({ baseURL: v1, apiKey }).chat(stack.modelName)],
    ["openai, responses", () => createOpenAI({ baseURL: v1, apiKey }).responses(stack.modelName)],
    ["anthropic", () => createAnthropic({ baseURL: v1, apiKey })(stack.modelName)],
  ];
  test.each(providers)("%s: text, a stream, an object, a tool and its result", async (_, model, schemas = true) => {
    const providerOptions = { openai: { store: false } };
    const settings = { model: model(), temperature: 0, maxOutputTokens: 1_500, maxRetries: 0, providerOptions };
    const whole = await generateText({ ...settings, prompt: question });
    expect(whole.text.length).toBeGreaterThan(0);
    expect(whole.usage.inputTokens).toBeGreaterThan(5);
    const streamed = streamText({ ...settings, prompt: question });
    expect(await streamed.text).toBe(whole.text);
    if (schemas) Sum.parse((await generateObject({ ...settings, prompt: question, schema: Sum })).object);
    const given: number[] = [];
    const add = tool({
      description: "Adds.",
      inputSchema: addSchema,
      execute: ({ a, b }) => {
        given.push(a + b);
        return String(a + b);
      },
    });
    const steps = await generateText({
      ...settings,
      prompt: question,
      tools: { add },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) =>
        stepNumber === 0 ? { toolChoice: { type: "tool" as const, toolName: "add" as const } } : { toolChoice: "none" as const },
    });
    expect(steps.steps.map(({ toolCalls }) => toolCalls.length)).toEqual([1, 0]);
    expect(given).toHaveLength(1);
  });
});

describe("@ai-sdk/openai as it comes, which takes the server to keep what it said", () => {
  const settings = () => ({
    model: createOpenAI({ baseURL: v1, apiKey })(stack.modelName),
    temperature: 0,
    maxOutputTokens: 1_500,
    maxRetries: 0,
  });

  test("a tool and its result: the reasoning before the call is left out", async () => {
    const add = tool({ description: "Adds.", inputSchema: addSchema, execute: ({ a, b }) => String(a + b) });
    const { steps } = await generateText({
      ...settings(),
      prompt: question,
      tools: { add },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) =>
        stepNumber === 0 ? { toolChoice: { type: "tool" as const, toolName: "add" as const } } : { toolChoice: "none" as const },
    });
    expect(steps.map(({ toolCalls }) => toolCalls.length)).toEqual([1, 0]);
    expect(JSON.stringify(steps[1]?.request.body)).toContain("item_reference");
  });

  test("a second question: told what to set", async () => {
    const first = await generateText({ ...settings(), prompt: question });
    const messages = [
      { role: "user" as const, content: question },
      ...first.response.messages,
      { role: "user" as const, content: "And 1 + 1?" },
    ];
    await expect(generateText({ ...settings(), messages })).rejects.toThrow(/store: false/);
    const told = { providerOptions: { openai: { store: false } } };
    const own = await generateText({ ...settings(), ...told, prompt: question });
    const second = await generateText({
      ...settings(),
      ...told,
      messages: [messages[0] as (typeof messages)[0], ...own.response.messages, messages.at(-1) as (typeof messages)[0]],
    });
    expect(second.text.length).toBeGreaterThan(0);
  });
});

describe("LangChain", () => {
  const models: [string, () => ChatOpenAI | ChatDeepSeek][] = [
    ["ChatOpenAI", () => new ChatOpenAI({ model: stack.modelName, apiKey, temperature: 0, maxRetries: 0, configuration: { baseURL: v1 } })],
    [
      "ChatOpenAI over responses",
      () =>
        new ChatOpenAI({
          model: stack.modelName,
          apiKey,
          temperature: 0,
          maxRetries: 0,
          useResponsesApi: true,
          configuration: { baseURL: v1 },
        }),
    ],
    [
      "ChatDeepSeek",
      () => new ChatDeepSeek({ model: stack.modelName, apiKey, temperature: 0, maxRetries: 0, configuration: { baseURL: v1 } }),
    ],
  ];
  test.each(models)("%s: invoke, stream, tools and structured output", async (_, make) => {
    const model = make();
    const whole = await model.invoke(question);
    expect(whole.text.length).toBeGreaterThan(0);
    let text = "";
    for await (const chunk of await model.stream(question)) text += chunk.text;
    expect(text).toBe(whole.text);
    const add = langchainTool(({ a, b }: { a: number; b: number }) => String(a + b), {
      name: "add",
      description: "Adds.",
      schema: addSchema,
    });
    const asked = await model.bindTools([add], { tool_choice: "add" } as object).invoke(question);
    expect(asked.tool_calls?.map(({ name }) => name)).toEqual(["add"]);
    addSchema.parse(asked.tool_calls?.[0]?.args);
    Sum.parse(await model.withStructuredOutput(Sum, { name: "sum" }).invoke(question));
  });
});
