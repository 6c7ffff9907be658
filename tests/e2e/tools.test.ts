// Tool calls that are valid whatever the model wants, through every process, and the other fields that shape an answer token by token.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { ChatCompletion, Completion } from "../../services/lib/contracts/http.ts";
import { waitFor, workersOf } from "./support.ts";

let stack: Stack;
let client: OpenAI;

beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 2 });
  client = new OpenAI({ baseURL: `${stack.baseUrl}/v1`, apiKey: "none", maxRetries: 0 });
}, 120_000);
afterAll(() => stack?.stop());

const messages = [{ role: "user" as const, content: "What is 12 + 30?" }];
const addParameters = {
  type: "object",
  properties: { a: { type: "integer", minimum: 0, maximum: 99 }, b: { type: "integer", minimum: 0, maximum: 99 } },
  required: ["a", "b"],
  additionalProperties: false,
};
const sayParameters = { type: "object", properties: { text: { type: "string", maxLength: 20 } }, required: ["text"] };
const tools: OpenAI.ChatCompletionTool[] = [
  { type: "function", function: { name: "add", description: "Adds two numbers.", parameters: addParameters } },
  { type: "function", function: { name: "say", parameters: sayParameters } },
];
const inRange = (value: unknown) => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 99;

async function post(path: string, body: object): Promise<unknown> {
  const response = await fetch(stack.baseUrl + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: stack.modelName, ...body }),
  });
  expect(response.status).toBe(200);
  return await response.json();
}

