// What every process of a stack holds when nobody asks anything of it: blocks, requests, handles, memory. Read from their own /metrics.
import { parseMetrics, waitUntilQuiet } from "../chaos/quiet.ts";
import type { Stack } from "../stack/stack.ts";

export interface Holding {
  /** Open file descriptors, sockets among them. */
  fds: number;
  /** What Node keeps alive: sockets, timers, ports, threads. */
  resources: number;
  heapBytes: number;
  residentBytes: number;
  /** Buffers and WebAssembly outside the heap. */
  externalBytes: number;
}
export type Holdings = Record<string, Holding>;

const quietBoundMs = 60_000;
const pollMs = 200;
const requestMs = 5_000;

/** Growth that is no leak: caches with a bound (grammars, cached prompts' keys), code compiled meanwhile, a heap between two collections. */
export const allowedGrowth = { heapBytes: 24e6, residentBytes: 160e6, externalBytes: 48e6 } as const;

/**
 * Waits until no request, transfer or subscription is left (throws what is), and makes plain requests until collections have run. Of what was
 * seen meanwhile the least counts: garbage is not held.
 */
export async function measureHoldings(stack: Stack, plain: () => Promise<void>, rounds: number): Promise<Holdings> {
  const least: Holdings = {};
  for (let round = 0; round < rounds; round++) {
    await plain();
    for (const [name, now] of Object.entries(await readHoldings(stack))) {
      const seen = least[name];
      least[name] =
        seen === undefined
          ? now
          : (Object.fromEntries(
              Object.entries(now).map(([key, value]) => [key, Math.min(value, seen[key as keyof Holding])]),
            ) as unknown as Holding);
    }
  }
  const { leak } = await waitUntilQuiet(stack, quietBoundMs);
  if (leak !== null) throw new Error(`not quiet after ${quietBoundMs} ms: ${leak}`);
  return least;
}

async function readHoldings(stack: Stack): Promise<Holdings> {
  const holdings: Holdings = {};
  for (const { name, metricsPort } of stack.processes) {
    if (name === "nats") continue;
    if (metricsPort === undefined) throw new Error(`${name} is down`);
    const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`, { signal: AbortSignal.timeout(requestMs) });
    const metrics = parseMetrics(await response.text());
    const value = (metric: string) => {
      const found = metrics.get(metric);
      if (found === undefined) throw new Error(`${name} has no metric ${metric}`);
      return found;
    };
    holdings[name] = {
      fds: value("process_open_fds"),
      resources: value("nodejs_active_resources_total"),
      heapBytes: value("nodejs_heap_size_used_bytes"),
      residentBytes: value("process_resident_memory_bytes"),
      externalBytes: value("nodejs_external_memory_bytes"),
    };
  }
  return holdings;
}

/** What is more than before, and more than may be. Handles are counted: there is no more of them than there was. */
export function growth(before: Holdings, after: Holdings): string[] {
  const faults: string[] = [];
  for (const [name, was] of Object.entries(before)) {
    const is = after[name];
    if (is === undefined) {
      faults.push(`${name} is gone`);
      continue;
    }
    for (const key of ["fds", "resources"] as const) {
      if (is[key] > was[key]) faults.push(`${name}: ${is[key]} ${key}, ${was[key]} before`);
    }
    for (const [key, most] of Object.entries(allowedGrowth) as [keyof typeof allowedGrowth, number][]) {
      if (is[key] - was[key] > most) faults.push(`${name}: ${key} grew from ${was[key]} to ${is[key]}`);
    }
  }
  return faults;
}

export function sleepPoll(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, pollMs));
}
