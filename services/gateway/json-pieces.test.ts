import fc from "fast-check";
import { expect, it } from "vitest";
import { jsonPieces, lazily } from "./json-pieces.ts";

const text = (value: unknown) => [...jsonPieces(value)].join("");

it("is JSON.stringify's text, whatever the value", () => {
  const large = fc.oneof(
    fc
      .array(fc.jsonValue(), { maxLength: 8 })
      .map((some) => Array.from({ length: 3_000 }, (_, i) => some[i % Math.max(1, some.length)] ?? i)),
    fc.record({ a: fc.jsonValue(), gone: fc.constant(undefined), b: fc.string() }).map((one) => ({ ...one, long: Array(5_000).fill(one) })),
    fc.jsonValue().map((one) => [[], {}, [one], Array(2_500).fill([one, []]), "x".repeat(300_000), one]),
  );
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), large), (value) => {
      expect(text(value)).toBe(JSON.stringify(value));
    }),
    { numRuns: 25 },
  );
});

it("has no large piece, and makes the elements of long lists one piece at a time", () => {
  let made = 0;
  const entry = (i: number) => {
    made++;
    return { token: `t${i}`, logprob: -1 - i, bytes: [i % 256], top_logprobs: Array(20).fill({ token: "x", logprob: -1, bytes: [120] }) };
  };
  const ids = Array.from({ length: 20_000 }, (_, i) => i);
  const value = { choices: [{ logprobs: { content: lazily(ids, entry) }, token_ids: ids, text: "abc" }] };
  let [most, all, madeAtOnce, before] = [0, "", 0, 0];
  for (const piece of jsonPieces(value)) {
    most = Math.max(most, piece.length);
    madeAtOnce = Math.max(madeAtOnce, made - before);
    before = made;
    all += piece;
  }
  expect(most).toBeLessThan(200_000);
  expect(madeAtOnce).toBeLessThan(100);
  expect(JSON.parse(all)).toEqual({ choices: [{ logprobs: { content: ids.map(entry) }, token_ids: ids, text: "abc" }] });
});
