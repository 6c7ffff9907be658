import { expect, test } from "vitest";
import { Random } from "../../lib/simulator/random.ts";
import { addTo, difference, emptyAnswer, type Answer } from "./answer.ts";
import { faults, nextGap, nextStrike, roles, type Strike } from "./plan.ts";
import { makePool } from "./pool.ts";
import { percentiles } from "./tally.ts";

const poolOptions = { count: 300, model: "m", vocabSize: 320, maxPositions: 1536, maxTokens: 200 };

test("the pool is the seed's, and every request fits", () => {
  const pool = makePool(new Random(7), poolOptions);
  expect(makePool(new Random(7), poolOptions)).toEqual(pool);
  expect(makePool(new Random(8), poolOptions)).not.toEqual(pool);
  for (const { promptTokens, body } of pool) {
    expect(promptTokens).toBeGreaterThan(0);
    expect(promptTokens + (body.max_tokens as number)).toBeLessThanOrEqual(1536);
    expect(body.prompt).toHaveLength(promptTokens);
  }
});

test("there is one strike in each gap, and after a rest no more than a few are made up for", () => {
  const dueOf = (passed: readonly number[]) => {
    let taken = 0;
    return passed.map((each) => {
      const gap = nextGap(taken, each, 4);
      taken = gap + 1;
      return gap;
    });
  };
  expect(dueOf([0, 0.5, 1.2, 2.9, 3.1])).toEqual([0, 1, 2, 3, 4]);
  expect(dueOf([0, 4.1, 4.1, 4.1, 4.1])).toEqual([0, 1, 2, 3, 4]);
  expect(dueOf([0, 90.5, 90.5, 90.6])).toEqual([0, 86, 87, 88]);
  // Without a gap there is nothing to wait for.
  expect(dueOf([0 / 0, 5 / 0])).toEqual([0, 1]);
});

test("every fault strikes every role at every one of its points before one is struck far more often", () => {
  const random = new Random(3);
  const counts = new Map<string, number>();
  const key = ({ fault, role, point }: Omit<Strike, "skip">) => `${fault} ${role} ${point}`;
  for (let i = 0; i < 3_000; i++) {
    const strike = nextStrike(random, { faults, roles, drains: true }, (one) => counts.get(key(one)) ?? 0);
    counts.set(key(strike), (counts.get(key(strike)) ?? 0) + 1);
  }
  for (const fault of faults) {
    for (const role of roles) {
      const of = [...counts].filter(([name]) => name.startsWith(`${fault} ${role} `) && !name.endsWith("random")).map(([, count]) => count);
      expect(of.length).toBeGreaterThanOrEqual(8);
      expect(Math.max(...of) - Math.min(...of)).toBeLessThanOrEqual(1);
    }
  }
});

test("nothing drains where nothing may", () => {
  const random = new Random(3);
  for (let i = 0; i < 500; i++) expect(nextStrike(random, { faults, roles, drains: false }, () => 0).point).not.toBe("drain");
});

test("an answer in chunks equals the whole one, and whatever differs is named", () => {
  const choice = (tokens: number[], text: string, finish: string | null) => ({
    choices: [
      {
        text,
        token_ids: tokens,
        logits_digests: tokens.map((token) => `d${token}`),
        logprobs: {
          tokens: tokens.map(String),
          token_logprobs: tokens.map((token) => -token),
          top_logprobs: tokens.map(() => ({})),
          text_offset: tokens.map((_, i) => i),
        },
        finish_reason: finish,
      },
    ],
  });
  const whole = emptyAnswer();
  addTo(whole, { ...choice([1, 2, 3], "abc", "length"), usage: { completion_tokens: 3 } });
  const part = emptyAnswer();
  for (const [token, text] of [[1, "a"] as const, [2, "bc"] as const]) addTo(part, choice([token], text, null));
  // The offsets of the chunks above begin anew; a real stream's do not.
  part.logprobs = whole.logprobs.slice(0, 2);
  expect(difference(whole, part, true)).toBeNull();
  expect(difference(whole, part, false)).toContain("2 tokens, not 3");
  expect(difference(whole, structuredClone(whole), false)).toBeNull();
  for (const field of ["tokens", "digests", "logprobs"] as const) {
    const other: Answer = structuredClone(whole);
    (other[field] as (number | string)[])[1] = "x";
    expect(difference(whole, other, true)).toContain(`${field}[1]`);
  }
  expect(difference(whole, { ...structuredClone(whole), finish: "stop" }, false)).toContain("finish");
  expect(difference(whole, { ...part, text: "b" }, true)).toContain("text");
  // More tokens than the right answer has.
  expect(difference(whole, { ...part, tokens: [1, 2, 3, 4] }, true)).toContain("tokens[3]");
});

test("percentiles", () => {
  expect(percentiles([])).toBeNull();
  expect(percentiles(Array.from({ length: 100 }, (_, i) => i))).toEqual({ count: 100, p50: 49, p90: 89, p99: 98, max: 99 });
});
