// What a run counts, and what it must not see.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { quantile } from "../../../loadtest/summary.ts";
import type { Stack } from "../stack/stack.ts";

export interface Violation {
  what: string;
  requestId?: string;
  atSeconds: number;
  /** Strikes shortly before and log lines that name the request: enough to begin with. */
  strikes: string[];
  log: string[];
}

export type Counts = Record<string, number>;

export function count(counts: Counts, key: string, by = 1): void {
  counts[key] = (counts[key] ?? 0) + by;
}

/** How often a request went on elsewhere, and how often the worker that it left sent its blocks. */
export type Resumes = Record<"lost" | "moved" | "withBlocks", number>;

/** Nested by each key in turn. */
export interface Tree {
  [key: string]: number | Tree;
}

export function countIn(tree: Tree, path: string[]): void {
  let at = tree;
  for (const key of path.slice(0, -1)) {
    at[key] ??= {};
    at = at[key] as Tree;
  }
  const last = path.at(-1) as string;
  at[last] = ((at[last] as number | undefined) ?? 0) + 1;
}

export function percentiles(values: number[]): { count: number; p50: number; p90: number; p99: number; max: number } | null {
  if (values.length === 0) return null;
  const at = (share: number) => round(quantile(values, share));
  return { count: values.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}

export function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

const maxLogLines = 40;

/** What the processes' logs say of a request. */
export function logLinesOf(stack: Stack, requestId: string): string[] {
  const lines: string[] = [];
  for (const { logFile } of stack.processes) {
    const text = readFileSync(logFile, "utf8");
    for (const line of text.split("\n")) if (line.includes(requestId)) lines.push(`${basename(logFile, ".log")}: ${line}`);
  }
  return lines.slice(-maxLogLines);
}

/** Resident memory of a process in MiB; null where it is gone. */
export function residentMib(pid: number): number | null {
  try {
    const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return kib === undefined ? null : Number(kib) / 1024;
  } catch {
    return null;
  }
}
