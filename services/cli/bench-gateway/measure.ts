// One stream at a time by every way in turn, so that all see the same machine; and as many as go, by one way after another.
import { cpuSeconds, forgetPeak, residentBytes } from "../process-figures.ts";
import type { Timed, Way } from "./ways.ts";

export interface Latency {
  firstMs: number[];
  totalMs: number[];
}

/** A process that serves has compiled what it runs: some streams at once by each way, for so long. */
export async function warmUp(ways: readonly Way[], options: { concurrency: number; forMs: number }): Promise<void> {
  for (const way of ways) {
    const untilMs = performance.now() + options.forMs;
    const client = async () => {
      while (performance.now() < untilMs) await way.ask();
    };
    await Promise.all(Array.from({ length: options.concurrency }, client));
  }
}

export async function measureLatency(ways: readonly Way[], rounds: number): Promise<Map<Way, Latency>> {
  const latencies = new Map<Way, Latency>(ways.map((way) => [way, { firstMs: [], totalMs: [] }]));
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < ways.length; i++) {
      // Each goes first in turn.
      const way = ways[(i + round) % ways.length] as Way;
      const { firstMs, totalMs } = await way.ask();
      latencies.get(way)?.firstMs.push(firstMs);
      latencies.get(way)?.totalMs.push(totalMs);
    }
  }
  return latencies;
}

export interface Saturation {
  streamsPerSecond: number;
  /** Processor seconds of each process for one stream. */
  cpuSeconds: Record<string, number>;
  /** Of each process at its peak. */
  residentBytes: Record<string, number>;
  /** Pieces of text that a reader got, on average. */
  pieces: number;
}

/** So many streams at all times, a new one where one ends. Counts what ends between a warm-up and the end. */
export async function measureSaturation(
  way: Way,
  options: { concurrency: number; warmUpMs: number; forMs: number; pids: Record<string, number> },
): Promise<Saturation> {
  const pids = Object.entries(options.pids);
  const ended: { atMs: number; pieces: number }[] = [];
  let over = false;
  const client = async () => {
    while (!over) {
      const timed: Timed = await way.ask();
      ended.push({ atMs: performance.now(), pieces: timed.pieces });
    }
  };
  const clients = Promise.all(Array.from({ length: options.concurrency }, client));
  // A failure is thrown below; until then nobody else waits for it.
  clients.catch(() => undefined);
  const wait = (ms: number) => Promise.race([clients, new Promise((resolve) => setTimeout(resolve, ms))]);
  await wait(options.warmUpMs);
  const before = Object.fromEntries(pids.map(([name, pid]) => [name, cpuSeconds(pid)]));
  for (const [, pid] of pids) forgetPeak(pid);
  const fromMs = performance.now();
  await wait(options.forMs);
  const toMs = performance.now();
  const used = pids.map(([name, pid]) => [name, cpuSeconds(pid) - (before[name] as number)] as const);
  const resident = pids.map(([name, pid]) => [name, residentBytes(pid).peak]);
  over = true;
  await clients;
  const counted = ended.filter(({ atMs }) => atMs >= fromMs && atMs < toMs);
  return {
    streamsPerSecond: (counted.length / (toMs - fromMs)) * 1000,
    cpuSeconds: Object.fromEntries(used.map(([name, seconds]) => [name, seconds / counted.length])),
    residentBytes: Object.fromEntries(resident),
    pieces: counted.reduce((sum, { pieces }) => sum + pieces, 0) / counted.length,
  };
}
