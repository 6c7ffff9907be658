import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeDeltas, encodeDeltas } from "./deltas.ts";
import { Delta } from "./messages.ts";
import { encodeMessage } from "./wire.ts";

test("deltas of many attempts come back as they were, each with its own tokens", () => {
  const part = fc.record({
    delta: fc.record({ attemptId: fc.stringMatching(/^[a-z0-9]{1,8}$/), from: fc.nat() }),
    tokens: fc.uint32Array({ maxLength: 20 }),
  });
  fc.assert(
    fc.property(fc.array(part, { minLength: 1, maxLength: 10 }), (parts) => {
      const back = decodeDeltas(encodeDeltas(parts));
      expect(
        back.map(({ delta: { attemptId, from }, tokens }) => ({ delta: { attemptId, from }, tokens: Uint32Array.from(tokens) })),
      ).toEqual(parts);
    }),
  );
});

test("counts that are not those of the tokens are refused", () => {
  const of = (counts: number[], tokens: number) =>
    encodeMessage({ deltas: counts.map((count, i) => ({ attemptId: `a${i}`, from: 0, count })) }, new Uint32Array(tokens));
  expect(decodeDeltas(of([1, 0, 2], 3)).map(({ tokens }) => tokens.length)).toEqual([1, 0, 2]);
  for (const wrong of [of([1, 1], 3), of([4], 3), of([1], 0)]) expect(() => decodeDeltas(wrong)).toThrow(/deltas of \d tokens before/);
  expect(() => decodeDeltas(of([], 0))).toThrow("deltas");
});

test("a delta is what its schema takes, and no other", () => {
  const odd = fc.oneof(fc.jsonValue(), fc.constantFrom("a", "a b", "", "x".repeat(65), -1, 0, 1, 0.5, 2 ** 53, 1e300, null));
  const some = fc.record({ attemptId: odd, from: odd, count: odd, logprobs: odd, end: odd, other: odd }, { requiredKeys: [] });
  const near = fc.record({
    attemptId: fc.constantFrom("a", "a_1"),
    from: fc.oneof(fc.nat(), odd),
    count: fc.constantFrom(0, 1, -1, 1.5, "1"),
  });
  const any = fc.oneof({ weight: 3, arbitrary: near }, some, fc.jsonValue());
  let [taken, refused] = [0, 0];
  fc.assert(
    fc.property(any, (one) => {
      const { success, data } = Delta.safeParse(one);
      const tokens = success && data.count <= 1 ? data.count : 0;
      const message = encodeMessage({ deltas: [one] }, new Uint32Array(tokens));
      if (success && data.count === tokens) {
        taken++;
        // As JSON has it, which knows no -0.
        expect(decodeDeltas(message)[0]?.delta).toEqual(JSON.parse(JSON.stringify(data)));
      } else {
        refused++;
        expect(() => decodeDeltas(message)).toThrow("malformed message: deltas");
      }
    }),
    { numRuns: 1_000 },
  );
  expect(Math.min(taken, refused)).toBeGreaterThan(100);
});