describe("tools", () => {
  test("named: one call of it, in the schema, with thinking on and off, at any temperature", async () => {
    for (const type of ["enabled", "disabled"]) {
      const answer = await client.chat.completions.create({
        model: stack.modelName,
        messages,
        tools,
        tool_choice: { type: "function", function: { name: "add" } },
        temperature: 1.5,
        seed: 5,
        max_tokens: 3_000,
        ...({ thinking: { type }, thinking_token_budget: 200 } as object),
      });
      const [choice] = answer.choices;
      expect(choice?.finish_reason).toBe("tool_calls");
      expect(choice?.message.content).toBeNull();
      expect(choice?.message.tool_calls).toHaveLength(1);
      const [call] = (choice?.message.tool_calls ?? []) as OpenAI.ChatCompletionMessageFunctionToolCall[];
      expect(call?.function.name).toBe("add");
      const { a, b, ...rest } = JSON.parse(call?.function.arguments ?? "") as Record<string, unknown>;
      expect([inRange(a), inRange(b), rest]).toEqual([true, true, {}]);
    }
  });

  test("required, streamed: fragments that add up, as the client's own helper sees them", async () => {
    let fragments = 0;
    // A busy gateway writes several tokens at once: one that has time for it is met soon.
    for (let tries = 0; fragments <= 3 && tries < 20; tries++) {
      const runner = client.chat.completions.stream({
        model: stack.modelName,
        messages,
        tools,
        tool_choice: "required",
        parallel_tool_calls: false,
        temperature: 1,
        seed: 7,
        max_tokens: 600,
        ...({ thinking: { type: "disabled" } } as object),
      });
      fragments = 0;
      runner.on("tool_calls.function.arguments.delta", () => fragments++);
      const [choice] = (await runner.finalChatCompletion()).choices;
      expect(choice?.finish_reason).toBe("tool_calls");
      expect(choice?.message.tool_calls).toHaveLength(1);
      const [call] = choice?.message.tool_calls ?? [];
      expect(["add", "say"]).toContain(call?.function.name);
      expect(typeof JSON.parse(call?.function.arguments ?? "")).toBe("object");
    }
    expect(fragments).toBeGreaterThan(3);
  });

  test("the same call, whether streamed, whole, or gone on with on another worker", async () => {
    const body = { messages, tools, tool_choice: "required" as const, temperature: 1, seed: 11, max_tokens: 900 };
    const thinkingOff = { thinking: { type: "disabled" } } as object;
    const whole = ChatCompletion.parse(await post("/v1/chat/completions", { ...body, ...thinkingOff })).choices[0];
    const streamed = client.chat.completions.stream({ model: stack.modelName, ...body, ...thinkingOff });
    let killed = false;
    streamed.on("chunk", () => {
      if (killed) return;
      killed = true;
      void workersOf(stack).then((workers) => {
        const running = workers.find(({ workerId, requests }) => workerId.startsWith("decode") && requests.running > 0);
        stack.processes.find(({ name }) => name === running?.workerId)?.kill("SIGKILL");
      });
    });
    const moved = (await streamed.finalChatCompletion()).choices[0];
    const parts = (calls: OpenAI.ChatCompletionMessageToolCall[] | ChatCompletion["choices"][number]["message"]["tool_calls"]) =>
      (calls ?? []).map((call) => (call as OpenAI.ChatCompletionMessageFunctionToolCall).function);
    expect(parts(moved?.message.tool_calls)).toEqual(parts(whole?.message.tool_calls));
    expect(moved?.finish_reason).toBe(whole?.finish_reason);
    await waitFor(
      "both decode workers are back",
      async () => (await workersOf(stack)).filter(({ workerId, state }) => workerId.startsWith("decode") && state === "ready").length === 2,
    );
  });

  test("keywords that no grammar keeps: told where the tool is not strict, refused by name where it is", async () => {
    const schema = z.toJSONSchema(z.object({ price: z.number().multipleOf(0.01), count: z.number().int().min(1).max(60).multipleOf(5) }));
    const parameters = {
      ...schema,
      properties: { ...schema.properties, tags: { type: "array", items: { type: "string" }, uniqueItems: true } },
    };
    const ask = async (path: string, body: object) => {
      const response = await fetch(stack.baseUrl + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: stack.modelName, temperature: 0, ...body }),
      });
      return { status: response.status, notKept: response.headers.get("x-pelagic-not-kept"), body: (await response.json()) as never };
    };
    const chat = (strict?: boolean) =>
      ask("/v1/chat/completions", {
        messages,
        tools: [{ type: "function", function: { name: "buy", parameters, ...(strict !== undefined && { strict }) } }],
        tool_choice: "required",
        thinking: { type: "disabled" },
        max_tokens: 3_000,
      });
    for (const strict of [undefined, false]) {
      const { status, notKept, body } = await chat(strict);
      const field = "tools[0].function.parameters.properties";
      expect({ status, notKept }).toEqual({ status: 200, notKept: `${field}.price: multipleOf; ${field}.tags: uniqueItems` });
      const [call] = (body as ChatCompletion).choices[0]?.message.tool_calls ?? [];
      // What can be kept is.
      const { price, count, tags } = JSON.parse(call?.function.arguments ?? "") as { price: unknown; count: number; tags?: unknown };
      expect({ price: typeof price, rest: count % 5, tags: tags === undefined || Array.isArray(tags) }).toEqual({
        price: "number",
        rest: 0,
        tags: true,
      });
    }
    const refused = await chat(true);
    expect(refused).toMatchObject({
      status: 400,
      notKept: null,
      body: { error: { param: "tools[0].function.parameters.properties.price" } },
    });
    const responses = (strict: boolean) =>
      ask("/v1/responses", {
        input: "Buy.",
        reasoning: { effort: "none" },
        text: { format: { type: "json_schema", name: "buy", schema: parameters, strict } },
      });
    expect(await responses(false)).toMatchObject({
      status: 200,
      notKept: "text.format.schema.properties.price: multipleOf; text.format.schema.properties.tags: uniqueItems",
    });
    expect(await responses(true)).toMatchObject({ status: 400, body: { error: { param: "text.format.schema.properties.price" } } });
  }, 60_000);

  test("auto: an answer where the model calls nothing; none: never a call", async () => {
    for (const tool_choice of ["auto", "none"] as const) {
      const answer = await client.chat.completions.create({
        model: stack.modelName,
        messages,
        tools,
        tool_choice,
        temperature: 0,
        max_tokens: 500,
      });
      expect(answer.choices[0]?.message.tool_calls).toBeUndefined();
      expect(answer.choices[0]?.message.content?.length).toBeGreaterThan(0);
      expect(answer.choices[0]?.finish_reason).toBe("stop");
    }
  });

  test("@ai-sdk: a call, its result sent back, and the answer after it, streamed and not", async () => {
    const provider = createOpenAICompatible({ name: "pelagic", baseURL: `${stack.baseUrl}/v1`, supportsStructuredOutputs: true });
    const model = provider(stack.modelName);
    const given: number[] = [];
    const add = tool({
      description: "Adds two numbers.",
      inputSchema: z.object({ a: z.int().min(0).max(99), b: z.int().min(0).max(99) }),
      execute: ({ a, b }) => {
        given.push(a + b);
        return String(a + b);
      },
    });
    const settings = {
      model,
      prompt: "Add.",
      tools: { add },
      temperature: 0,
      maxOutputTokens: 700,
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }: { stepNumber: number }) =>
        stepNumber === 0 ? { toolChoice: { type: "tool" as const, toolName: "add" as const } } : { toolChoice: "none" as const },
    };
    const answer = await generateText(settings);
    expect(answer.steps.map((step) => step.toolCalls.length)).toEqual([1, 0]);
    expect(given).toHaveLength(1);
    const streamed = streamText(settings);
    await streamed.consumeStream();
    expect((await streamed.steps).map((step) => step.toolCalls.length)).toEqual([1, 0]);
    expect(given).toHaveLength(2);
  });
});

