// ./pelagic hostile in short: every field of the API and of the bus twenty times, every attack twice, the second time with nothing left to grow.
import { expect, test } from "vitest";
import { runHostile } from "../../services/cli/hostile/run.ts";

test("a real stack asked what nobody meant answers, names the field, serves others, and holds nothing afterwards", async () => {
  const report = await runHostile({ seed: 1, times: 20, onProgress: (text) => console.log(text) });
  console.log(JSON.stringify({ ...report.fields, violations: undefined, slowest: undefined }));
  expect(report.fields.violations).toEqual([]);
  expect(report.attacks.faults).toEqual([]);
  expect(report.again.faults).toEqual([]);
  console.log(JSON.stringify(report.bus));
  expect(report.bus.faults).toEqual([]);
  expect(report.bus.intruder.frames).toBeGreaterThan(0);
  expect(report.steady.faults).toEqual([]);
  expect(report.holdings.growth).toEqual([]);
  expect(report.fields.leastValues).toBeGreaterThanOrEqual(20);
  expect(report.fields.accepted * 3).toBeGreaterThanOrEqual(report.fields.requests);
  expect(report.ok).toBe(true);
}, 1_200_000);
