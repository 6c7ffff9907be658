// The whole path with real parts: HTTP in, prefill and decode apart over NATS, the model in the box, unmodified clients.
import { createDeepSeek } from "@ai-sdk/deepseek";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { waitFor, workersOf } from "./support.ts";

let stack: Stack;
let model: string;

beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 1 });
  model = stack.modelName;
}, 120_000);
afterAll(() => stack?.stop());

const ask = (question: string, fields: object = {}) =>
  fetch(`${stack.baseUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, temperature: 0, messages: [{ role: "user", content: question }], ...fields }),
  });

/** A lookup prompt of some length, which is prefilled by the prefill worker. */
const codes = Array.from({ length: 40 }, (_, i) => `k${i}=${1000 + i * 37}`).join("; ");
const lookup = `Codes: ${codes}. What is the code of k7?`;

describe("answers", () => {
  test("a long prompt is prefilled by the prefill worker, a short one by decode", async () => {
    // First: where prefill has measured nothing it is taken to be as fast as decode. Later it is the quicker one's on a busy machine.
    const long = await ask(`Here are some. ${lookup}`);
    await long.text();
    expect(JSON.parse(long.headers.get("x-pelagic-route") ?? "{}")).toMatchObject({ decode: "decode-0", prefill: "prefill-0" });
    const short = await ask("1+1=?");
    await short.text();
    expect(JSON.parse(short.headers.get("x-pelagic-route") ?? "{}")).toMatchObject({ prefill: null });
    const prefill = stack.processes.find(({ name }) => name === "prefill-0");
    const metrics = await (await fetch(`http://127.0.0.1:${prefill?.metricsPort}/metrics`)).text();
    expect(metrics).toMatch(/pelagic_kv_transfers_total\{direction="sent",outcome="complete"\} [1-9]/);
  });

  test.each([
    ["What is 127 + 536?", "663"],
    ["What is 904 - 358?", "546"],
    ["What is 23 * 7?", "161"],
  ])("%s", async (question, answer) => {
    const body = (await (await ask(question)).json()) as OpenAI.ChatCompletion;
    const message = body.choices[0]?.message as OpenAI.ChatCompletionMessage & { reasoning_content: string };
    expect(message.content).toBe(answer);
    expect(message.reasoning_content.length).toBeGreaterThan(10);
    expect(message.reasoning_content).not.toContain("</think>");
    expect(body.choices[0]?.finish_reason).toBe("stop");
    expect(body.usage?.total_tokens).toBe((body.usage?.prompt_tokens ?? 0) + (body.usage?.completion_tokens ?? 0));
  });

  test("a second time the prompt's blocks are hit, and the answer is the same", async () => {
    type Usage = OpenAI.CompletionUsage & { prompt_cache_hit_tokens: number; prompt_cache_miss_tokens: number };
    const question = `${lookup} `;
    const first = (await (await ask(question)).json()) as OpenAI.ChatCompletion & { usage: Usage };
    const second = (await (await ask(question)).json()) as OpenAI.ChatCompletion & { usage: Usage };
    expect(second.choices[0]?.message).toEqual(first.choices[0]?.message);
    expect(first.usage.prompt_cache_hit_tokens).toBe(0);
    expect(second.usage.prompt_cache_hit_tokens).toBe(Math.floor((second.usage.prompt_tokens - 1) / 64) * 64);
    expect(second.usage.prompt_cache_hit_tokens + second.usage.prompt_cache_miss_tokens).toBe(second.usage.prompt_tokens);
  });

  test("another user, or another salt, hits nobody else's blocks", async () => {
    const question = `Mine. ${lookup}`;
    const hits = async (fields: object) =>
      ((await (await ask(question, fields)).json()) as { usage: { prompt_cache_hit_tokens: number } }).usage.prompt_cache_hit_tokens;
    expect(await hits({ user_id: "ann" })).toBe(0);
    expect(await hits({ user_id: "bob" })).toBe(0);
    expect(await hits({})).toBe(0);
    expect(await hits({ cache_salt: "ann" })).toBe(0);
    expect(await hits({ user_id: "ann" })).toBeGreaterThan(64);
    expect(await hits({ cache_salt: "ann" })).toBeGreaterThan(64);
  });

  test("the same seed gives the same sample, another one another", async () => {
    const sample = async (seed: number) => {
      const body = (await (await ask("Reverse qzjxv.", { temperature: 2, seed, max_tokens: 60 })).json()) as OpenAI.ChatCompletion;
      return JSON.stringify(body.choices[0]?.message);
    };
    const [a, again, b] = [await sample(1), await sample(1), await sample(2)];
    expect(again).toBe(a);
    expect(b).not.toBe(a);
  });

  test("thinking off gives an answer and no reasoning, thinking on both", async () => {
    const off = (await (await ask("What is 12 + 7?", { thinking: { type: "disabled" } })).json()) as OpenAI.ChatCompletion;
    expect(off.choices[0]?.message).toMatchObject({ content: expect.stringMatching(/^\d+$/) });
    expect((off.choices[0]?.message as { reasoning_content?: unknown } | undefined)?.reasoning_content ?? null).toBe(null);
    const on = (await (await ask("What is 12 + 7?", { thinking: { type: "enabled" } })).json()) as OpenAI.ChatCompletion;
    expect(on.choices[0]?.message).toMatchObject({ content: "19", reasoning_content: expect.stringContaining("=19") });
  });

  test("max_tokens ends with length, and a stop string is cut off", async () => {
    const short = (await (await ask("What is 127 + 536?", { max_tokens: 5 })).json()) as OpenAI.ChatCompletion;
    expect(short.choices[0]?.finish_reason).toBe("length");
    expect(short.usage?.completion_tokens).toBe(5);
    // Stop strings are for the answer: a chain of thought may contain them.
    const stopped = (await (await ask("What is 127 + 536?", { stop: "3" })).json()) as OpenAI.ChatCompletion;
    expect(stopped.choices[0]?.message.content).toBe("66");
    expect(stopped.choices[0]?.finish_reason).toBe("stop");
  });
});

