import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { treeRoot } from "../../services/cli/tree.ts";

/** Paths from the tree's root of what git tracks, or would with the next `git add`; a file deleted but not yet committed is left out. */
export function trackedFiles(): string[] {
  process.chdir(treeRoot);
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
  });
  return [...new Set(listed.split("\0"))].filter((path) => path !== "" && existsSync(path)).sort();
}
