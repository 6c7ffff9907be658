// Before any test: the processes that tests start run from dist, so it must not be older than the sources.
// Type errors do not stop it (the compiler writes all the same); finding those is the typecheck's work.
import { spawnSync } from "node:child_process";
import { utimesSync, writeFileSync } from "node:fs";
import { inTree, treeRoot } from "../../services/cli/tree.ts";

export default function buildFirst(): void {
  // Not the stamp of ./pelagic, which stands for a build without errors.
  const stamp = inTree("dist", ".built-for-tests");
  const stale = spawnSync("find", ["services", "operators", "tsconfig.json", "tsconfig.build.json", "-newer", stamp, "-print", "-quit"], {
    cwd: treeRoot,
    encoding: "utf8",
  });
  if (stale.status === 0 && stale.stdout === "") return;
  // Taken before the build: what changes meanwhile is newer.
  const begun = new Date();
  spawnSync("npm", ["run", "--silent", "build"], { cwd: treeRoot, stdio: "ignore" });
  writeFileSync(stamp, "");
  utimesSync(stamp, begun, begun);
}
