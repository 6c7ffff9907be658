// What every process of a stack holds when nobody asks anything of it: blocks, requests, handles, memory. Read from their own /metrics.
import { parseMetrics, waitUntilQuiet } from "../chaos/quiet.ts";
import type { Stack, StackProcess } from "../stack/stack.ts";
import { collectGarbage, openInspector } from "./inspector.ts";
import { sleep } from "./sockets.ts";

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
const requestMs = 5_000;
/** Connections that were closed are gone a moment later. */
const settleMs = 1_000;

type Growth = Record<"heapBytes" | "externalBytes" | "residentBytes", number>;
/** In the first round, that is no leak: caches that have a bound (compiled grammars, the last requests' time lines) and code compiled meanwhile. */
export const firstGrowth: Growth = { heapBytes: 8e6, externalBytes: 24e6, residentBytes: 256e6 };
/** In a further round, when all of that is there: what is still growing is held for nobody. Of resident memory, what the allocator keeps to itself differs. */
export const furtherGrowth: Growth = { heapBytes: 3e6, externalBytes: 3e6, residentBytes: 64e6 };

/** Where to ask each process of a stack to collect its garbage. Part of what it holds: to be opened before anything is measured. */
export async function openInspectors(stack: Stack): Promise<Map<string, URL>> {
  const inspectors = new Map<string, URL>();
  for (const process of nodeProcesses(stack)) inspectors.set(process.name, await openInspector(process));
  return inspectors;
}

/** Waits until no request, transfer or subscription is left (throws what is). */
export async function measureHoldings(stack: Stack, inspectors: ReadonlyMap<string, URL>): Promise<Holdings> {
  const { leak } = await waitUntilQuiet(stack, quietBoundMs);
  if (leak !== null) throw new Error(`not quiet after ${quietBoundMs} ms: ${leak}`);
  // What the first collection finalizes, the second one frees.
  for (let times = 0; times < 2; times++) {
    for (const inspector of inspectors.values()) await collectGarbage(inspector);
    await sleep(settleMs);
  }
  return readHoldings(stack);
}

function nodeProcesses(stack: Stack): StackProcess[] {
  return stack.processes.filter(({ name }) => name !== "nats");
}

/** Of one process, now: others may be asking it things. */
export async function heldBytes(stack: Stack, inspectors: ReadonlyMap<string, URL>, name: string): Promise<number> {
  const inspector = inspectors.get(name);
  if (inspector === undefined) throw new Error(`${name} has no inspector`);
  await collectGarbage(inspector);
  const holding = (await readHoldings(stack))[name] as Holding;
  return holding.heapBytes + holding.externalBytes;
}

async function readHoldings(stack: Stack): Promise<Holdings> {
  const holdings: Holdings = {};
  for (const { name, metricsPort } of nodeProcesses(stack)) {
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
export function growth(before: Holdings, after: Holdings, allowed: Growth): string[] {
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
    for (const [key, most] of Object.entries(allowed) as [keyof Growth, number][]) {
      if (is[key] - was[key] > most) faults.push(`${name}: ${key} grew from ${was[key]} to ${is[key]}`);
    }
  }
  return faults;
}
