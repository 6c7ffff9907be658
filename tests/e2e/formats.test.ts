// Answers that are what the client asked for, whatever the model wants: through HTTP, the tokenizer's threads, the bus and the sampler, and over a
// worker's death in mid-answer.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject } from "ai";
import { Ajv2020, type AnySchema } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { refusedSchemas, schemas } from "../../services/lib/grammar/schemas.testdata.ts";
import { waitFor, workersOf } from "./support.ts";

let stack: Stack;
let client: OpenAI;
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats.default(ajv);

beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 2 });
  client = new OpenAI({ baseURL: `${stack.baseUrl}/v1`, apiKey: "none", maxRetries: 0 });
}, 120_000);
afterAll(() => stack?.stop());

const messages = (content: string) => [{ role: "user" as const, content }];
const person = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};
const jsonSchema = (schema: unknown) => ({
  type: "json_schema" as const,
  json_schema: { name: "it", schema: schema as Record<string, unknown> },
});

describe("response_format", () => {
  test("json_schema with thinking: the thought is free, the answer fits", async () => {
    const answer = await client.chat.completions.create({
      model: stack.modelName,
      messages: messages("What is 12 + 30?"),
      temperature: 0,
      response_format: jsonSchema({ type: "object", properties: { sum: { type: "integer" } }, required: ["sum"] }),
    });
    const message = answer.choices[0]?.message as OpenAI.ChatCompletionMessage & { reasoning_content: string };
    expect(answer.choices[0]?.finish_reason).toBe("stop");
    expect(message.reasoning_content.length).toBeGreaterThan(5);
    expect(Number.isInteger((JSON.parse(message.content ?? "") as { sum: number }).sum)).toBe(true);
  });

  test("json_object, streamed, at a temperature that makes noise of everything", async () => {
    for (let seed = 0; seed < 5; seed++) {
      const stream = await client.chat.completions.create({
        model: stack.modelName,
        messages: messages("Say anything."),
        temperature: 2,
        seed,
        stream: true,
        max_tokens: 2_000,
        response_format: { type: "json_object" },
        ...({ thinking: { type: "disabled" } } as object),
      });
      let text = "";
      let finish: string | null = null;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? "";
        finish = chunk.choices[0]?.finish_reason ?? finish;
      }
      // Noise may go on until its tokens are spent: then it is the beginning of an object.
      if (finish === "stop") expect(typeof JSON.parse(text)).toBe("object");
      else expect(text.startsWith("{")).toBe(true);
    }
  });

  test("completions, prompts of token ids, and vLLM's structured_outputs", async () => {
    const complete = async (fields: object) => {
      const response = await fetch(`${stack.baseUrl}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: stack.modelName, prompt: [72, 105], temperature: 1, seed: 3, max_tokens: 300, ...fields }),
      });
      expect(response.status).toBe(200);
      return ((await response.json()) as OpenAI.Completion).choices[0]?.text ?? "";
    };
    expect(["yes", "no", "日本"]).toContain(await complete({ structured_outputs: { choice: ["yes", "no", "日本"] } }));
    expect(await complete({ structured_outputs: { regex: "[a-f]{3}-\\d{2}" } })).toMatch(/^[a-f]{3}-\d{2}$/);
    expect(ajv.validate(person, JSON.parse(await complete({ structured_outputs: { json: JSON.stringify(person) } })))).toBe(true);
    expect(ajv.validate(person, JSON.parse(await complete({ response_format: jsonSchema(person), ignore_eos: true })))).toBe(true);
  });

  test("the AI SDK's generateObject", async () => {
    const provider = createOpenAICompatible({ name: "pelagic", baseURL: `${stack.baseUrl}/v1`, supportsStructuredOutputs: true });
    const { object } = await generateObject({
      model: provider(stack.modelName),
      schema: z.object({ city: z.enum(["Bergen", "Lisbon"]), days: z.number().int().min(1).max(9) }),
      prompt: "Where to?",
      maxRetries: 0,
    });
    expect(["Bergen", "Lisbon"]).toContain(object.city);
  });

  test("logprobs are of the raw logits, and a constrained token may be unlikely", async () => {
    const answer = await client.chat.completions.create({
      model: stack.modelName,
      messages: messages("What is 1 + 1?"),
      temperature: 0,
      logprobs: true,
      top_logprobs: 3,
      response_format: jsonSchema({ const: "Bergen" }),
      ...({ thinking: { type: "disabled" } } as object),
    });
    expect(answer.choices[0]?.message.content).toBe('"Bergen"');
    const tokens = answer.choices[0]?.logprobs?.content ?? [];
    expect(tokens.some(({ token, top_logprobs }) => top_logprobs.every((other) => other.token !== token))).toBe(true);
  });
});

describe("300 schemas", () => {
  test.each([0, 1, 2, 3])(
    "every answer fits its schema (part %i)",
    async (part) => {
      const mine = schemas.filter((_, index) => index % 4 === part);
      let whole = 0;
      for (let begin = 0; begin < mine.length; begin += 8) {
        await Promise.all(
          mine.slice(begin, begin + 8).map(async (schema, i) => {
            const answer = await client.chat.completions.create({
              model: stack.modelName,
              messages: messages("Fill it in."),
              temperature: 1,
              seed: begin + i,
              max_tokens: 600,
              response_format: jsonSchema(schema),
              ...({ thinking: { type: "disabled" } } as object),
            });
            const choice = answer.choices[0];
            if (choice?.finish_reason === "length") return;
            whole++;
            const value: unknown = JSON.parse(choice?.message.content ?? "");
            if (!ajv.validate(schema as AnySchema, value))
              expect.fail(`${JSON.stringify(schema)}: ${choice?.message.content}: ${ajv.errorsText()}`);
          }),
        );
      }
      expect(whole).toBeGreaterThan(mine.length * 0.6);
    },
    300_000,
  );

  test.each(refusedSchemas.map(([keyword, schema]) => [keyword, schema] as const))(
    "refused with 400 that names it: %s",
    async (keyword, schema) => {
      const error = await client.chat.completions
        .create({ model: stack.modelName, messages: messages("x"), response_format: jsonSchema(schema) })
        .then(() => null)
        .catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(OpenAI.BadRequestError);
      expect((error as InstanceType<typeof OpenAI.BadRequestError>).message).toContain(keyword);
      expect((error as InstanceType<typeof OpenAI.BadRequestError>).param ?? "response_format").toMatch(/^response_format/);
    },
  );
});

test("a worker that dies in mid-answer costs the format nothing", async () => {
  const schema = { type: "array", items: { type: "integer", minimum: 0, maximum: 99 }, minItems: 60, maxItems: 60 };
  const body = (kill: boolean) => ({
    model: stack.modelName,
    messages: messages("Numbers!"),
    temperature: 1,
    seed: 11,
    stream: true as const,
    response_format: jsonSchema(schema),
    ...({ thinking: { type: "disabled" }, ...(kill ? { user: "kill" } : {}) } as object),
  });
  const read = async (kill: boolean) => {
    let text = "";
    let killed = false;
    for await (const chunk of await client.chat.completions.create(body(kill))) {
      text += chunk.choices[0]?.delta.content ?? "";
      if (kill && !killed && text.length > 40) {
        killed = true;
        const running = (await workersOf(stack)).find(({ workerId, requests }) => workerId.startsWith("decode") && requests.running > 0);
        stack.processes.find(({ name }) => name === running?.workerId)?.kill("SIGKILL");
      }
    }
    return text;
  };
  const undisturbed = await read(false);
  expect(JSON.parse(undisturbed)).toHaveLength(60);
  expect(await read(true)).toBe(undisturbed);
  await waitFor(
    "both decode workers are back",
    async () => (await workersOf(stack)).filter(({ workerId, state }) => workerId.startsWith("decode") && state === "ready").length === 2,
  );
}, 120_000);

test("the only decode worker may be told to stop: what it does not finish goes on in its next life", async () => {
  const lone = await startStack({ prefill: 1, decode: 1 });
  try {
    const ask = async () => {
      const response = await fetch(`${lone.baseUrl}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          ...{
            model: lone.modelName,
            messages: messages("Numbers!"),
            temperature: 1,
            seed: 5,
            max_tokens: 4_000,
            thinking: { type: "disabled" },
          },
          response_format: jsonSchema({
            type: "array",
            items: { type: "integer", minimum: 100, maximum: 999 },
            minItems: 800,
            maxItems: 800,
          }),
        }),
      });
      return {
        status: response.status,
        text: await response.text().then((body) => JSON.parse(body).choices?.[0]?.message.content ?? body),
      };
    };
    const undisturbed = await ask();
    expect(JSON.parse(undisturbed.text)).toHaveLength(800);
    const running = async () => (await workersOf(lone)).find(({ workerId }) => workerId === "decode-0")?.requests.running ?? 0;
    // What the worker last said may still be of the first.
    await waitFor("it is idle", async () => (await running()) === 0);
    const answer = ask();
    await waitFor("it runs", async () => (await running()) > 0);
    lone.processes.find(({ name }) => name === "decode-0")?.kill("SIGTERM");
    expect(await answer).toEqual(undisturbed);
  } finally {
    await lone.stop();
  }
}, 240_000);
