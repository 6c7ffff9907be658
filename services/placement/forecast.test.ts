import fc from "fast-check";
import { expect, test } from "vitest";
import { forecastLoads } from "./forecast.ts";

test("equal intervals forecast their own shares, whatever the hedge and the number of tokens", () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(100), { minLength: 4, maxLength: 4 }),
      fc.integer({ min: 1, max: 6 }),
      fc.double({ min: 0, max: 3, noNaN: true }),
      (load, intervals, hedge) => {
        const history = Array.from({ length: intervals }, (_, i) => load.map((each) => each * (i + 1)));
        const [forecast] = forecastLoads(history, 4, { halfLife: 2, hedge });
        const sum = load.reduce((a, b) => a + b);
        for (let i = 0; i < 4; i++) expect(forecast?.[i]).toBeCloseTo(sum === 0 ? 1 / 4 : (load[i] as number) / sum, 6);
      },
    ),
  );
});

test("the latest interval counts twice the one a half-life before, an empty one not at all, and what swings is taken for hotter", () => {
  const history = [
    [9, 0, 1],
    [0, 0, 0],
    [0, 9, 1],
  ];
  const plain = forecastLoads(history, 3, { halfLife: 2, hedge: 0 })[0] as Float64Array;
  expect(plain[1]).toBeCloseTo((2 / 3) * 0.9, 12);
  expect(plain[0]).toBeCloseTo((1 / 3) * 0.9, 12);
  const hedged = forecastLoads(history, 3, { halfLife: 2, hedge: 1 })[0] as Float64Array;
  expect(hedged[0]).toBeGreaterThan(plain[0] as number);
  expect(hedged[2]).toBeCloseTo(plain[2] as number, 6);
});
