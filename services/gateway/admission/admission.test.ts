import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ManualClock } from "../../../tests/gateway/memory-bus.ts";
import { workerState } from "../../../tests/gateway/scripted-decode.ts";
import type { PelagicError } from "../../lib/contracts/errors.ts";
import type { PriorityClass, WorkerState } from "../../lib/contracts/messages.ts";
import { mayWait } from "../../lib/fair-queue/fair-order.ts";
import { StateView } from "../state-view.ts";
import { Admission, type EnterOptions, type Place } from "./admission.ts";
import { placesLeft, Room } from "./room.ts";

const standing = (tenant: string, priority: PriorityClass = "normal") => ({
  tenant,
  user: "",
  priority,
  dueAtMs: Number.POSITIVE_INFINITY,
});

function start(limits: { maxRunning?: number; maxWaiting?: number; maxWaitMs?: number } = {}) {
  const clock = new ManualClock();
  const admission = new Admission({ clock, maxRunning: 4, maxWaiting: 8, maxWaitMs: 1_000, ...limits });
  const events: string[] = [];
  const places = new Map<string, Place>();
  const errors = new Map<string, PelagicError>();
  const enter = (name: string, tenant: string, options?: EnterOptions, priority?: PriorityClass) =>
    admission.enter(standing(tenant, priority), options).then(
      (place) => {
        places.set(name, place);
        events.push(name);
      },
      (error: PelagicError) => {
        errors.set(name, error);
      },
    );
  return { clock, admission, events, places, errors, enter };
}

const room = (free: { places: number }): Room =>
  new Room(
    {
      snapshot: () => {
        const view = new StateView();
        view.apply(workerState("decode-0", "decode", { requests: { running: 0, waiting: 0, maxWaiting: free.places } }), 0);
        return view.snapshot(0);
      },
    },
    { name: "test-model", filesDigest: null },
  );

