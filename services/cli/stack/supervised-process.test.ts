import { describe, expect, it } from "vitest";
import { restartPauseMs } from "./supervised-process.ts";

const policy = { deaths: 3, windowMs: 1_000, firstPauseMs: 100, longestPauseMs: 250 };

describe("the pause before a restart", () => {
  it("doubles up to its limit", () => {
    expect([[0], [0, 10], [0, 10, 20]].map((deaths) => restartPauseMs(deaths, 20, policy))).toEqual([100, 200, 250]);
  });

  it("ends with too many deaths in the window, and forgets older ones", () => {
    expect(restartPauseMs([0, 10, 20, 30], 30, policy)).toBeNull();
    expect(restartPauseMs([0, 10, 20, 1_500], 1_500, policy)).toBe(100);
  });
});