describe("unmodified clients", () => {
  test("openai: streamed and not", async () => {
    const client = new OpenAI({ baseURL: `${stack.baseUrl}/v1`, apiKey: "none" });
    expect((await client.models.list()).data.map(({ id }) => id)).toContain(model);
    const messages = [{ role: "user" as const, content: "What is 127 + 536?" }];
    const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
    expect(whole.choices[0]?.message.content).toBe("663");
    const stream = await client.chat.completions.create({
      model,
      messages,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    });
    let content = "";
    let reasoning = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    let roles = 0;
    for await (const chunk of stream) {
      const delta = chunk.choices[0]?.delta as { content?: string; reasoning_content?: string; role?: string } | undefined;
      expect(delta?.content && delta?.reasoning_content).toBeFalsy();
      if (delta?.role) roles++;
      content += delta?.content ?? "";
      reasoning += delta?.reasoning_content ?? "";
      usage = chunk.usage ?? usage;
    }
    expect(content).toBe("663");
    expect(whole.choices[0]?.message).toMatchObject({ reasoning_content: reasoning });
    expect(roles).toBe(1);
    expect(usage?.completion_tokens).toBe(whole.usage?.completion_tokens);
    const completion = await client.completions.create({ model, prompt: "What is", max_tokens: 4, temperature: 0 });
    expect(completion.usage?.completion_tokens).toBe(4);
    await expect(client.chat.completions.create({ model: "nobody", messages })).rejects.toMatchObject({ status: 404 });
  });

  test("@ai-sdk/deepseek: streamed and not, reasoning apart", async () => {
    const deepseek = createDeepSeek({ baseURL: `${stack.baseUrl}/v1`, apiKey: "none" });
    const whole = await generateText({ model: deepseek(model), prompt: "What is 127 + 536?", temperature: 0 });
    expect(whole.text).toBe("663");
    expect(whole.reasoningText).toContain("663");
    const stream = streamText({ model: deepseek(model), prompt: "What is 127 + 536?", temperature: 0 });
    let text = "";
    for await (const part of stream.textStream) text += part;
    expect(text).toBe("663");
    expect(await stream.reasoningText).toBe(whole.reasoningText);
  });
});

test("a client that goes away frees its blocks", async () => {
  const abort = new AbortController();
  const response = await fetch(`${stack.baseUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model,
      messages: [{ role: "user", content: `Count: ${lookup}` }],
      stream: true,
      ignore_eos: true,
      max_tokens: 4000,
    }),
    signal: abort.signal,
  });
  await response.body?.getReader().read();
  abort.abort();
  await waitFor("no request is running", async () =>
    (await workersOf(stack)).every(({ requests, blocks }) => requests.running === 0 && blocks.free + blocks.cached === blocks.total),
  );
});
