import fc from "fast-check";
import { expect, test } from "vitest";
import { compare, largestDifference, type Measured, medianRun, type Run, servedFigures, targetsOf } from "./compare.ts";

const ms = fc.double({ min: 1, max: 10_000, noNaN: true });
const statistics = fc.record({ mean: ms, p50: ms, p90: ms });
const measured: fc.Arbitrary<Measured> = fc.record({ ttft: statistics, tpot: statistics });
const run: fc.Arbitrary<Run> = fc.record({ said: measured, served: measured });
const scaled = ({ said, served }: Run, ttft: number, tpot: number): Run => {
  const of = (figures: Measured["ttft"], by: number) => ({ mean: figures.mean * by, p50: figures.p50 * by, p90: figures.p90 * by });
  return { said: { ttft: of(said.ttft, ttft), tpot: of(said.tpot, tpot) }, served };
};

test("what the stub did is summed up as the load test sums up", () => {
  const served = [10, 30, 20, 40].map((ttftMs) => ({ ttftMs, tpotMs: ttftMs / 10, tokens: 5 }));
  expect(servedFigures(served)).toMatchObject({ ttft: { mean: 25, p50: 20, p90: 40 }, tpot: { mean: 2.5, p50: 2, p90: 4 } });
});

test("the median is of each figure, whatever the order of the runs, and one wild run of three does not leave the others' range", () => {
  fc.assert(
    fc.property(
      run,
      fc.double({ min: 1.001, max: 1.02, noNaN: true }),
      fc.double({ min: 0.01, max: 100, noNaN: true }),
      (one, near, wild) => {
        const runs = [one, scaled(one, near, near), scaled(one, wild, wild)];
        const { said } = medianRun(runs);
        expect(medianRun([...runs].reverse())).toEqual({ said, served: one.served });
        for (const figure of ["ttft", "tpot"] as const) {
          expect(said[figure].p50).toBeGreaterThanOrEqual(one.said[figure].p50);
          expect(said[figure].p50).toBeLessThanOrEqual(one.said[figure].p50 * near);
        }
      },
    ),
  );
});

test("tools that say the same differ by nothing, and a difference in either figure is told", () => {
  fc.assert(
    fc.property(run, fc.double({ min: 0.5, max: 2, noNaN: true }), fc.boolean(), (aiperf, by, first) => {
      expect(largestDifference(compare(aiperf, aiperf))).toBe(0);
      const rows = compare(scaled(aiperf, first ? by : 1, first ? 1 : by), aiperf);
      expect(largestDifference(rows)).toBeCloseTo(Math.abs(by - 1), 3);
      expect(rows).toHaveLength(18);
    }),
  );
});

test("a difference beyond three hundredths, either way and of either figure, misses the target", () => {
  fc.assert(
    fc.property(run, fc.double({ min: 0.5, max: 2, noNaN: true }), fc.boolean(), (aiperf, by, first) => {
      // Figures are rounded to five digits.
      fc.pre(Math.abs(Math.abs(by - 1) - 0.03) > 1e-3);
      const [target] = targetsOf(compare(scaled(aiperf, first ? by : 1, first ? 1 : by), aiperf));
      expect(target?.met).toBe(Math.abs(by - 1) < 0.03);
    }),
  );
});
