import { expect, test } from "vitest";
import { arrivalTimes } from "./arrivals.ts";
import { gamma, uniform } from "./random.ts";

const base = { ratePerSecond: 50, endRatePerSecond: 50, durationSeconds: 200, burstiness: 1 };
const gapsOf = (times: number[]) => times.slice(1).map((time, i) => time - (times[i] as number));
const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const variation = (values: number[]) => Math.sqrt(mean(values.map((value) => (value - mean(values)) ** 2))) / mean(values);

test("arrivals have their rate, and gaps of the right spread", () => {
  const constant = arrivalTimes({ ...base, kind: "constant" }, uniform(1));
  expect(constant).toHaveLength(10_000);
  expect(constant.slice(0, 3)).toEqual([0, 20, 40]);
  for (const [kind, burstiness, spread] of [
    ["poisson", 1, 1],
    ["gamma", 0.25, 2],
    ["gamma", 4, 0.5],
  ] as const) {
    const times = arrivalTimes({ ...base, kind, burstiness }, uniform(2));
    expect(Math.abs(times.length / 10_000 - 1)).toBeLessThan(0.06);
    expect(Math.abs(variation(gapsOf(times)) / spread - 1)).toBeLessThan(0.06);
    expect(times.every((time, i) => time >= (times[i - 1] ?? 0) && time < 200_000)).toBe(true);
  }
});

test("a ramp sends as many as its mean rate says, more of them late", () => {
  const times = arrivalTimes({ ...base, kind: "poisson", ratePerSecond: 0.001, endRatePerSecond: 100 }, uniform(3));
  expect(Math.abs(times.length / 10_000 - 1)).toBeLessThan(0.05);
  // A quarter of the arrivals in the first half.
  expect(Math.abs(times.filter((time) => time < 100_000).length / times.length - 0.25)).toBeLessThan(0.02);
  const down = arrivalTimes({ ...base, kind: "constant", ratePerSecond: 100, endRatePerSecond: 0 }, uniform(3));
  expect(Math.abs(down.length - 10_000)).toBeLessThan(3);
});

test("the same seed is the same load, and gamma has mean one", () => {
  expect(arrivalTimes({ ...base, kind: "gamma", burstiness: 0.5 }, uniform(7))).toEqual(
    arrivalTimes({ ...base, kind: "gamma", burstiness: 0.5 }, uniform(7)),
  );
  const random = uniform(9);
  for (const shape of [0.3, 1, 5])
    expect(Math.abs(mean(Array.from({ length: 20_000 }, () => gamma(random, shape))) - 1)).toBeLessThan(0.05);
});
