import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { workerState } from "../../tests/gateway/scripted-decode.ts";
import type { WorkerState } from "../lib/contracts/messages.ts";
import { StateView } from "./state-view.ts";

const key = (n: number) => n.toString(16).padStart(16, "0");

/** A worker's honest history: each event stores or removes one block; messages carry several, some with a snapshot. */
const history = fc
  .array(fc.record({ toggles: fc.array(fc.nat(9), { maxLength: 4 }), snapshot: fc.boolean() }), { minLength: 1, maxLength: 12 })
  .map((steps) => {
    const held = new Set<number>();
    let position = 0;
    return steps.map(({ toggles, snapshot }, index): WorkerState => {
      const stored: string[] = [];
      const removed: string[] = [];
      for (const block of new Set(toggles)) {
        (held.has(block) ? removed : stored).push(key(block));
        if (!held.delete(block)) held.add(block);
        position++;
      }
      const keys = [...held].map(key);
      return workerState("decode-0", "decode", { position, stored, removed, snapshot: index === 0 || snapshot ? keys : undefined });
    });
  });

function fold(messages: readonly WorkerState[]): StateView {
  const view = new StateView();
  for (const [index, message] of messages.entries()) view.apply(message, index);
  return view;
}
const keysOf = (view: StateView) => [...(view.snapshot(0).workers[0]?.blockKeys ?? [])].sort();

describe("state view", () => {
  it("is equal for equal histories, and not changed by what comes twice", () => {
    fc.assert(
      fc.property(history, (messages) => {
        const doubled = messages.flatMap((message) => [message, message]);
        expect(fold(messages).snapshot(0)).toEqual(fold(messages).snapshot(0));
        expect(keysOf(fold(doubled))).toEqual(keysOf(fold(messages)));
      }),
    );
  });

  it("remembers those that stopped, the last thousand of them: each pod has a name of its own, and none comes back", () => {
    const view = new StateView();
    const worker = (n: number, state: WorkerState["state"]) => workerState(`decode-${n}`, "decode", { state });
    for (let n = 0; n < 3_000; n++) for (const state of ["ready", "stopped"] as const) view.apply(worker(n, state), n);
    expect(view.snapshot(3_000).workers).toEqual([]);
    const believed = (n: number) => view.apply(worker(n, "ready"), 3_000).current;
    expect([believed(2_999), believed(2_000), believed(0)]).toEqual([false, false, true]);
  });

  it("knows after a gap that it does not know, and after a snapshot what everyone knows", () => {
    fc.assert(
      fc.property(history, fc.array(fc.boolean()), (messages, lost) => {
        const view = new StateView();
        let gap = true;
        messages.forEach((message, index) => {
          if (lost[index]) return;
          gap = view.apply(message, 0).gap;
          const truth = keysOf(fold(messages.slice(0, index + 1)));
          if (!gap) expect(keysOf(view)).toEqual(truth);
          else expect(keysOf(view)).toEqual([]);
        });
        const last = messages.at(-1) as WorkerState;
        view.apply({ ...last, snapshot: keysOf(fold(messages)) }, 0);
        expect(keysOf(view)).toEqual(keysOf(fold(messages)));
      }),
    );
  });

  it("takes a new instance for a new worker, and ignores what the old one still said", () => {
    const view = fold([workerState("decode-0", "decode", { snapshot: [key(1)] })]);
    const second = workerState("decode-0", "decode", { instanceId: "decode-0-2", snapshot: [] });
    expect(view.apply(second, 1)).toEqual({ current: true, gap: false, gone: { workerId: "decode-0", instanceId: "decode-0-1" } });
    expect(view.apply(workerState("decode-0", "decode", { snapshot: [key(1)] }), 2)).toEqual({ current: false, gap: false, gone: null });
    expect(view.snapshot(2).workers[0]).toMatchObject({ instanceId: "decode-0-2" });
    expect(keysOf(view)).toEqual([]);
  });

  it("believes a replaced instance again once the one that seemed to replace it is silent", () => {
    const second = () => workerState("decode-0", "decode", { instanceId: "decode-0-2", snapshot: [key(2)] });
    // This gateway never knew the first instance, whose message was long on its way.
    const view = fold([second()]);
    view.apply(workerState("decode-0"), 1);
    expect(view.apply(second(), 2_000)).toEqual({ current: false, gap: false, gone: null });
    expect(view.snapshot(2_000).workers).toMatchObject([{ instanceId: "decode-0-1" }]);
    expect(view.expire(3_002)).toEqual([{ workerId: "decode-0", instanceId: "decode-0-1" }]);
    view.apply(second(), 3_100);
    expect(keysOf(view)).toEqual([key(2)]);
    view.apply(second(), 5_000);
    expect(view.snapshot(6_000).workers).toMatchObject([{ instanceId: "decode-0-2", state: "ready" }]);
  });

  it("lets no late message of a stopped instance touch the present one", () => {
    const second = workerState("decode-0", "decode", { instanceId: "decode-0-2", snapshot: [] });
    const view = fold([second]);
    const stopped = workerState("decode-0", "decode", { state: "stopped" });
    expect(view.apply(stopped, 1).gone).toEqual({ workerId: "decode-0", instanceId: "decode-0-1" });
    view.apply(workerState("decode-0"), 2);
    expect(view.snapshot(2).workers).toMatchObject([{ instanceId: "decode-0-2" }]);
    expect(view.expire(3_001)).toHaveLength(1);
    view.apply(workerState("decode-0"), 3_100);
    expect(view.snapshot(3_100).workers).toEqual([]);
  });

  it("stops routing to a silent worker, then gives it up", () => {
    const view = fold([workerState("decode-0")]);
    expect(view.snapshot(1_500).workers[0]?.state).toBe("ready");
    expect(view.snapshot(1_501).workers[0]?.state).toBe("silent");
    expect(view.expire(3_000)).toEqual([]);
    expect(view.expire(3_001)).toEqual([{ workerId: "decode-0", instanceId: "decode-0-1" }]);
    expect(view.snapshot(3_001).workers).toEqual([]);
    expect(view.apply(workerState("decode-0"), 3_100).gone).toBeNull();
    expect(view.snapshot(3_100).workers).toHaveLength(1);
  });

  it("says that a stopped worker is gone", () => {
    const view = fold([workerState("decode-0")]);
    expect(view.apply(workerState("decode-0", "decode", { state: "stopped" }), 1).gone).toEqual({
      workerId: "decode-0",
      instanceId: "decode-0-1",
    });
    expect(view.snapshot(1).workers).toEqual([]);
  });

  it("counts dispatched work until the worker reports", () => {
    const view = fold([workerState("decode-0")]);
    view.noteDispatched("decode-0", { requests: 1, prefillTokens: 10, blocks: 2 });
    expect(view.snapshot(0).workers[0]?.unreported).toEqual({ requests: 1, prefillTokens: 10, blocks: 2 });
    view.apply(workerState("decode-0"), 1);
    expect(view.snapshot(1).workers[0]?.unreported).toEqual({ requests: 0, prefillTokens: 0, blocks: 0 });
  });
});
