// The longest prompt that the model allows, prefilled apart; and what a worker says whose cache cannot hold one.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

let stack: Stack | undefined;
afterEach(() => stack?.stop());

const config = JSON.parse(readFileSync(join(embeddedModel(), "config.json"), "utf8")) as { max_position_embeddings: number };
const longest = config.max_position_embeddings;

function complete(on: Stack, length: number, maxTokens: number): Promise<Response> {
  return fetch(`${on.baseUrl}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model: on.modelName,
      prompt: Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) % 256),
      max_tokens: maxTokens,
      ignore_eos: true,
      temperature: 0,
      return_token_ids: true,
    }),
  });
}

interface Completion {
  choices: { token_ids: number[]; finish_reason: string }[];
  usage: { prompt_tokens: number; completion_tokens: number };
}

test("a prompt of all the model's positions but one goes through, and its answer is the same as decode's own", async () => {
  const answers: number[][] = [];
  for (const local of [false, true]) {
    stack = await startStack({ prefill: 1, decode: 1, env: local ? { PELAGIC_LOCAL_PREFILL_TOKENS: String(longest) } : {} });
    const response = await complete(stack, longest - 1, 1);
    const body = (await response.json()) as Completion;
    expect(response.status, JSON.stringify(body)).toBe(200);
    expect(body.usage).toMatchObject({ prompt_tokens: longest - 1, completion_tokens: 1 });
    expect(JSON.parse(response.headers.get("x-pelagic-route") ?? "{}").prefill ?? null).toBe(local ? null : "prefill-0");
    answers.push(body.choices[0]?.token_ids ?? []);
    await stack.stop();
  }
  expect(answers[0]).toHaveLength(1);
  expect(answers[1]).toEqual(answers[0]);
}, 240_000);

test("a prompt that no worker's cache can hold is refused with the number that it can", async () => {
  stack = await startStack({ prefill: 1, decode: 1, kvBlocks: 16 });
  const response = await complete(stack, longest - 1, 1);
  const body = (await response.json()) as { error: { message: string; code: string } };
  expect(response.status).toBe(400);
  expect(body.error.message).toContain(String(16 * 64));
}, 120_000);
