// One ./pelagic cluster at a time in a tree. The file names its holder, so that a killed one's is recognised.
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../cli-error.ts";
import { isRunning, type ProcessIdentity } from "../stack/process-table.ts";
import { thisProcess } from "./instance.ts";
import { cacheDir } from "./layout.ts";

/** A first build takes that long on busy cores. */
const waitMs = 3_600_000;

export async function withLock<T>(progress: (text: string) => void, work: () => Promise<T>): Promise<T> {
  mkdirSync(cacheDir, { recursive: true });
  const file = join(cacheDir, "lock.json");
  for (let said = false, deadline = performance.now() + waitMs; !take(file); ) {
    const holder = holderOf(file);
    if (holder !== undefined && !isRunning(holder)) {
      rmSync(file, { force: true });
      continue;
    }
    if (performance.now() >= deadline)
      throw new CliError(`another ./pelagic cluster (process ${holder?.pid}) has been at work in this tree for an hour`);
    if (!said) progress(`another ./pelagic cluster (process ${holder?.pid ?? "unknown"}) is at work in this tree: waiting for it`);
    said = true;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const release = () => rmSync(file, { force: true });
  process.once("exit", release);
  try {
    return await work();
  } finally {
    process.off("exit", release);
    release();
  }
}

function take(file: string): boolean {
  const own = `${file}.${process.pid}`;
  writeFileSync(own, JSON.stringify(thisProcess()));
  try {
    // Whole or not at all.
    linkSync(own, file);
    return true;
  } catch {
    return false;
  } finally {
    rmSync(own, { force: true });
  }
}

/** Undefined where it has just been given up. */
function holderOf(file: string): ProcessIdentity | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as ProcessIdentity;
  } catch {
    return undefined;
  }
}
