import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { priorityClasses } from "../../lib/contracts/messages.ts";
import { anyone, type Caller } from "./api-keys.ts";
import { sloResults } from "./slo.ts";
import { standingOf, type Terms, termsOf } from "./terms.ts";

const caller = (priority: Caller["priority"]): Caller => ({ ...anyone, priority, bestPriority: priority });

describe("the terms of a request", () => {
  test("are its headers, in bounds", () => {
    const headers = { "x-slo-ttft-ms": "250", "x-slo-tpot-ms": "12.5", "x-request-timeout-ms": "5000" };
    expect(termsOf(headers, anyone, undefined, 600_000)).toEqual({
      priority: "normal",
      ttftMs: 250,
      tpotMs: 12.5,
      deadlineMs: 5_000,
      ownDeadline: true,
    });
    expect(termsOf({}, anyone, null, 600_000)).toEqual({
      priority: "normal",
      ttftMs: null,
      tpotMs: null,
      deadlineMs: 600_000,
      ownDeadline: false,
    });
    expect(termsOf({ "x-request-timeout-ms": "700000" }, anyone, null, 600_000).deadlineMs).toBe(600_000);
  });

  test("that are no numbers are refused by the header's name", () => {
    const wrong = fc.oneof(
      fc.constantFrom("", "0", "-1", "1e3", "Infinity", "0x10", "1,5", "86400001", "9".repeat(400), "1;2"),
      fc.string().filter((text) => !/^\s*\d+(\.\d+)?\s*$/.test(text)),
    );
    fc.assert(
      fc.property(fc.constantFrom("x-slo-ttft-ms", "x-slo-tpot-ms", "x-request-timeout-ms"), wrong, (name, value) => {
        expect(() => termsOf({ [name]: value }, anyone, 0, 1_000)).toThrow(
          expect.objectContaining({ code: "invalid_request", param: name }),
        );
      }),
    );
  });

  test("priority: lower comes first, never before what the key allows", () => {
    fc.assert(
      fc.property(fc.constantFrom(...priorityClasses), fc.oneof(fc.integer(), fc.constantFrom("x", null, 0.5, {})), (own, asked) => {
        const of = (priority: unknown) => priorityClasses.indexOf(termsOf({}, caller(own), priority, 1).priority);
        expect(of(asked)).toBeGreaterThanOrEqual(priorityClasses.indexOf(own));
        if (typeof asked === "number") expect(of(asked + 1)).toBeGreaterThanOrEqual(of(asked));
        else expect(of(asked)).toBe(priorityClasses.indexOf(own));
      }),
    );
    expect([-5, -1, 0, 1, 2].map((asked) => termsOf({}, anyone, asked, 1).priority)).toEqual(["high", "high", "normal", "low", "low"]);
    expect([-1, 0, 1, 2].map((asked) => termsOf({}, caller("high"), asked, 1).priority)).toEqual(["high", "high", "normal", "low"]);
  });

  test("a key is one tenant, however many users it names", () => {
    const key = { ...anyone, isolation: "key:1" };
    const of = (caller: Caller, salt: string) => standingOf({ priority: "normal", ttftMs: 5 }, caller, salt, 10);
    expect(of(key, "a")).toEqual({ tenant: of(key, "b").tenant, user: "a", priority: "normal", dueAtMs: 15 });
    expect(of(key, "a").tenant).not.toBe(of({ ...anyone, isolation: "key:2" }, "a").tenant);
    expect(of(anyone, "a").tenant).toBe("a");
  });
});

test("objectives: refused, failed and late requests miss theirs", () => {
  const terms: Terms = { priority: "normal", ttftMs: 100, tpotMs: 10, deadlineMs: 1_000, ownDeadline: true };
  const of = (more: object, own: Partial<Terms> = {}) =>
    Object.fromEntries(sloResults({ ...terms, ...own }, { done: true, ttftSeconds: 0.1, tpotSeconds: 0.01, ...more }));
  expect(of({})).toEqual({ ttft: true, tpot: true, deadline: true });
  expect(of({ ttftSeconds: 0.101, tpotSeconds: 0.0101 })).toEqual({ ttft: false, tpot: false, deadline: true });
  expect(of({ tpotSeconds: null })).toEqual({ ttft: true, tpot: true, deadline: true });
  expect(of({ done: false, ttftSeconds: null, tpotSeconds: null })).toEqual({ ttft: false, tpot: false, deadline: false });
  expect(of({ done: false })).toEqual({ ttft: true, tpot: false, deadline: false });
  expect(of({}, { ttftMs: null, tpotMs: null, ownDeadline: false })).toEqual({});
});
