import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { afterStep, neverListed, type StepEnd, type WatchState } from "./watch-steps.ts";

const times = { baseMs: 500, maxMs: 30_000, healthyMs: 10_000, relistMs: 600_000 };
const random = fc.double({ min: 0, max: 0.999, noNaN: true });
/** What a bad server does: nothing that brings anything. */
const useless = fc.constantFrom("gone", "failed", "closed at once", "429");

function endOf(kind: string, doing: "list" | "watch", state: WatchState): StepEnd {
  if (kind === "failed") return { kind: "failed" };
  if (kind === "429") return { kind: "failed", retryAfterMs: 7_000 };
  if (kind === "gone") return { kind: "gone" };
  // A list that works, before a watch that does not.
  return doing === "list"
    ? { kind: "listed", version: "1" }
    : { kind: "closed", version: state.version as string, livedMs: 1, heard: false };
}

describe("listing and watching", () => {
  it("makes no storm, whatever a server answers for ten minutes", () => {
    fc.assert(
      fc.property(fc.array(useless, { minLength: 1, maxLength: 10 }), random, (pattern, chance) => {
        let now = 0;
        let calls = 0;
        let state = neverListed;
        let doing: "list" | "watch" = "list";
        while (now < 600_000) {
          const end = endOf(pattern[calls % pattern.length] as string, doing, state);
          calls++;
          const after = afterStep(state, end, now, times, chance);
          if (end.kind === "failed" && end.retryAfterMs) expect(after.next.afterMs).toBeGreaterThanOrEqual(end.retryAfterMs);
          state = after.state;
          doing = after.next.kind;
          now += after.next.afterMs + 1;
        }
        // 0.25, 0.5, 1 … 15 s at the least, twice where each wait is followed by a list and a watch.
        expect(calls).toBeLessThan(100);
      }),
    );
  });

  it("lists after a 410, and otherwise goes on from where it was", () => {
    fc.assert(
      fc.property(fc.nat(50), fc.boolean(), random, (failures, heard, chance) => {
        const state = { version: "7", failures, barrenLists: 0, listedMs: 0 };
        expect(afterStep(state, { kind: "gone" }, 1, times, chance).next.kind).toBe("list");
        expect(afterStep(state, { kind: "failed" }, 1, times, chance)).toMatchObject({ state: { version: "7" }, next: { kind: "watch" } });
        const closed = afterStep(state, { kind: "closed", version: "9", livedMs: 1, heard }, 1, times, chance);
        expect(closed).toMatchObject({ state: { version: "9", failures: heard ? 0 : failures + 1 }, next: { kind: "watch" } });
        expect(closed.next.afterMs).toBeLessThanOrEqual(heard ? times.baseMs : times.maxMs);
      }),
    );
  });

  it("lists anew now and then", () => {
    const state = { version: "7", failures: 0, barrenLists: 0, listedMs: 0 };
    const end: StepEnd = { kind: "closed", version: "9", livedMs: 300_000, heard: true };
    expect(afterStep(state, end, times.relistMs, times, 0)).toMatchObject({ state: { version: undefined }, next: { kind: "list" } });
    expect(afterStep(state, end, times.relistMs - 1, times, 0).next.kind).toBe("watch");
  });

  it("waits before the watch, too, where lists work and watches do not", () => {
    const state = { version: undefined, failures: 6, barrenLists: 6, listedMs: 0 };
    expect(afterStep(state, { kind: "listed", version: "1" }, 0, times, 0).next).toEqual({ kind: "watch", afterMs: 8_000 });
  });

  it("watches at once when the first list after an outage works, however long that was", () => {
    let state: WatchState = neverListed;
    const then = (end: StepEnd) => {
      const { state: after, next } = afterStep(state, end, 1, times, 0);
      state = after;
      return next;
    };
    then({ kind: "listed", version: "7" });
    then({ kind: "closed", version: "8", livedMs: 1, heard: true });
    for (const kind of ["failed", "failed", "failed", "gone", "failed", "failed", "failed"] as const) then({ kind });
    expect(then({ kind: "listed", version: "9" })).toEqual({ kind: "watch", afterMs: 0 });
  });
});
