// One ./pelagic cluster at a time in a tree. The lock is the kernel's, held by a child that ends with this process however it ends: nobody has to
// find out whether a holder still lives, which two who wait would find out at once.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../cli-error.ts";
import { cacheDir } from "./layout.ts";

/** A first build takes that long on busy cores. */
const waitSeconds = 3_600;

export async function withLock<T>(progress: (text: string) => void, work: () => Promise<T>, dir = cacheDir): Promise<T> {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, "lock");
  closeSync(openSync(file, "a"));
  let holder = await take(file, 0);
  if (holder === undefined) {
    progress("another ./pelagic cluster is at work in this tree: waiting for it");
    holder = await take(file, waitSeconds);
  }
  if (holder === undefined) throw new CliError("another ./pelagic cluster has been at work in this tree for an hour");
  try {
    return await work();
  } finally {
    await ended(holder, () => holder.stdin?.end());
  }
}

/** Undefined where another one holds it for so long. */
async function take(file: string, seconds: number): Promise<ChildProcess | undefined> {
  // `cat` ends when our end of its input does.
  const args = ["--wait", String(seconds), "--conflict-exit-code", "75", file, "sh", "-c", "echo held && exec cat >/dev/null"];
  const child = spawn("flock", args, { stdio: ["pipe", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(new CliError(`flock (of util-linux) is needed: ${error.message}`)));
    child.stdout.once("data", () => resolve(child));
    child.once("exit", (code) => (code === 75 ? resolve(undefined) : reject(new CliError(`flock ended with ${code}`))));
  });
}

function ended(child: ChildProcess, act: () => void): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.once("exit", () => resolve());
    act();
  });
}
