import { afterEach, expect, test, vi } from "vitest";
import { coreTargets, latencyTargets, streamsTargets } from "./bench-gateway/targets.ts";
import { atLeast, atMost, type BenchReport, printReport } from "./bench-report.ts";

afterEach(() => vi.restoreAllMocks());
const report = (targets: BenchReport["targets"]): BenchReport => ({ bench: "any", machine: "any", commit: "any", rows: [], targets });
const met = (targets: BenchReport["targets"]) => targets.map((target) => target.met);

test("a bench whose targets are all met prints them, and one that misses any prints them and fails", () => {
  const written: string[] = [];
  vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  const good = [atMost("a", 1, "ms", 1), atLeast("b", 2, "", 1)];
  printReport(report(good), true);
  expect(JSON.parse(written[0] ?? "")).toEqual(report(good));
  printReport(report([]));
  const bad = [...good, atMost("c", 1.5, "ms", 1)];
  expect(() => printReport(report(bad), true)).toThrow("1 of 3 targets missed: c: 1.5 <= 1 ms");
  expect(JSON.parse(written[2] ?? "").targets[2]).toEqual({ what: "c", value: 1.5, unit: "ms", relation: "<=", bound: 1, met: false });
  expect(() => printReport(report(bad))).toThrow();
  expect(written[3]).toContain("MISSED c: 1.5 <= 1 ms");
  expect(written[3]).toContain("met    a: 1 <= 1 ms");
});

test("what could not be measured is not met", () => {
  for (const of of [atMost, atLeast]) {
    expect(of("a", Number.NaN, "", 1)).toMatchObject({ value: null, met: false });
  }
});

test("the gateway adds less than a millisecond to the middle request", () => {
  expect(met(latencyTargets({ firstMs: 0.9, totalMs: 0.99 }))).toEqual([true, true]);
  expect(met(latencyTargets({ firstMs: 1.1, totalMs: 0.9 }))).toEqual([false, true]);
  expect(met(latencyTargets({ firstMs: 0.9, totalMs: 1.1 }))).toEqual([true, false]);
});

test("the gateway carries half of nginx's streams a core and the published gateway's, and both say in how many pieces", () => {
  const carried = (streamsACore: number, pieces = 64) => ({ streamsACore, pieces });
  const both = coreTargets({ ours: carried(60, 8), nginx: carried(100), published: carried(50) });
  expect(met(both)).toEqual([true, true]);
  expect(both[0]?.what).toContain("8.0 pieces here, in 64.0 there");
  expect(met(coreTargets({ ours: carried(49), nginx: carried(100), published: carried(50) }))).toEqual([false, false]);
  expect(met(coreTargets({ ours: carried(49), nginx: null, published: null }))).toEqual([false, false]);
});

test("every stream is whole, and stalled readers do not slow the others", () => {
  const run = (right: number, jitterP99Ms: number) => ({ asked: 10, right, jitterP99Ms });
  expect(met(streamsTargets(run(10, 4), run(10, 5)))).toEqual([true, true, true]);
  expect(met(streamsTargets(run(9, 4), run(10, 8)))).toEqual([false, true, false]);
  expect(met(streamsTargets(run(10, 4), run(9, 4)))).toEqual([true, false, true]);
});
