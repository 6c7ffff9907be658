import { expect, test } from "vitest";
import { balancednessOf, currentPlan, firstFault, firstUnplaceable, PlaceCases, placeCase } from "./place-cases.ts";

const good = { name: "a", layers: 1, logical_experts: 3, physical_experts: 4, groups: 1, nodes: 1, gpus: 2, load: [[4, 1, 1]] };

test("a wrong field is named as in the file", () => {
  const fault = (change: object) => {
    const { error } = PlaceCases.safeParse([good, { ...good, ...change }]);
    return error && firstFault(error);
  };
  expect(fault({})).toBeUndefined();
  expect(fault({ gpus: 3 })).toMatch(/^\[1\]\.physical_experts: 4 slots are not as many on each of 3 ranks/);
  expect(fault({ physical_experts: 2 })).toMatch(/^\[1\]\.physical_experts: 2 slots are fewer/);
  expect(fault({ nodes: 4 })).toMatch(/^\[1\]\.nodes: /);
  expect(fault({ groups: 2 })).toMatch(/^\[1\]\.groups: /);
  expect(fault({ layers: 2 })).toMatch(/^\[1\]\.load: has 1 rows, not layers = 2/);
  expect(fault({ load: [[1, 2]] })).toMatch(/^\[1\]\.load\[0\]: has 2 loads, not logical_experts = 3/);
  expect(fault({ load: [[1, 2, -1]] })).toMatch(/^\[1\]\.load\[0\]\[2\]: /);
  expect(fault({ load: [[1, 2, null]] })).toMatch(/^\[1\]\.load\[0\]\[2\]: /);
  expect(fault({ load: [[1, 2, "3"]] })).toMatch(/^\[1\]\.load\[0\]\[2\]: is no number from 0/);
  expect(fault({ load: [[1, 2, Number.POSITIVE_INFINITY]] })).toMatch(/^\[1\]\.load\[0\]\[2\]: /);
  expect(fault({ load: [1, 2, 3] })).toMatch(/^\[1\]\.load\[0\]: /);
  expect(fault({ load: undefined })).toMatch(/^\[1\]\.load: /);
  expect(fault({ name: "" })).toMatch(/^\[1\]\.name: /);
  const whole = (value: unknown) =>
    firstFault(PlaceCases.safeParse(value).error as NonNullable<ReturnType<typeof PlaceCases.safeParse>["error"]>);
  expect(whole({})).toBe("is no list of cases");
  expect(whole([])).toBe("has no case in its list");
  expect(whole(new Array(10_001).fill(good))).toBe("has more than 10000 cases");
});

test("of a file in which every load is wrong the first is named", () => {
  const row = new Array<string>(8192).fill("1");
  const wrong = { ...good, layers: 64, logical_experts: 8192, physical_experts: 8192, load: new Array<string[]>(64).fill(row) };
  const { error } = PlaceCases.safeParse([wrong]);
  expect(error && firstFault(error)).toMatch(/^\[0\]\.load\[0\]\[0\]: is no number from 0/);
});

test("groups that nodes cannot share evenly are refused where they must stay on one node", () => {
  const uneven = { ...good, physical_experts: 4, groups: 3, nodes: 2 };
  const cases = PlaceCases.parse([good, uneven]);
  expect(firstUnplaceable(cases, "grouped")).toBe("[1].groups: 3 groups are not as many on each of 2 nodes, as the policy grouped needs");
  expect(firstUnplaceable(cases, "balanced")).toBeUndefined();
  expect(firstUnplaceable(cases, "published")).toBeUndefined();
  expect(firstUnplaceable([good], "grouped")).toBeUndefined();
});

test("a case is placed, and its plan is a plan in force", () => {
  const [first] = PlaceCases.parse([good]);
  const plan = placeCase(first as typeof good, "balanced");
  expect(balancednessOf(first as typeof good, plan)).toEqual({ mean: 1, min: 1 });
  expect(currentPlan(good, plan)).toMatchObject({ rankCount: 2, slotsPerRank: 2 });
  expect(currentPlan(good, [[0, 1, 0, 1]])).toMatchObject({ fault: expect.stringMatching(/experts/) });
});
