// The Python packages that people call models with, unmodified: each script in python/ prints what it got as JSON.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { envOf, type PythonEnv, runPython } from "../support/python.ts";

// LiteLLM and LlamaIndex want openai 2.
const env3 = await envOf("openai-3");
const env2 = await envOf("openai-2");
const missing = env3.missing || env2.missing;

describe.skipIf(missing)(`Python clients${missing}`, () => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await startStack({ prefill: 1, decode: 1 });
  }, 120_000);
  afterAll(() => stack?.stop());

  async function resultsOf(env: PythonEnv, script: string) {
    const path = inTree("tests", "clients", "python", script);
    const { stdout } = await runPython(env, [path, stack.baseUrl, stack.modelName], { timeoutMs: 240_000 });
    return JSON.parse(stdout.trim().split("\n").at(-1) as string);
  }
  const within = 250_000;
  const text = expect.stringMatching(/./);
  const sum = { sum: expect.any(Number) };
  const add = ["add", { a: expect.any(Number), b: expect.any(Number) }];

  test.each([
    ["3", env3],
    ["2", env2],
  ])(
    "openai %s: chat, completions, responses, tools, schemas, errors",
    async (major, env) => {
      const got = await resultsOf(env, "openai_client.py");
      expect(got.version).toMatch(new RegExp(`^${major}\\.`));
      expect([got.models, got.model]).toEqual([[stack.modelName], stack.modelName]);
      const { chat, completions, responses } = got;
      expect(chat).toMatchObject({ content: text, reasoning: text, finish: "stop", streamed: chat.content, streamedUsage: chat.usage });
      expect(chat.usage.completion_tokens_details.reasoning_tokens).toBeGreaterThan(5);
      expect(got.concurrent).toEqual(Array(5).fill(chat.content));
      expect(got.tools).toEqual({ call: add, streamedCall: [add], finish: ["tool_calls", "tool_calls", "stop"] });
      expect(got.schemas).toEqual({ parsed: sum, object: expect.any(Object) });
      expect(completions.text).toEqual([completions.streamed, completions.streamed]);
      expect(completions.logprobs).toBe(12);
      expect(responses).toMatchObject({ status: "completed", types: ["reasoning", "message"], text: chat.content, streamed: chat.content });
      expect(responses).toMatchObject({ numbers: true, lastEvent: "response.completed", parsed: sum, call: add[1] });
      expect(got.errors).toEqual([
        ["NotFoundError", "model_not_found", "model"],
        ["BadRequestError", "invalid_request", "temperature"],
        ["BadRequestError", "invalid_request", "messages"],
      ]);
    },
    within,
  );

  test(
    "anthropic: messages, thinking, tools, a schema, counting, errors",
    async () => {
      const { talk, tools, parsed, counted, errors } = await resultsOf(env3, "anthropic_client.py");
      expect(talk).toMatchObject({ plain: ["text"], types: ["thinking", "text"], text, streamed: talk.text, same: true });
      expect(talk.stop).toEqual(["end_turn", "end_turn", "end_turn"]);
      expect(talk.usage[1]).toBe(talk.usage[0]);
      expect(tools).toEqual({ stop: ["tool_use", "tool_use", "end_turn"], call: add, same: true });
      expect(parsed).toEqual(sum);
      expect(counted).toBeGreaterThan(10);
      expect(errors).toEqual([
        ["NotFoundError", "not_found_error"],
        ["BadRequestError", "invalid_request_error"],
      ]);
    },
    within,
  );

  test(
    "LangChain: ChatOpenAI over chat and over responses, ChatDeepSeek, OpenAI",
    async () => {
      const { openai, responses, deepseek, completion } = await resultsOf(env3, "langchain_clients.py");
      for (const one of [openai, responses, deepseek]) {
        expect(one).toMatchObject({ text, streamed: one.text, async: one.text, calls: [add], after: true });
        expect(one.usage[0]).toBeGreaterThan(5);
        expect(one.usage[1]).toBe(one.usage[0]);
      }
      expect([openai.structured, responses.structured, deepseek.structured]).toEqual([[sum, sum], [sum, sum], [sum]]);
      expect(deepseek.reasoning).toBe(true);
      expect(completion).toEqual(text);
    },
    within,
  );

  test(
    "LlamaIndex: OpenAILike, as chat and as text",
    async () => {
      const got = await resultsOf(env2, "llama_index_client.py");
      expect(got).toMatchObject({ text, streamed: got.text, streamedAsync: got.text, completed: text, completedStreamed: got.completed });
      expect(got).toMatchObject({ calls: [add], structured: sum, program: sum });
    },
    within,
  );

  test(
    "LiteLLM: as openai, hosted_vllm, deepseek and anthropic; text completions, responses",
    async () => {
      const got = await resultsOf(env2, "litellm_client.py");
      for (const provider of ["openai", "hosted_vllm", "deepseek", "anthropic"]) {
        const one = got[provider];
        expect(one, provider).toMatchObject({ text, streamed: one.text, calls: [add], streamedCalls: [add], structured: sum });
        expect(one.usage[1]).toBe(one.usage[0]);
        expect(one.reasoning).toBe(provider !== "anthropic");
      }
      expect(got.completionStreamed).toBe(got.completion);
      expect(got).toMatchObject({ responses: text, responsesStreamed: "response.completed" });
    },
    within,
  );
});
