import fc from "fast-check";
import { expect, test } from "vitest";
import { ExpertLoadWindow } from "./window.ts";

const steps = fc.array(fc.oneof(fc.array(fc.nat(1000), { minLength: 3, maxLength: 3 }), fc.constant("close" as const)), { maxLength: 60 });

test("the window is the last closed intervals, and tokens count half after each half-life", () => {
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 4 }), (events, intervals, halfLife) => {
      const window = new ExpertLoadWindow({ counts: 3, intervals, halfLife });
      const all: number[][] = [];
      let open = [0, 0, 0];
      for (const event of events) {
        if (event === "close") {
          window.close();
          all.push(open);
          open = [0, 0, 0];
        } else {
          window.add(event);
          open = open.map((sum, i) => sum + (event[i] as number));
        }
      }
      const kept = all.slice(-intervals);
      expect(window.intervals().map((interval) => [...interval])).toEqual(kept);
      expect([...window.total()]).toEqual([0, 1, 2].map((i) => kept.reduce((sum, interval) => sum + (interval[i] as number), 0)));
      for (const [i, value] of window.decayed().entries()) {
        const expected = all.reduce((sum, interval, at) => sum + (interval[i] as number) * 0.5 ** ((all.length - 1 - at) / halfLife), 0);
        expect(value).toBeCloseTo(expected, 6);
        expect(window.late()[i]).toBeCloseTo(expected + (open[i] as number), 6);
      }
    }),
  );
});

test("what does not fit is refused with its name", () => {
  const window = new ExpertLoadWindow({ counts: 3, intervals: 2, halfLife: 1 });
  expect(() => window.add([1, 2])).toThrow(/counts: 2 values, not 3/);
  expect(() => new ExpertLoadWindow({ counts: 3, intervals: 0, halfLife: 1 })).toThrow(/intervals/);
  expect(() => new ExpertLoadWindow({ counts: 3, intervals: 1, halfLife: 0 })).toThrow(/halfLife/);
});
