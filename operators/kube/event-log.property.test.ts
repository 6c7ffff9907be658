import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EventLog, eventLogBounds } from "./event-log.ts";

const event = (message: string) => ({ type: "Normal" as const, reason: "Changed", message });

describe("the log of events", () => {
  it("counts what repeats in one event, with ever fewer calls", () => {
    let made = 0;
    const log = new EventLog(eventLogBounds, () => `event-${++made}`);
    const actions = Array.from({ length: 1000 }, (_, i) => log.decide({ name: "a", uid: "1" }, event("the same"), i * 1000));
    expect(actions[0]).toEqual({ do: "create", name: "event-1" });
    expect(actions.filter((action) => action.do !== "drop").length).toBe(10);
    expect(actions.filter((action) => action.do === "count").at(-1)).toEqual({ do: "count", name: "event-1", count: 512 });
    expect(log.decide({ name: "a", uid: "1" }, event("the same"), 1_000_000 + eventLogBounds.seriesMs).do).toBe("create");
  });

  it("tells what repeats for hours in events that the API server still has", () => {
    let made = 0;
    const log = new EventLog(eventLogBounds, () => `event-${++made}`);
    let writtenMs = Number.NEGATIVE_INFINITY;
    for (let nowMs = 0; nowMs < 24 * 3_600_000; nowMs += 5 * 60_000) {
      const action = log.decide({ name: "a", uid: "1" }, event("the same"), nowMs);
      // What is forgotten cannot be counted up, and what is told must be there to be seen.
      if (action.do === "count") expect(nowMs - writtenMs).toBeLessThan(3_600_000);
      if (action.do !== "drop") writtenMs = nowMs;
      expect(nowMs - writtenMs).toBeLessThan(3_600_000);
    }
  });

  it("is bounded: in memory, and for each object", () => {
    const one = fc.record({ uid: fc.nat(50), message: fc.nat(1000), gapMs: fc.nat(2000) });
    fc.assert(
      fc.property(fc.array(one, { maxLength: 500 }), (told) => {
        const bounds = { remembered: 100, seriesMs: 600_000, keptMs: 1_800_000, burst: 5, refillMs: 60_000 };
        const log = new EventLog(bounds, (name) => name);
        let now = 0;
        const created = new Map<number, number>();
        for (const { uid, message, gapMs } of told) {
          now += gapMs;
          const action = log.decide({ name: `${uid}`, uid: `${uid}` }, event(`${message}`), now);
          if (action.do === "create") created.set(uid, (created.get(uid) ?? 0) + 1);
          expect(log.size).toBeLessThanOrEqual(bounds.remembered);
        }
        for (const count of created.values()) expect(count).toBeLessThanOrEqual(bounds.burst + now / bounds.refillMs + 1);
      }),
    );
  });
});
