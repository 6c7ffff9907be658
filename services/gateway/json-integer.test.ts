import fc from "fast-check";
import { expect, it } from "vitest";
import { writtenInteger } from "./json-integer.ts";

const of = (text: string) => writtenInteger(Buffer.from(text), "seed");

it("reads what was written, whatever stands around it", () => {
  const name = fc.oneof(fc.string(), fc.constantFrom("seed", '"seed": 1', "\\", '\\"seed'));
  const other = fc.oneof(name, fc.jsonValue(), fc.dictionary(name, fc.oneof(fc.integer(), name)));
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }), fc.dictionary(name, other), fc.nat(4), (seed, around, spaces) => {
      delete around.seed;
      const rest = JSON.stringify(around).slice(1, -1);
      const gap = " ".repeat(spaces);
      const own = `"seed"${gap}:${gap}${seed}`;
      for (const text of [`{${rest}${rest && ","}${own}${gap}}`, `{${own}${rest && `,${rest}`}}`]) expect(of(text)).toBe(seed);
    }),
  );
});

it("takes the last one, and leaves what is not plain digits", () => {
  expect(of('{"seed": 9007199254740993, "seed": 18446744073709551615}')).toBe(2n ** 64n - 1n);
  for (const text of ['{"seed": 1e20}', '{"seed": 9007199254740993.0}', '{"user": "seed"}', '{"a": {"seed": 1}}', '{"\\u0073eed": 1}'])
    expect(of(text), text).toBeNull();
});
