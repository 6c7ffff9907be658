import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ConsoleOverview, ConsoleWorker } from "../../lib/contracts/console.ts";
import { column, keptSamples, noHistory, remember } from "./history.ts";

const totals = (sampledTokens: number) => ({ prefilledTokens: 0, sampledTokens, receivedBytes: 0, sentBytes: 0, preemptions: 0 });

function worker(more: Partial<ConsoleWorker> = {}): ConsoleWorker {
  return {
    workerId: "decode-0",
    instanceId: "a",
    role: "decode",
    state: "ready",
    modelName: "m",
    kvDtype: "bfloat16",
    blocks: { total: 10, free: 5, cached: 3 },
    requests: { running: 1, waiting: 0, maxWaiting: 8 },
    queuedPrefillTokens: 0,
    rates: { prefillTokensPerSecond: 0, decodeStepSeconds: 0, transferBytesPerSecond: 0 },
    kvBytesPerToken: 1,
    totals: totals(0),
    ...more,
  };
}

function overview(...workers: ConsoleWorker[]): ConsoleOverview {
  return {
    gateway: {
      gatewayId: "g",
      version: "0",
      models: [{ modelName: "m", chats: true, contextTokens: 1, notReady: null }],
      uptimeSeconds: 1,
      notReady: null,
      requests: { running: 0, mostRunning: 1, cancelling: 0 },
    },
    workers,
  };
}

describe("the history", () => {
  it("has what is used of a pool's blocks, and rates from the second overview on", () => {
    let history = remember(noHistory, overview(worker({ totals: totals(100) })), 1);
    history = remember(history, overview(worker({ totals: totals(150) })), 3);
    expect(column(history.samples, ["decode"], "blocksUsed")).toEqual([2, 2]);
    expect(column(history.samples, ["decode"], "sampledPerSecond")).toEqual([null, 25]);
    expect(column(history.samples, ["prefill"], "sampledPerSecond")).toEqual([null, 0]);
  });

  it("counts nothing for a worker that has just come or come anew", () => {
    let history = remember(noHistory, overview(worker({ totals: totals(100) })), 1);
    history = remember(history, overview(worker({ instanceId: "b", totals: totals(70) }), worker({ instanceId: "c" })), 2);
    expect(column(history.samples, ["decode"], "sampledPerSecond")).toEqual([null, 0]);
  });

  it("breaks its lines where nobody looked, and does not average over the pause", () => {
    let history = remember(noHistory, overview(worker({ totals: totals(0) })), 1);
    history = remember(history, overview(worker({ totals: totals(1000) })), 100);
    expect(column(history.samples, ["decode"], "running")).toEqual([1, null, 1]);
    expect(column(history.samples, ["decode"], "sampledPerSecond")).toEqual([null, null, null]);
  });

  it("stays bounded, its times ascend, and rates are never negative", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: -1, max: 9 }), fc.nat(1000)), { maxLength: 900 }), (steps) => {
        let history = noHistory;
        let at = 0;
        for (const [seconds, sampled] of steps) {
          at += seconds;
          history = remember(history, overview(worker({ totals: totals(sampled) })), at);
        }
        expect(history.samples.length).toBeLessThanOrEqual(keptSamples);
        const times = history.samples.map(({ atSeconds }) => atSeconds);
        expect(times.every((time, i) => i === 0 || time > (times[i - 1] as number))).toBe(true);
        expect(column(history.samples, ["decode"], "sampledPerSecond").every((rate) => rate === null || rate >= 0)).toBe(true);
      }),
    );
  });
});
