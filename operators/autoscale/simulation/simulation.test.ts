import { describe, expect, it } from "vitest";
import { inTree } from "../../../services/cli/tree.ts";
import { Random } from "../../../services/lib/simulator/random.ts";
import { snapshotOf } from "../scrape.ts";
import { pools } from "./compare.ts";
import { Hpa } from "./hpa.ts";
import { hpas, planner, staticSplit } from "./policies.ts";
import { objectives, rates } from "./rates.ts";
import { scenario } from "./scenarios.ts";
import { afterAnother, type TraceRequest } from "./trace.ts";
import { type Policy, World } from "./world.ts";

const seeded = (seed: number) => {
  const random = new Random(seed);
  return () => random.real();
};
const config = { ...pools, ...objectives, stabilizationSeconds: 300, scaleToZeroAfterSeconds: null };
const traceOf = (name: "conversation" | "code") => scenario(name, (file) => inTree("testdata", "traces", file)).trace;
const firstMinutes = (trace: TraceRequest[], minutes: number) => trace.filter(({ atMs }) => atMs < minutes * 60_000);
const run = (trace: TraceRequest[], policy: Policy, first = { prefill: 4, decode: 4 }, seed = 1) =>
  new World(rates, first, seeded(seed)).run(trace, policy);

describe("the HPA, by its documented algorithm", () => {
  const hpa = () => new Hpa({ minReplicas: 1, maxReplicas: 20, target: 10 });

  it("wants ceil(current * metric / target), and nothing within a tenth", () => {
    expect(hpa().desired(0, 80, 4, 4)).toBe(8);
    expect(hpa().desired(0, 81, 4, 4)).toBe(8);
    expect(hpa().desired(0, 43, 4, 4)).toBe(4);
    expect(hpa().desired(0, 37, 4, 4)).toBe(4);
    expect(hpa().desired(0, 45, 4, 4)).toBe(5);
  });

  it("at most doubles, or adds four, within its bounds", () => {
    expect(hpa().desired(0, 1000, 2, 2)).toBe(6);
    expect(hpa().desired(0, 1000, 6, 6)).toBe(12);
    expect(hpa().desired(0, 1000, 15, 15)).toBe(20);
  });

  it("goes down to the largest recommendation of five minutes", () => {
    const scaler = hpa();
    expect(scaler.desired(0, 80, 8, 8)).toBe(8);
    for (let at = 15; at < 300; at += 15) expect(scaler.desired(at, 10, 8, 8)).toBe(8);
    expect(scaler.desired(300, 10, 8, 8)).toBe(1);
  });

  it("takes those that are not ready for idle where it would go up", () => {
    expect(hpa().desired(0, 60, 4, 2)).toBe(6);
    expect(hpa().desired(0, 40, 4, 2)).toBe(4);
    expect(hpa().desired(0, 0, 4, 0)).toBe(4);
  });
});

describe("simulated workers", () => {
  const one = (promptTokens: number, outputTokens: number, atMs = 0) => ({ atMs, promptTokens, outputTokens });
  const fixed = staticSplit({ prefill: 1, decode: 1 });

  it("take the times that their rates say", () => {
    const { ttftP90Seconds, attained } = run([one(3000, 101)], fixed, { prefill: 1, decode: 1 });
    expect(ttftP90Seconds).toBeCloseTo(1 + 0.026);
    expect(attained).toBe(1);
    // The second waits for the first.
    const two = run([one(3000, 1), one(6000, 1)], fixed, { prefill: 1, decode: 1 });
    expect(two.attainedTtft).toBe(0.5);
  });

  it("end every request, also of workers that were told to stop, and cost until they are gone", () => {
    const trace = firstMinutes(traceOf("code"), 6);
    let turn = 0;
    const restless: Policy = () => ({ prefill: 1 + (turn++ % 5), decode: 1 + (turn % 3) });
    const outcome = run(trace, restless);
    expect(outcome.requests).toBe(trace.length);
    expect(outcome.replicaHours).toBeGreaterThan((2 * 5) / 60);
  });

  it("say with their metrics what happens to them", () => {
    const seen: ReturnType<typeof snapshotOf>[] = [];
    const look: Policy = (observed) => {
      seen.push(snapshotOf(observed));
      return { prefill: 4, decode: 4 };
    };
    const trace = firstMinutes(traceOf("conversation"), 10);
    run(trace, look);
    const total = (read: (snapshot: (typeof seen)[number]) => number) => seen.reduce((sum, s) => sum + read(s) * s.intervalSeconds, 0);
    const atEnd = seen.at(-1);
    expect(total((s) => s.requestsPerSecond ?? 0)).toBeGreaterThan(0.97 * trace.length);
    expect(total((s) => s.requestsPerSecond ?? 0)).toBeLessThan(1.01 * trace.length);
    const prompts = trace.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
    expect(total((s) => s.inputTokensPerSecond) / prompts).toBeCloseTo(1, 1);
    expect(atEnd?.decode.replicas[0]?.sample?.stepSeconds).toBeGreaterThan(rates.stepSeconds);
    expect(atEnd?.prefill.replicas[0]?.sample?.tokensPerSecond).toBeCloseTo(rates.prefillTokensPerSecond);
  });
});

describe("the planner in simulated time", () => {
  it("does the same with the same seed", () => {
    const trace = firstMinutes(traceOf("code"), 15);
    expect(run(trace, planner(config))).toEqual(run(trace, planner(config)));
    expect(run(trace, planner(config), undefined, 2)).not.toEqual(run(trace, planner(config)));
  });

  it("keeps SLOs under a steady load from a few replicas on, for less than HPAs on what waits", () => {
    const trace = firstMinutes(traceOf("conversation"), 40);
    const ours = run(trace, planner(config));
    expect(ours.attained).toBeGreaterThan(0.98);
    const theirs = run(trace, hpas("waiting", { prefill: 1, decode: 1 }, pools));
    expect(ours.attained).toBeGreaterThan(theirs.attained);
    expect(ours.replicaHours).toBeLessThan(theirs.replicaHours);
  });

  it("sleeps in a pause and wakes with the first request after it", () => {
    const part = firstMinutes(traceOf("conversation"), 3);
    const outcome = run(afterAnother(part, 1800, part), planner({ ...config, scaleToZeroAfterSeconds: 300 }));
    const asleep = outcome.course.find(({ prefill, decode }) => prefill === 0 && decode === 0);
    expect(asleep?.atSeconds).toBeGreaterThan(180 + 300);
    const woken = outcome.course.find(({ atSeconds, prefill }) => atSeconds > (asleep?.atSeconds ?? 0) && prefill > 0);
    expect(woken?.atSeconds).toBeLessThanOrEqual(180 + 1800 + 15);
  });

  it("follows a load that turns from answers to prompts", () => {
    const outcome = run(
      afterAnother(
        firstMinutes(traceOf("conversation"), 10),
        0,
        traceOf("code").filter(({ atMs }) => atMs < 20 * 60_000),
      ),
      planner(config),
    );
    const last = outcome.course.at(-1);
    expect(last?.prefill).toBeGreaterThan(4);
    expect(last?.decode).toBeLessThan(4);
  });
});
