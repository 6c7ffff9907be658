// Where things are in this checkout. Everything that is made here lies under .cache, build and dist, which git ignores.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder that holds ./pelagic, found from this file, whether it runs from dist or from source. */
export const treeRoot = findRoot(dirname(fileURLToPath(import.meta.url)));

export function inTree(...parts: string[]): string {
  return join(treeRoot, ...parts);
}

function findRoot(from: string): string {
  for (let dir = from; ; dir = dirname(dir)) {
    if (existsSync(join(dir, "pelagic"))) return dir;
    if (dirname(dir) === dir) throw new Error(`no Pelagic tree above ${from}`);
  }
}
