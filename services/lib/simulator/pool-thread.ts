// One thread of the pool: seeds in, results out.
import { parentPort } from "node:worker_threads";
import { runScenario } from "./run.ts";
import { makeScenario } from "./scenario.ts";

parentPort?.on("message", async (seeds: number[]) => {
  for (const seed of seeds) parentPort?.postMessage(await runScenario(makeScenario(seed)));
});
