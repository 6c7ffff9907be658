import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Pace } from "./pace.ts";

describe("pace", () => {
  beforeEach(() => vi.useFakeTimers({ toFake: ["setTimeout", "performance"] }));
  afterEach(() => vi.useRealTimers());

  it("lets streams write at once while there is time to spare, and together while there is not", async () => {
    let utilization = 0.2;
    const pace = new Pace(() => utilization);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(pace.turn()).toBeNull();
    utilization = 0.95;
    expect(pace.turn()).toBeNull();
    await vi.advanceTimersByTimeAsync(100);
    const went: number[] = [];
    void pace.turn()?.then(() => went.push(1));
    await vi.advanceTimersByTimeAsync(15);
    void pace.turn()?.then(() => went.push(2));
    expect(went).toEqual([]);
    await vi.advanceTimersByTimeAsync(5);
    expect(went).toEqual([1, 2]);
    void pace.turn()?.then(() => went.push(3));
    utilization = 0.6;
    await vi.advanceTimersByTimeAsync(100);
    void pace.turn()?.then(() => went.push(4));
    expect(went).toEqual([1, 2, 3]);
    utilization = 0.2;
    await vi.advanceTimersByTimeAsync(100);
    expect(went).toEqual([1, 2, 3, 4]);
    expect(pace.turn()).toBeNull();
    utilization = 0.6;
    await vi.advanceTimersByTimeAsync(100);
    expect(pace.turn()).toBeNull();
  });
});
