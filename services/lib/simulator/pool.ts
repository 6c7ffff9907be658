// Many seeds on all cores: threads that take the next few seeds as they are done with the last.
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { RunResult } from "./run.ts";

const seedsAtOnce = 16;

export interface PoolOptions {
  firstSeed: number;
  /** Whether another run is wanted, given how many have begun; asked before each few. */
  wanted: (begun: number) => boolean;
  threads?: number;
  /** Called for each run, in no particular order; true ends the pool. */
  onResult: (result: RunResult) => boolean | undefined;
}

export async function runSeeds({ firstSeed, wanted, threads = availableParallelism(), onResult }: PoolOptions): Promise<void> {
  let begun = 0;
  let stopped = false;
  const next = (): number[] => {
    const seeds: number[] = [];
    while (!stopped && seeds.length < seedsAtOnce && wanted(begun)) seeds.push(firstSeed + begun++);
    return seeds;
  };
  const thread = () =>
    new Promise<void>((resolve, reject) => {
      const seeds = next();
      if (seeds.length === 0) return resolve();
      const worker = new Worker(new URL("./pool-thread.js", import.meta.url));
      let left = seeds.length;
      worker.postMessage(seeds);
      worker.on("message", (result: RunResult) => {
        stopped = onResult(result) === true || stopped;
        if (--left > 0 && !stopped) return;
        const more = next();
        left = more.length;
        if (left > 0) worker.postMessage(more);
        else void worker.terminate().then(() => resolve());
      });
      worker.on("error", reject);
    });
  await Promise.all(Array.from({ length: threads }, thread));
}
