// What the loop makes of the native engine's errors.
import { afterEach, expect, test, vi } from "vitest";
import { NativeRunner } from "./model-runner.ts";
import type { LoadOptions, ModelInfo, NativeModel } from "./native.ts";

const options: LoadOptions = { dir: "", backend: "cuda", kvDtype: "bfloat16", threads: 1, isa: "auto", kvBlocks: 4 };
const work = [{ tokens: Uint32Array.of(1), firstRow: 0, promptLength: 1, blocks: [0], logitsFrom: 0, sampling: null }];

function runnerThatFails(code: string): NativeRunner {
  const failure = Object.assign(new Error("the GPU failed at a step; the process must be restarted"), { code });
  const fail = () => {
    throw failure;
  };
  const rejected = () => Promise.reject(failure);
  const model: Partial<NativeModel> = { info: { latentWidth: 576 } as ModelInfo, step: rejected, meet: rejected, packRows: fail };
  return new NativeRunner(model as NativeModel, options);
}

afterEach(() => vi.restoreAllMocks());

test.each(["a step", "a meeting", "a copy of rows"])(
  "a GPU that failed at %s ends the process with that error, which the caller gets too",
  async (where) => {
    const later = vi.spyOn(globalThis, "queueMicrotask").mockImplementation(() => {});
    const runner = runnerThatFails("device");
    const calls: Record<string, () => Promise<unknown>> = {
      "a step": () => runner.run(work),
      "a meeting": () => runner.meet({ group: new Uint8Array(16), ranks: [null], meetMs: 1, silenceMs: 1, longestWaitMs: 1 }),
      "a copy of rows": async () => runner.packRows(0, 0, 0, 1, new Uint8Array(1152), 0),
    };
    await expect(calls[where]?.()).rejects.toThrow("the process must be restarted");
    // Outside of every promise: nothing catches it but the process, which dies of it.
    expect(later.mock.calls.length).toBe(1);
    expect(later.mock.calls[0]?.[0]).toThrow("the process must be restarted");
  },
);

test("any other error is the caller's alone", async () => {
  const later = vi.spyOn(globalThis, "queueMicrotask").mockImplementation(() => {});
  await expect(runnerThatFails("argument").run(work)).rejects.toThrow();
  expect(later).not.toHaveBeenCalled();
});
