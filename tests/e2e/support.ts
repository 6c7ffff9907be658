// What the end-to-end tests share.
import { expect } from "vitest";
import type { Stack } from "../../services/cli/stack/stack.ts";

/** For stacks whose processes are killed again and again. */
export const promptRestarts = { deaths: 50, windowMs: 60_000, firstPauseMs: 100, longestPauseMs: 200 };

export interface WorkerRow {
  instanceId: string;
  workerId: string;
  role: string;
  modelName: string;
  state: string;
  requests: { running: number; waiting: number };
  blocks: { total: number; free: number; cached: number };
  totals?: { prefilledTokens: number; sampledTokens: number };
}

export async function workersOf(stack: Stack): Promise<WorkerRow[]> {
  const body = (await (await fetch(`${stack.adminUrl}/status`)).json()) as { workers: WorkerRow[] };
  return body.workers;
}

/** Polls until the condition holds; the bound is far beyond what it takes. */
export async function waitFor(what: string, condition: () => Promise<boolean>, boundMs = 30_000): Promise<void> {
  const end = performance.now() + boundMs;
  for (;;) {
    if (await condition().catch(() => false)) return;
    if (performance.now() > end) throw new Error(`not within ${boundMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export type Outcome = { tokens: number[]; end: string };

/** One streamed request, from the first byte to the end of the body. */
export async function stream(
  stack: Stack,
  seed: number,
  { model = stack.modelName, maxTokens = 400 }: { model?: string; maxTokens?: number } = {},
): Promise<Outcome> {
  let response: Response;
  try {
    response = await fetch(`${stack.baseUrl}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model,
        prompt: Array.from({ length: 300 }, (_, i) => (i * 31 + seed) % 256),
        max_tokens: maxTokens,
        ignore_eos: true,
        // A seed and penalties: a resume that forgot one of them would show.
        temperature: 1,
        seed,
        presence_penalty: 0.5,
        stream: true,
        return_token_ids: true,
      }),
    });
  } catch {
    return { tokens: [], end: "connection refused" };
  }
  if (!response.ok) return { tokens: [], end: ((await response.json()) as { error: { code: string } }).error.code };
  let text = "";
  try {
    for await (const part of response.body as unknown as AsyncIterable<Uint8Array>) text += Buffer.from(part).toString("utf8");
  } catch {
    return { tokens: [], end: "connection closed" };
  }
  const events = text.split("\n\n").flatMap((event) => (event.startsWith("data: {") ? [JSON.parse(event.slice(6))] : []));
  const error = events.find((event) => event.error)?.error.code;
  const finish = events.flatMap((event) => event.choices ?? []).find((choice) => choice.finish_reason)?.finish_reason;
  const tokens = events.flatMap((event) => event.choices ?? []).flatMap((choice) => choice.token_ids ?? []);
  expect(text).toContain("data: [DONE]");
  return { tokens, end: error ?? finish ?? "none" };
}
