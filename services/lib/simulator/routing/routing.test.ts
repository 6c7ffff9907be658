import { describe, expect, test } from "vitest";
import { inTree } from "../../../cli/tree.ts";
import { nodeScale } from "./cluster.ts";
import { comparePolicies } from "./compare.ts";
import { drawComparison } from "./draw.ts";
import { readTrace } from "./trace.ts";

describe.each([
  ["conversation", 1],
  ["conversation", 1.7],
  ["synthetic", 1],
  ["synthetic", 1.7],
])("the first minutes of the %s trace, %d times as fast", (name, speed) => {
  const trace = readTrace(inTree("testdata", "traces", `mooncake-${name}.jsonl.gz`), speed).slice(0, 500);

  test("first tokens come no later than under any simpler policy, with reports that lag behind", () => {
    const [ours, , ...others] = comparePolicies(trace);
    expect(ours?.policy).toBe("ours");
    expect(others).toHaveLength(4);
    for (const other of others) {
      expect(ours?.ttftP50Seconds, other.policy).toBeLessThanOrEqual(other.ttftP50Seconds);
      expect(ours?.ttftP99Seconds, other.policy).toBeLessThanOrEqual(other.ttftP99Seconds);
    }
    expect(ours?.requests).toBe(trace.length);
  });
});

test("the same trace gives the same figures, and every prompt token is computed or hit", () => {
  const trace = readTrace(inTree("testdata", "traces", "mooncake-synthetic.jsonl.gz"), 1).slice(0, 120);
  const first = comparePolicies(trace, { ...nodeScale, prefill: 2, decode: 2 });
  expect(comparePolicies(trace, { ...nodeScale, prefill: 2, decode: 2 })).toEqual(first);
  for (const { hitRate } of first) expect(hitRate).toBeGreaterThanOrEqual(0);
  const svg = drawComparison([{ trace: "synthetic", speed: 1, comparisons: first }]);
  for (const { policy } of first) expect(svg).toContain(`>${policy}<`);
});

test("a trace names equal prefixes equally, and no block that a hit may not cover", () => {
  const [first, second] = readTrace(inTree("testdata", "traces", "mooncake-conversation.jsonl.gz"), 2);
  expect(first).toMatchObject({ atMs: 0, promptTokens: 6_758, outputTokens: 500 });
  expect(first?.blockKeys).toHaveLength(Math.floor(6_757 / 64));
  expect(first?.blockKeys.slice(0, 8)).toEqual(second?.blockKeys.slice(0, 8));
  expect(first?.blockKeys[8]).not.toBe(second?.blockKeys[8]);
});
