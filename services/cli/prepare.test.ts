import { afterEach, expect, it, vi } from "vitest";
import { compilePosition } from "./prepare.ts";
import { createProgress, type ProgressMode } from "./stack/progress.ts";

afterEach(() => vi.restoreAllMocks());

function shown(mode: ProgressMode): string {
  const written: string[] = [];
  for (const stream of [process.stderr, process.stdout])
    vi.spyOn(stream, "write").mockImplementation((text) => written.push(String(text)) > 0);
  const progress = createProgress(mode);
  progress.step("building");
  for (let i = 1; i <= 76; i++) progress.detail(`compiled ${i}/76`, i / 76);
  progress.end();
  vi.restoreAllMocks();
  return written.join("");
}

it("reads how far Ninja and Make are", () => {
  expect(compilePosition("[19/76] Building CXX object a.o\n[20/76] Building CXX object b.o\n")).toEqual({ text: "20/76", done: 20 / 76 });
  expect(compilePosition("[ 25%] Building CXX object a.o\n")).toEqual({ text: "25%", done: 0.25 });
  expect(compilePosition("In file included from [3/4]\n")).toBeNull();
});

it("shows a long build in a terminal as it goes, elsewhere as few lines", () => {
  expect(shown("lines")).toBe("  building\n  compiled 19/76\n  compiled 38/76\n  compiled 57/76\n  compiled 76/76\n");
  expect(shown("json").trim().split("\n")).toHaveLength(5);
  expect(shown("live").match(/compiled \d+\/76/g)).toHaveLength(76);
});
