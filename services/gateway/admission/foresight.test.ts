import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { workerState } from "../../../tests/gateway/scripted-decode.ts";
import { PelagicError } from "../../lib/contracts/errors.ts";
import type { WorkerState } from "../../lib/contracts/messages.ts";
import { type RouteRequest, route } from "../router.ts";
import { StateView } from "../state-view.ts";
import { type Estimate, estimate, refuseLate } from "./foresight.ts";
import type { Terms } from "./terms.ts";

const rates = { prefillTokensPerSecond: 1_000, decodeStepSeconds: 0.01, transferBytesPerSecond: 1e8 };
const asked: RouteRequest = {
  modelName: "test-model",
  promptTokens: 1_001,
  maxTokens: 10,
  identity: null,
  blockKeys: new Map(),
  excluded: new Set(),
  localPrefillTokens: 0,
};

function foresee(priority: "high" | "normal" | "low", ...workers: WorkerState[]): Estimate | null {
  const view = new StateView();
  for (const worker of workers) view.apply(worker, 0);
  const snapshot = view.snapshot(0);
  const chosen = route(snapshot, asked);
  if (chosen === null) throw new Error("no route");
  return estimate(snapshot, chosen, priority);
}

const decode = (more: Partial<WorkerState> = {}) => workerState("decode-0", "decode", { rates, ...more });

describe("the estimate", () => {
  test("on an idle worker is the prompt's own time", () => {
    const foreseen = foresee("normal", decode());
    expect(foreseen?.waitSeconds).toBe(0);
    expect(foreseen?.firstTokenSeconds).toBeCloseTo(1.01);
  });

  test("counts what stands before it, by class", () => {
    const busy = {
      requests: { running: 4, waiting: 8, maxWaiting: 16, waitingOf: { high: 1, normal: 3, low: 4 } },
      queuedPrefillTokens: 8_000,
    };
    const wait = (priority: "high" | "normal" | "low") => (foresee(priority, decode(busy)) as Estimate).waitSeconds;
    // Places: 2.56 s of typical answers over 4 at once. Prefill: 8 s, of which a class waits for its share.
    expect(wait("high")).toBeCloseTo((2 * 2.56) / 4 + 1);
    expect(wait("normal")).toBeCloseTo((5 * 2.56) / 4 + 4);
    expect(wait("low")).toBeCloseTo((9 * 2.56) / 4 + 8);
    // An older worker does not say which classes wait.
    expect(
      (foresee("high", decode({ ...busy, requests: { running: 4, waiting: 8, maxWaiting: 16 } })) as Estimate).waitSeconds,
    ).toBeCloseTo(wait("low"));
  });

  test("counts no place that is free: requests of one burst wait for the next step, not for each other's ends", () => {
    const wait = (running: number, waiting: number, maxRunning: number, more: Partial<WorkerState> = {}) =>
      foresee("normal", decode({ requests: { running, waiting, maxRunning, maxWaiting: 4_096 }, ...more }))?.waitSeconds;
    expect(wait(1, 2_000, 4_096)).toBe(0);
    expect(wait(4, 2, 4)).toBeCloseTo((3 * 2.56) / 4);
    expect(wait(4, 2, 6)).toBeCloseTo((1 * 2.56) / 4);
    // Free places are no use to those who wait for blocks.
    const full = { blocks: { total: 100, free: 0, cached: 0 } };
    expect(wait(4, 20, 4_096, full)).toBeCloseTo((21 * 2.56) / 4);
  });

  test("is of the prefill worker where one is chosen", () => {
    const prefill = workerState("prefill-0", "prefill", { rates, queuedPrefillTokens: 500 });
    const foreseen = foresee("normal", decode({ queuedPrefillTokens: 100_000 }), prefill);
    expect(foreseen?.waitSeconds).toBeCloseTo(0.5);
  });

  test("is none where nothing was measured", () => {
    expect(foresee("normal", decode({ rates: { ...rates, prefillTokensPerSecond: 0 } }))).toBeNull();
    expect(foresee("normal", decode({ rates: { ...rates, decodeStepSeconds: 0 } }))).toBeNull();
  });
});

describe("what would be late is refused", () => {
  const refused = (terms: Partial<Terms>, foreseen: Estimate | null, elapsedMs = 0): PelagicError | null => {
    try {
      refuseLate(
        { priority: "normal", ttftMs: null, tpotMs: null, deadlineMs: 600_000, ownDeadline: false, ...terms },
        foreseen,
        elapsedMs,
      );
      return null;
    } catch (error) {
      return error as PelagicError;
    }
  };

  test("by its deadline, and by its objective where others are the reason", () => {
    // Whole, so that sums are exact.
    const seconds = fc.nat({ max: 100 });
    const limit = fc.integer({ min: 1, max: 100_000 });
    fc.assert(
      fc.property(
        seconds,
        seconds,
        limit,
        fc.option(limit),
        fc.nat({ max: 1_000 }),
        (waitSeconds, ownSeconds, deadlineMs, ttftMs, elapsedMs) => {
          const error = refused({ deadlineMs, ttftMs }, { waitSeconds, firstTokenSeconds: waitSeconds + ownSeconds }, elapsedMs);
          const meetsDeadline = elapsedMs + (waitSeconds + ownSeconds) * 1000 <= deadlineMs;
          const othersFault = ttftMs !== null && waitSeconds > 0 && elapsedMs + waitSeconds * 1000 > ttftMs;
          expect(error === null).toBe(meetsDeadline && !othersFault);
          if (error === null) return;
          expect(error).toBeInstanceOf(PelagicError);
          expect(error.code).toBe("overloaded");
          expect(error.retryAfterMs).toBeGreaterThanOrEqual(1_000);
          expect(error.retryAfterMs).toBeLessThanOrEqual(60_000);
        },
      ),
    );
  });

  test("and nothing that is not known", () => {
    expect(refused({ deadlineMs: 1, ttftMs: 1 }, null)).toBeNull();
    // No later time would be better.
    expect(refused({ ttftMs: 1 }, { waitSeconds: 0, firstTokenSeconds: 50 }, 10)).toBeNull();
  });
});
