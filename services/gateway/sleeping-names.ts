// Asks the operator every few seconds which models may sleep. What it said last holds while it does not answer.
import type { Log } from "../lib/contracts/bus.ts";
import { SleepingModels } from "../lib/contracts/sleeping-models.ts";
import { within } from "../lib/runtime/within.ts";

const everyMs = 5_000;
const timeoutMs = 3_000;

/** Resolves when it has asked once; returns how to stop. */
export async function followSleepingNames(url: string, log: Log, know: (names: string[]) => void): Promise<() => void> {
  const stopper = new AbortController();
  let failing = false;
  const ask = async () => {
    try {
      // What it is not is not followed elsewhere.
      const said = await within(timeoutMs, stopper.signal, async (signal) => {
        const response = await fetch(url, { redirect: "error", signal });
        if (response.status !== 200) throw new Error(`status ${response.status}`);
        return SleepingModels.parse(await response.json());
      });
      know(said.models.map(({ name }) => name));
      if (failing) log.info({ url }, "the operator says again which models may sleep");
      failing = false;
    } catch (error) {
      if (!failing && !stopper.signal.aborted)
        log.warn(
          { url, error: error instanceof Error ? error.message : String(error) },
          "the operator does not say which models may sleep; what it said last holds",
        );
      failing = true;
    }
  };
  await ask();
  const timer = setInterval(() => void ask(), everyMs);
  timer.unref();
  return () => {
    clearInterval(timer);
    stopper.abort();
  };
}
