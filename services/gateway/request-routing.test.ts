// One request's routing over its moves, on a view of workers that nobody has heard from since.
import { expect, test } from "vitest";
import { testModelName, workerState } from "../../tests/gateway/scripted-decode.ts";
import { RequestRouting } from "./request-routing.ts";
import { StateView } from "./state-view.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

function directoryOf(...states: ReturnType<typeof workerState>[]) {
  const view = new StateView();
  for (const state of states) view.apply(state, 0);
  const directory = { view, snapshot: () => view.snapshot(0) } as WorkerDirectory;
  return { view, directory };
}
const routing = (directory: WorkerDirectory) =>
  new RequestRouting(directory, { modelName: testModelName, promptLength: 100, maxTokens: 5_000, cacheSalt: "", localPrefillTokens: 256 });
const prompt = new Uint32Array(100);
const withAnswer = new Uint32Array(110);
const otherBuild = { numericsId: "c".repeat(64) };

test("of many requests on a draining worker so many move as its peer surely takes", () => {
  const { directory } = directoryOf(workerState("d0", "decode", { state: "draining" }), workerState("d1"));
  const moving = Array.from({ length: 40 }, () => routing(directory)).filter((one) => one.shouldMove("d0", withAnswer));
  // Half of a queue of 16.
  expect(moving).toHaveLength(8);
});

test("an answer goes on where it began, a request without one anywhere", () => {
  const { view, directory } = directoryOf(workerState("d0"));
  const one = routing(directory);
  expect(one.choose(prompt, new Set())?.workerId).toBe("d0");
  view.apply(workerState("d1", "decode", otherBuild), 0);
  const lost = new Set(["d0-1"]);
  expect(one.choose(withAnswer, lost)).toBeNull();
  view.apply(workerState("d2"), 0);
  expect(one.choose(withAnswer, lost)?.workerId).toBe("d2");
  expect(one.choose(prompt, new Set(["d0-1", "d2-1"]))?.workerId).toBe("d1");
  expect(one.choose(withAnswer, new Set())?.workerId).toBe("d1");
});

test("nothing moves to a worker that would answer with other bits", () => {
  const { directory } = directoryOf(workerState("d0"), workerState("d1", "decode", otherBuild));
  const one = routing(directory);
  expect(one.choose(prompt, new Set(["d1-1"]))?.workerId).toBe("d0");
  expect(one.shouldMove("d0", withAnswer)).toBe(false);
});