describe("fields that shape an answer", () => {
  test("n: answer i is what the seed's noise i gives, alone or together", async () => {
    const ask = async (n: number) =>
      Completion.parse(await post("/v1/completions", { prompt: "Q: ", n, temperature: 1.2, seed: 3, max_tokens: 12 })).choices.map(
        ({ text }) => text,
      );
    const three = await ask(3);
    expect(new Set(three).size).toBeGreaterThan(1);
    expect((await ask(2)).join("|")).toBe(three.slice(0, 2).join("|"));
  });

  test("prefix: the answer goes on from the given words", async () => {
    const goOn = async (content: string) =>
      ChatCompletion.parse(
        await post("/v1/chat/completions", {
          messages: [...messages, { role: "assistant", content, prefix: true }],
          temperature: 0,
          max_tokens: 40,
        }),
      ).choices[0]?.message;
    const whole = ChatCompletion.parse(
      await post("/v1/chat/completions", { messages, temperature: 0, thinking: { type: "disabled" }, max_tokens: 40 }),
    ).choices[0]?.message.content as string;
    expect(whole.length).toBeGreaterThan(1);
    const rest = await goOn(whole.slice(0, 1));
    expect(whole.slice(0, 1) + rest?.content).toBe(whole);
  });

  test("min_tokens, allowed_token_ids, bad_words, thinking_token_budget, include_stop_str_in_output", async () => {
    const complete = async (more: object) =>
      Completion.parse(await post("/v1/completions", { prompt: "Hello", temperature: 0, max_tokens: 30, return_token_ids: true, ...more }))
        .choices[0];
    const free = await complete({ prompt: "<｜User｜>What is 1 + 1?<｜Assistant｜><think>\n\n</think>\n\n" });
    const least = (free?.token_ids?.length ?? 0) + 5;
    const longer = await complete({
      prompt: "<｜User｜>What is 1 + 1?<｜Assistant｜><think>\n\n</think>\n\n",
      min_tokens: least,
      max_tokens: least + 40,
    });
    expect(longer?.token_ids?.length).toBeGreaterThanOrEqual(least);
    const digits = await complete({ allowed_token_ids: [48, 49, 50] });
    expect(digits?.text).toMatch(/^[012]{30}$/);
    const text = (await complete({ max_tokens: 60 }))?.text ?? "";
    const word = text.slice(3, 6);
    expect((await complete({ max_tokens: 60, bad_words: [word] }))?.text).not.toContain(word);
    const kept = await complete({ max_tokens: 60, stop: [word], include_stop_str_in_output: true });
    expect(kept?.text.endsWith(word)).toBe(true);
    const thought = ChatCompletion.parse(
      await post("/v1/chat/completions", { messages, temperature: 0, thinking_token_budget: 3, max_tokens: 60 }),
    );
    expect(thought.usage.completion_tokens_details.reasoning_tokens).toBe(3);
    expect(thought.choices[0]?.message.content?.length).toBeGreaterThan(0);
    const hidden = ChatCompletion.parse(
      await post("/v1/chat/completions", { messages, temperature: 0, include_reasoning: false, max_tokens: 400 }),
    );
    expect(hidden.choices[0]?.message).not.toHaveProperty("reasoning_content");
    const cut = Completion.parse(
      await post("/v1/completions", { prompt: "abcdef", truncate_prompt_tokens: 2, max_tokens: 1, return_token_ids: true }),
    );
    expect(cut.prompt_token_ids).toEqual([101, 102]);
  });
});
