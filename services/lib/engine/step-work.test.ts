import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { chunkWork, leastWork, PrefillPace, rowsOfWork, StepPace } from "./step-work.ts";

describe("the work of a step", () => {
  test("a chunk's work is that of its parts", () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(8_000), fc.nat(300), fc.nat(300), (pairWork, first, one, other) => {
        const parts = chunkWork(pairWork, first, one) + chunkWork(pairWork, first + one, other);
        expect(chunkWork(pairWork, first, one + other)).toBeCloseTo(parts, 4);
      }),
    );
    // Row p has p + 1 rows to attend to, itself among them.
    expect(chunkWork(0.5, 3, 2)).toBe(2 + 0.5 * (4 + 5));
  });

  test("the rows of so much work are as many as have no more", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.constant(0), fc.double({ min: 1e-6, max: 1, noNaN: true })),
        fc.nat(100_000),
        fc.double({ min: 0, max: 5_000, noNaN: true }),
        (pairWork, firstRow, work) => {
          const rows = rowsOfWork(pairWork, firstRow, work);
          expect(rows).toBeGreaterThanOrEqual(0);
          expect(chunkWork(pairWork, firstRow, rows)).toBeLessThanOrEqual(work * (1 + 1e-9));
          expect(chunkWork(pairWork, firstRow, rows + 1)).toBeGreaterThan(work * (1 - 1e-9));
        },
      ),
    );
    expect(rowsOfWork(0.1, 5, Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
  });

  test("on a machine of any speed steps come to take the time that they may, or have the least work", () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 20, noNaN: true }),
        fc.double({ min: 0.001, max: 5, noNaN: true }),
        fc.double({ min: 0.001, max: 5, noNaN: true }),
        (fixedMs, msBefore, msAfter) => {
          const pace = new StepPace();
          const step = (msPerWork: number) => {
            const work = pace.workWithin(40);
            const ms = fixedMs + work * msPerWork;
            pace.note(work, ms);
            return { work, ms };
          };
          expect(step(msBefore).work).toBe(leastWork);
          // Others come to this machine, or leave it.
          for (const msPerWork of [msBefore, msAfter]) {
            for (let i = 0; i < 60; i++) step(msPerWork);
            const { work, ms } = step(msPerWork);
            if (work > leastWork) expect(Math.abs(ms - 40)).toBeLessThan(4);
            else expect(ms).toBeGreaterThan(40 - 1e-6);
          }
        },
      ),
    );
  });
});

describe("the pace of prefill", () => {
  /** A step costs 2 ms and 0.1 ms a row. */
  const seconds = (rows: number) => 0.002 + 0.0001 * rows;

  test("is what long prompts see, however many short ones come between", () => {
    const pace = new PrefillPace();
    pace.note(2, seconds(2), 0);
    expect(pace.rowsPerSecond).toBe(0);
    pace.note(512, seconds(512), 0);
    const long = pace.rowsPerSecond;
    expect(long).toBeCloseTo(512 / seconds(512));
    for (let i = 0; i < 10; i++) pace.note(2, seconds(2), 0);
    expect(pace.rowsPerSecond).toBe(long);
    pace.note(512, seconds(512), 0);
    expect(pace.rowsPerSecond).toBeGreaterThan(0.8 * long);
  });

  test("forgets a slow moment with the rows that follow", () => {
    const pace = new PrefillPace();
    pace.note(512, 10 * seconds(512), 0);
    for (let i = 0; i < 20; i++) pace.note(512, seconds(512), 0);
    expect(pace.rowsPerSecond).toBeGreaterThan((0.9 * 512) / seconds(512));
  });

  test("ages from the last step that counted, whatever small ones come after it", () => {
    const pace = new PrefillPace();
    expect(pace.idleMs(7)).toBe(Number.POSITIVE_INFINITY);
    pace.note(512, seconds(512), 1_000);
    pace.note(2, seconds(2), 5_000);
    expect(pace.idleMs(6_000)).toBe(5_000);
  });
});
