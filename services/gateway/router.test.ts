import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { testModelName, workerState } from "../../tests/gateway/scripted-decode.ts";
import type { WorkerState } from "../lib/contracts/messages.ts";
import { cacheIdentityOf, explainRoute, type RouteRequest, route } from "./router.ts";
import { StateView } from "./state-view.ts";

function snapshot(...states: WorkerState[]) {
  const view = new StateView();
  for (const state of states) view.apply(state, 0);
  return view.snapshot(0);
}
const keys = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"];
function request(more: Partial<RouteRequest> = {}): RouteRequest {
  return {
    modelName: testModelName,
    promptTokens: 600,
    maxTokens: 100,
    identity: null,
    blockKeys: new Map([[cacheIdentityOf(workerState("x")), keys]]),
    excluded: new Set(),
    localPrefillTokens: 256,
    ...more,
  };
}
const decode = (id: string, more: Partial<WorkerState> = {}) => workerState(id, "decode", more);
const prefill = (id: string, more: Partial<WorkerState> = {}) => workerState(id, "prefill", more);
const busy = (running: number) => ({ requests: { running, waiting: running, maxWaiting: 16 } });

describe("router", () => {
  it("prefers the worker that has the prefix, unless it is much busier", () => {
    expect(route(snapshot(decode("d0"), decode("d1", { snapshot: keys })), request())).toMatchObject({
      decode: { workerId: "d1" },
      hitTokens: 512,
    });
    expect(route(snapshot(decode("d0"), decode("d1", { snapshot: keys, ...busy(16) })), request())).toMatchObject({
      decode: { workerId: "d0" },
    });
  });

  it("prefers free blocks", () => {
    const full = { blocks: { total: 100, free: 0, cached: 1 } };
    expect(route(snapshot(decode("d0", full), decode("d1")), request())).toMatchObject({ decode: { workerId: "d1" } });
  });

  it("names a prefill worker for a long uncached prompt only", () => {
    expect(route(snapshot(decode("d0"), prefill("p0")), request())?.prefill).toEqual({ workerId: "p0" });
    expect(route(snapshot(decode("d0", { snapshot: keys }), prefill("p0")), request())).toMatchObject({
      prefill: null,
      uncachedTokens: 87,
    });
    expect(route(snapshot(decode("d0")), request())).toMatchObject({ prefill: null, reason: "no prefill worker is ready" });
    const other = prefill("p0", { numericsId: "c".repeat(64) });
    expect(route(snapshot(decode("d0"), other), request())?.prefill).toBeNull();
    expect(route(snapshot(decode("d0"), prefill("p0", { queuedPrefillTokens: 9_000 }), prefill("p1")), request())?.prefill).toEqual({
      workerId: "p1",
    });
  });

  it("lets decode prefill where every prefill worker would take more than twice as long", () => {
    const queued = (queuedPrefillTokens: number) => route(snapshot(decode("d0"), prefill("p0", { queuedPrefillTokens })), request());
    expect(queued(500)?.prefill).toEqual({ workerId: "p0" });
    expect(queued(5_000)).toMatchObject({ prefill: null, reason: "cheaper than any prefill worker" });
  });

  it("asks nobody who is not ready, excluded, or serves another model", () => {
    expect(route(snapshot(decode("d0", { state: "draining" })), request())).toBeNull();
    expect(route(snapshot(decode("d0", { modelName: "other" })), request())).toBeNull();
    expect(route(snapshot(decode("d0")), request({ excluded: new Set(["d0-1"]) }))).toBeNull();
    expect(route(snapshot(prefill("p0")), request())).toBeNull();
  });

  it("goes on with an answer only where the bits are the same, and asks nobody for more positions than it has", () => {
    const other = decode("d0", { numericsId: "c".repeat(64) });
    const identity = cacheIdentityOf(workerState("x"));
    expect(route(snapshot(other, decode("d1", busy(8))), request())?.decode.workerId).toBe("d0");
    expect(route(snapshot(other, decode("d1", busy(8))), request({ identity }))?.decode.workerId).toBe("d1");
    expect(route(snapshot(other), request({ identity }))).toBeNull();
    expect(route(snapshot(decode("d0", { maxPositions: 699 })), request())).toBeNull();
    expect(route(snapshot(decode("d0", { maxPositions: 700 })), request())?.decode.workerId).toBe("d0");
  });

  it("spreads a burst over equal workers before they report", () => {
    const view = new StateView();
    for (const state of [decode("d0"), decode("d1"), decode("d2")]) view.apply(state, 0);
    const counts: Record<string, number> = {};
    for (let i = 0; i < 9; i++) {
      const chosen = route(view.snapshot(0), request())?.decode.workerId as string;
      counts[chosen] = (counts[chosen] ?? 0) + 1;
      view.noteDispatched(chosen, { requests: 1, prefillTokens: 599, blocks: 10 });
    }
    expect(counts).toEqual({ d0: 3, d1: 3, d2: 3 });
  });

  it("depends on the snapshot alone, and never makes a worker better by giving it more to do", () => {
    const worker = fc.record({
      running: fc.nat(20),
      queued: fc.nat(5_000),
      free: fc.nat(100),
      hits: fc.nat(8),
      rate: fc.constantFrom(0, 500, 5_000),
      step: fc.constantFrom(0, 0.01, 0.1),
    });
    fc.assert(
      fc.property(
        fc.array(worker, { minLength: 1, maxLength: 5 }),
        fc.shuffledSubarray([0, 1, 2, 3, 4], { minLength: 5 }),
        (workers, order) => {
          const states = workers.map((one, index) =>
            decode(`d${index}`, {
              requests: { running: one.running, waiting: 0, maxWaiting: 16 },
              queuedPrefillTokens: one.queued,
              blocks: { total: 100, free: one.free, cached: 0 },
              snapshot: keys.slice(0, one.hits),
              rates: { prefillTokensPerSecond: one.rate, decodeStepSeconds: one.step, transferBytesPerSecond: 0 },
            }),
          );
          const chosen = route(snapshot(...states), request());
          const shuffled = order.filter((index) => index < states.length).map((index) => states[index] as WorkerState);
          expect(route(snapshot(...shuffled), request())).toEqual(chosen);
          const worse = states.map((state) =>
            state.workerId === chosen?.decode.workerId ? state : { ...state, queuedPrefillTokens: state.queuedPrefillTokens + 1_000 },
          );
          expect(route(snapshot(...worse), request())?.decode).toEqual(chosen?.decode);
          for (const seconds of Object.values(chosen?.cost ?? {})) expect(seconds).toBeGreaterThanOrEqual(0);
        },
      ),
    );
  });

  it("explains itself in a header", () => {
    const chosen = route(snapshot(decode("d0"), prefill("p0")), request());
    expect(JSON.parse(explainRoute(chosen as NonNullable<typeof chosen>))).toMatchObject({
      decode: "d0",
      prefill: "p0",
      uncachedTokens: 599,
    });
  });
});
