import { existsSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { describe, expect, it } from "vitest";
import { trackedFiles } from "./tracked-files.ts";
import { treeRoot } from "../../services/cli/tree.ts";

const files = trackedFiles();
const maxTreeBytes = 25 * 1024 * 1024;
/** Larger ones are data, not text that somebody wrote. */
const maxTextBytes = 1024 * 1024;

describe("the tracked tree", () => {
  it("is small enough to be carried whole", () => {
    const bytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
    expect(bytes).toBeLessThan(maxTreeBytes);
  });

  it("names no path of the machine that it was written on", () => {
    const homes = [treeRoot, homedir()].filter((path) => path.length > "/root".length).map((path) => `${path}/`);
    const patterns = [...homes, "/root/"];
    const wrong = files
      .filter((file) => statSync(file).size <= maxTextBytes && file !== "tests/house/tree.test.ts")
      .filter((file) => {
        const text = readFileSync(file, "utf8");
        return patterns.some((pattern) => text.includes(pattern));
      });
    expect(wrong).toEqual([]);
  });

  it("holds nothing that a build or a run makes", () => {
    expect(files.filter((file) => /(^|\/)(node_modules|dist|build|\.cache|coverage)\/|\.log$|\.orig$|\.rej$/.test(file))).toEqual([]);
  });

  it("names only scripts that exist in its README and CI", () => {
    const mentioned = ["README.md", ".ci/run"]
      .filter((file) => existsSync(file))
      .flatMap((file) => [...readFileSync(file, "utf8").matchAll(/\.\/pelagic ([a-z-]+)/g)].map((match) => match[1] as string));
    const main = readFileSync("services/cli/main.ts", "utf8");
    expect([...new Set(mentioned)].filter((command) => !new RegExp(`from "\\./${command}\\.ts"`).test(main))).toEqual([]);
  });
});
