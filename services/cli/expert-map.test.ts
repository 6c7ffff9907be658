import fc from "fast-check";
import { expect, test } from "vitest";
import { layerLoad } from "../lib/expert-load/layer-load.ts";
import { drawExperts } from "./expert-map.ts";

const layers = [
  [4, 4, 4, 4],
  [0, 1, 3, 12],
  [0, 0, 0, 0],
].map(layerLoad);

test("layers down, experts across, a shade for each load", () => {
  expect(drawExperts(layers, 3, [1, 0.5, 1], { columns: 100, colour: false })).toBe(
    [
      "layer  busiest  its load  balancedness  unused  experts, 0 to 3",
      "    3  0        1.00x     1.00               0  ▒▒▒▒",
      "    4  3        3.00x     0.50               1  ·░▒█",
      "    5  -        -         1.00               4  ····",
      "· less  ░ 0.25x  ▒ 0.75x  ▓ 1.5x  █ 3x  of an equal share",
    ].join("\n"),
  );
});

test("colours are a terminal's own, and end with each cell", () => {
  const drawn = drawExperts(layers, 3, undefined, { columns: 100, colour: true });
  expect(drawn).toContain("\u001b[48;5;159m \u001b[49m");
  expect(drawn).not.toMatch(/[░▒▓█]/);
});

test("lines are no wider than the terminal, and the busiest expert is always seen", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(50), { minLength: 1, maxLength: 300 }), fc.integer({ min: 60, max: 200 }), (tokens, columns) => {
      const lines = drawExperts([layerLoad(tokens)], 0, undefined, { columns, colour: false }).split("\n");
      const row = lines[1] as string;
      expect(row.length).toBeLessThanOrEqual(columns);
      const { highest } = layerLoad(tokens);
      expect(/[█]/.test(row)).toBe(highest >= 3);
    }),
  );
});
