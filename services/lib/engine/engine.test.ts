// Calls of several decode steps: answers are those of an engine that makes one step a call, whatever ends them.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { silentLog } from "../contracts/bus.ts";
import { PelagicError } from "../contracts/errors.ts";
import { Engine, type EngineEnd } from "./engine.ts";
import { maxDecodeSteps } from "./scheduler.ts";
import { CacheRunner } from "./testing/cache-runner.ts";
import { ManualClock } from "./testing/memory-bus.ts";

interface Script {
  promptRows: number;
  salt: number;
  maxTokens: number;
  stopTokenIds: number[];
  /** Cancels itself as it hears this token. */
  cancelAt: number | undefined;
  isScored: boolean;
}

interface Answer {
  /** Of the prompt's tokens, in the order in which they came. */
  scores: [token: number, logprob: number][];
  tokens: number[];
  digests: bigint[];
  end: EngineEnd | undefined;
}

/** Runs the requests; `steps` bounds what one call may do. */
async function answers(scripts: Script[], kvBlocks: number, steps: number) {
  const runner = new CacheRunner(kvBlocks);
  const run = runner.run.bind(runner);
  let calls = 0;
  runner.run = (work, options) => {
    calls++;
    return run(work, { ...options, steps: Math.min(steps, options?.steps ?? 1) });
  };
  const config = { kvBlocks, tokenBudget: 128, chunkTokens: 128, chunkAlignTokens: 64 as const, maxSequences: 4, maxWaiting: 16 };
  const engine = new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "" }, config, new ManualClock(), silentLog);
  const results = await Promise.all(
    scripts.map(
      (script, i) =>
        new Promise<Answer>((resolve) => {
          const answer: Answer = { scores: [], tokens: [], digests: [], end: undefined };
          engine.submit({
            id: `r${i}`,
            tokens: Uint32Array.from({ length: script.promptRows }, (_, row) => (row * 31 + script.salt) % 97),
            promptLength: script.promptRows,
            cacheSalt: "",
            mode: "local",
            maxTokens: script.maxTokens,
            stopTokenIds: new Set(script.stopTokenIds),
            sampling: { temperature: 0, seed: 1n, choice: 0 },
            digests: true,
            ...(script.isScored && { promptTop: 0 }),
            listener: {
              onScored: (scored) => {
                expect(answer.tokens).toEqual([]);
                answer.scores.push(...scored.map(({ token, logprob }): [number, number] => [token, logprob]));
              },
              onToken: (index, sampled, digest) => {
                answer.tokens[index] = sampled.token;
                answer.digests[index] = digest as bigint;
                if (index === script.cancelAt) engine.cancel(`r${i}`, new PelagicError("cancelled", "heard enough"));
              },
              onEnd: (end) => {
                expect(answer.end).toBeUndefined();
                answer.end = end;
                resolve(answer);
              },
            },
          });
        }),
    ),
  );
  await engine.close();
  engine.blocks.check();
  expect(engine.blocks.owners()).toEqual([]);
  return { results, calls, steps: runner.steps };
}

const anyScript: fc.Arbitrary<Script> = fc.record({
  promptRows: fc.integer({ min: 1, max: 200 }),
  salt: fc.nat(2),
  maxTokens: fc.integer({ min: 1, max: 90 }),
  stopTokenIds: fc.uniqueArray(fc.nat(96), { maxLength: 2 }),
  cancelAt: fc.option(fc.nat(60), { nil: undefined }),
  isScored: fc.boolean(),
});

describe("several steps in one call", () => {
  test("give the tokens, digests and ends of one step a call", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyScript, { minLength: 1, maxLength: 6 }), fc.integer({ min: 5, max: 16 }), async (scripts, kvBlocks) => {
        const several = await answers(scripts, kvBlocks, maxDecodeSteps);
        const single = await answers(scripts, kvBlocks, 1);
        expect(several.results).toEqual(single.results);
        expect(single.calls).toBe(single.steps);
      }),
      { numRuns: 60 },
    );
  });

  test("are made: an answer of 65 tokens takes a call for its prompt and one for each 16 more, and no step too many", async () => {
    const script = { promptRows: 10, salt: 0, maxTokens: 65, stopTokenIds: [], cancelAt: undefined, isScored: false };
    const { calls, steps } = await answers([script], 8, maxDecodeSteps);
    expect([calls, steps]).toEqual([1 + 64 / maxDecodeSteps, 65]);
  });
});

test("a prompt's tokens are scored once each and in order, with the same bits alone, beside others, from what is cached, and preempted", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(anyScript, { minLength: 2, maxLength: 6 }), fc.integer({ min: 5, max: 12 }), async (scripts, kvBlocks) => {
      const { results } = await answers(scripts, kvBlocks, maxDecodeSteps);
      for (const [i, script] of scripts.entries()) {
        const alone = (await answers([script], 64, 1)).results[0] as Answer;
        expect(results[i]).toEqual(alone);
        const tokens = Array.from({ length: script.promptRows }, (_, row) => (row * 31 + script.salt) % 97);
        expect(alone.scores.map(([token]) => token)).toEqual(script.isScored ? tokens.slice(1) : []);
      }
    }),
    { numRuns: 40 },
  );
}, 60_000);

test("a tenant that floods the queue does not hold up another one, nor take its place", async () => {
  const config = { kvBlocks: 64, tokenBudget: 64, chunkTokens: 64, chunkAlignTokens: 64 as const, maxSequences: 1, maxWaiting: 20 };
  const engine = new Engine(new CacheRunner(64), { modelDigest: "", numericsId: "", kvDtype: "" }, config, new ManualClock(), silentLog);
  const ended: string[] = [];
  const all: Promise<void>[] = [];
  const submit = (tenant: string, id: string) =>
    engine.submit({
      id,
      tokens: Uint32Array.of(1, 2, 3),
      promptLength: 3,
      cacheSalt: tenant,
      mode: "local",
      maxTokens: 20,
      stopTokenIds: new Set(),
      sampling: { temperature: 0, seed: 1n, choice: 0 },
      listener: {
        onEnd: () => {
          ended.push(id);
          done.get(id)?.();
        },
      },
    });
  const done = new Map<string, () => void>();
  const begin = (tenant: string, id: string) => {
    all.push(new Promise((resolve) => done.set(id, resolve)));
    submit(tenant, id);
  };
  let flood = 0;
  expect(() => {
    for (;;) begin("flood", `f${flood++}`);
  }).toThrow("of this tenant");
  all.pop();
  begin("other", "o0");
  begin("third", "t0");
  await Promise.all(all);
  expect(ended.slice(0, 3)).toEqual(["f0", "o0", "t0"]);
  expect(ended).toHaveLength(flood + 1);
  await engine.close();
});
