// Rules against a slow model that looks at the whole output each time.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { TokenRules } from "../contracts/messages.ts";
import { RuledTokens } from "./token-rules.ts";

const vocabulary = 40;
const id = fc.integer({ min: 0, max: vocabulary - 1 });
const rules: fc.Arbitrary<TokenRules> = fc.record(
  {
    allowed: fc.uniqueArray(id, { minLength: 5 }),
    minTokens: fc.record({ count: fc.nat(6), endTokenIds: fc.array(id, { maxLength: 2 }) }),
    banned: fc.array(fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 3 }), { maxLength: 3 }),
    thought: fc.record({ maxTokens: fc.nat(6), closeToken: fc.constant(39) }),
  },
  { requiredKeys: [] },
);

function allowedSlowly(given: TokenRules, output: readonly number[]): number[] {
  let ids = Array.from({ length: vocabulary }, (_, one) => one).filter((one) => given.allowed?.includes(one) ?? true);
  if (given.minTokens !== undefined && output.length < given.minTokens.count) {
    const longer = ids.filter((one) => !given.minTokens?.endTokenIds.includes(one));
    if (longer.length > 0) ids = longer;
  }
  ids = ids.filter((one) => !given.banned?.some((sequence) => [...output, one].slice(-sequence.length).join() === sequence.join()));
  if (given.thought !== undefined && !output.includes(39) && output.length >= given.thought.maxTokens)
    ids = ids.filter((one) => one === 39);
  return ids;
}

const idsOf = (mask: Uint32Array) =>
  Array.from({ length: vocabulary }, (_, one) => one).filter((one) => ((mask[one >>> 5] as number) >>> (one & 31)) & 1);

describe("rules for tokens", () => {
  it("allow what the slow model allows, and say so where that is nothing", async () => {
    await fc.assert(
      fc.asyncProperty(rules, fc.array(fc.oneof(fc.integer({ min: 0, max: 3 }), id), { maxLength: 8 }), async (given, output) => {
        const ruled = new RuledTokens(vocabulary, given, undefined);
        for (const token of output) ruled.accept(token);
        const expected = allowedSlowly(given, output);
        if (expected.length > 0) expect(idsOf(await ruled.allowed())).toEqual(expected);
        else await expect(ruled.allowed()).rejects.toMatchObject({ code: "invalid_request" });
      }),
      { numRuns: 1_000 },
    );
  });

  it("leave the end to an answer that its format completes", async () => {
    const grammar = { allowed: () => Promise.resolve(Uint32Array.of(1 << 7, 0)), accept: () => {}, dispose: () => {} };
    const ruled = new RuledTokens(vocabulary, { minTokens: { count: 5, endTokenIds: [7] } }, grammar);
    expect(idsOf(await ruled.allowed())).toEqual([7]);
  });
});
