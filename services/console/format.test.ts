import { expect, it } from "vitest";
import { formatAge, formatBytes, formatRate, formatSeconds, plural } from "./format.ts";

it.each([
  [0, "0 s"],
  [0.0000042, "4 µs"],
  [0.00421, "4.2 ms"],
  [0.0421, "42 ms"],
  [0.9999, "1,000 ms"],
  [1.234, "1.23 s"],
  [3700, "1 h"],
])("%f seconds are %s", (seconds, words) => expect(formatSeconds(seconds)).toBe(words));

it.each([
  [0, "0 B"],
  [999, "999 B"],
  [1500, "1.5 kB"],
  [999_600, "1 MB"],
  [12_345_678, "12 MB"],
  [5e15, "5,000 TB"],
])("%f bytes are %s", (bytes, words) => expect(formatBytes(bytes)).toBe(words));

it("ages, rates and plurals", () => {
  expect([59, 60, 7200, 200_000].map(formatAge)).toEqual(["59 s", "1 min", "2 h", "2 days"]);
  expect([0, 0.42, 12.3, 1234.5].map(formatRate)).toEqual(["0", "0.4", "12", "1,235"]);
  expect([plural(1, "worker"), plural(2, "worker")]).toEqual(["1 worker", "2 workers"]);
});