describe("admission", () => {
  test("a tenant that floods leaves places to others, and waits for its own", async () => {
    const { clock, admission, events, places, errors, enter } = start({ maxRunning: 10, maxWaiting: 10 });
    for (let n = 0; n < 30; n++) void enter(`f${n}`, "flood");
    void enter("other", "other");
    await clock.advance(0);
    expect(events).toEqual(["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "other"]);
    expect([admission.running, admission.waiting]).toEqual([9, 8]);
    expect(errors.size).toBe(14);
    expect(errors.get("f29")).toMatchObject({ code: "overloaded", status: 503 });
    places.get("f0")?.leave();
    places.get("f0")?.leave();
    await clock.advance(0);
    // Of ten places it may have no more than four times what is left.
    expect(admission.running).toBe(9);
    expect(events.at(-1)).toBe("f8");
  });

  test("the better class enters first, then the fair share", async () => {
    const { clock, events, places, enter } = start({ maxRunning: 1 });
    void enter("first", "a");
    void enter("low", "b", {}, "low");
    void enter("a1", "a");
    void enter("a2", "a");
    void enter("c1", "c");
    void enter("high", "b", {}, "high");
    await clock.advance(0);
    while (events.length < 6) {
      places.get(events.at(-1) as string)?.leave();
      await clock.advance(0);
    }
    expect(events).toEqual(["first", "high", "a1", "c1", "a2", "low"]);
  });

  test("no more are let in than workers take, counted from the moment that they enter", async () => {
    const { clock, events, places, enter } = start({ maxRunning: 100, maxWaiting: 100 });
    const free = { places: 2 };
    const at = room(free);
    for (let n = 0; n < 4; n++) void enter(`r${n}`, `t${n}`, { room: at });
    void enter("tokenize", "t0");
    await clock.advance(0);
    expect(events).toEqual(["r0", "r1", "tokenize"]);
    // Sent, and not yet in the worker's account; then in it, and a place is free.
    places.get("r0")?.dispatched();
    free.places = 1;
    await clock.advance(60);
    expect(events).toHaveLength(3);
    free.places = 2;
    await clock.advance(60);
    expect(events.at(-1)).toBe("r2");
    places.get("r1")?.leave();
    await clock.advance(0);
    expect(events.at(-1)).toBe("r3");
    // Two that are let in and not yet sent.
    expect(at.places).toBe(0);
    for (const place of places.values()) {
      place.leave();
      place.dispatched();
    }
    expect(at.places).toBe(2);
  });

  test("a newcomer does not take the place that came free for who waits", async () => {
    const { clock, admission, events, enter } = start({ maxRunning: 100 });
    const free = { places: 0 };
    const at = room(free);
    void enter("high", "a", { room: at }, "high");
    void enter("normal", "b", { room: at });
    await clock.advance(0);
    // The next look is still to come.
    free.places = 1;
    void enter("newcomer", "c", { room: at }, "low");
    await clock.advance(0);
    expect(events).toEqual(["high"]);
    expect(admission.waiting).toBe(2);
  });

  test("several answers enter together, when there is a place for each, and nobody takes those that come free meanwhile", async () => {
    const { clock, events, places, enter } = start({ maxRunning: 100 });
    const free = { places: 3 };
    const at = room(free);
    void enter("four", "a", { room: at, answers: 4 });
    void enter("one", "b", { room: at });
    await clock.advance(60);
    expect(events).toEqual([]);
    free.places = 5;
    await clock.advance(60);
    expect(events).toEqual(["four", "one"]);
    expect(at.places).toBe(0);
    // Each is in the worker's account once it is sent.
    const four = places.get("four");
    four?.dispatched();
    free.places = 4;
    expect(at.places).toBe(0);
    four?.leave();
    four?.dispatched();
    expect(at.places).toBe(3);
    expect([at.couldTake(1), at.couldTake(4), at.couldTake(5)]).toEqual([true, true, false]);
  });

  test("waits are bounded, by the gateway and by the client", async () => {
    const { clock, admission, errors, enter } = start({ maxRunning: 1 });
    void enter("running", "a");
    void enter("patient", "a");
    void enter("hasty", "a", { waitMs: 200 });
    void enter("due", "a", { waitMs: 300, leftMs: 200 });
    void enter("too late", "c", { leftMs: 0 });
    const controller = new AbortController();
    void enter("gone", "a", { signal: controller.signal });
    await clock.advance(0);
    controller.abort();
    await clock.advance(0);
    expect(errors.get("gone")?.code).toBe("cancelled");
    await clock.advance(250);
    expect(errors.get("hasty")).toMatchObject({
      code: "overloaded",
      message: "no worker had room for the request within 200 ms; try again later",
    });
    expect([errors.get("due")?.code, errors.get("too late")?.code]).toEqual(["deadline_exceeded", "deadline_exceeded"]);
    expect(errors.has("patient")).toBe(false);
    await clock.advance(1_000);
    expect(errors.get("patient")?.code).toBe("overloaded");
    expect([admission.running, admission.waiting]).toEqual([1, 0]);
    const aborted = new AbortController();
    aborted.abort();
    void enter("late", "a", { signal: aborted.signal });
    void enter("waits", "a");
    await clock.advance(0);
    expect(errors.get("late")?.code).toBe("cancelled");
    admission.close();
    void enter("closed", "b");
    await clock.advance(0);
    expect([errors.get("waits")?.code, errors.get("closed")?.code]).toEqual(["shutting_down", "shutting_down"]);
    expect([admission.running, admission.waiting]).toEqual([1, 0]);
  });

  test("whatever happens: nobody beyond the limits, nobody waits who could enter, and everything is given back", async () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ tenant: fc.constantFrom("a", "b", "c"), needsRoom: fc.boolean() }) },
      { weight: 2, arbitrary: fc.record({ leave: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ passMs: fc.nat({ max: 400 }) }) },
      { weight: 1, arbitrary: fc.record({ abort: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ free: fc.nat({ max: 6 }) }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 6 }), async (steps, maxRunning) => {
        const { clock, admission, places, errors, enter } = start({ maxRunning, maxWaiting: 6, maxWaitMs: 500 });
        const free = { places: 3 };
        const at = room(free);
        const asked = new Map<string, { tenant: string; needsRoom: boolean; controller: AbortController }>();
        const inside = () => [...places.keys()].filter((name) => !gone.has(name));
        const gone = new Set<string>();
        for (const [n, one] of steps.entries()) {
          if ("tenant" in one) {
            const controller = new AbortController();
            asked.set(`r${n}`, { ...one, controller });
            void enter(`r${n}`, one.tenant, { signal: controller.signal, ...(one.needsRoom && { room: at }) });
          } else if ("leave" in one) {
            const name = inside()[one.leave % Math.max(1, inside().length)];
            if (name !== undefined) {
              gone.add(name);
              places.get(name)?.leave();
            }
          } else if ("abort" in one) [...asked.values()][one.abort % Math.max(1, asked.size)]?.controller.abort();
          else if ("free" in one) free.places = one.free;
          await clock.advance("passMs" in one ? one.passMs : 0);
          expect(admission.running).toBe(inside().length);
          expect(admission.running).toBeLessThanOrEqual(maxRunning);
          expect(at.places).toBe(free.places - inside().filter((name) => asked.get(name)?.needsRoom).length);
          const waiting = [...asked].filter(([name]) => !places.has(name) && !errors.has(name));
          expect(admission.waiting).toBe(waiting.length);
          // What the workers said last is seen at the next look.
          if ("free" in one) await clock.advance(60);
          const held = inside();
          for (const [name, { tenant, needsRoom }] of waiting) {
            if (places.has(name) || errors.has(name)) continue;
            const own = held.filter((other) => asked.get(other)?.tenant === tenant).length;
            expect(mayWait(own, held.length, maxRunning) && (!needsRoom || at.takes(tenant, at.places))).toBe(false);
          }
        }
        await clock.advance(1_000);
        for (const name of asked.keys()) expect(places.has(name) || errors.has(name)).toBe(true);
        for (const name of inside()) places.get(name)?.leave();
        expect([admission.running, admission.waiting, at.places]).toEqual([0, 0, free.places]);
      }),
      { numRuns: 150 },
    );
  });
});

test("whom a worker would refuse for its share waits at the gateway", async () => {
  const { clock, events, enter } = start({ maxRunning: 1_000, maxWaiting: 1_000 });
  const free = { places: 20 };
  const at = room(free);
  for (let n = 0; n < 40; n++) void enter(`f${n}`, "flood", { room: at });
  void enter("other", "other", { room: at });
  await clock.advance(0);
  expect(events).toHaveLength(17);
  expect(events.at(-1)).toBe("other");
});

test("the workers' places are those in the queues of ready decode workers of the model", () => {
  const places = (...workers: WorkerState[]) => {
    const view = new StateView();
    for (const worker of workers) view.apply(worker, 0);
    return placesLeft(view.snapshot(0), { name: "test-model", filesDigest: null });
  };
  const requests = { running: 3, waiting: 4, maxWaiting: 10 };
  const one = workerState("decode-0", "decode", { requests });
  expect(places(one)).toBe(6);
  expect(
    places(one, workerState("decode-1", "decode", { requests: { ...requests, waiting: 12 } }), workerState("prefill-0", "prefill")),
  ).toBe(6);
  expect(places(one, workerState("decode-1", "decode", { requests, modelName: "other" }))).toBe(6);
  expect(places(workerState("decode-0", "decode", { requests, state: "draining" }))).toBe(Number.POSITIVE_INFINITY);
});
