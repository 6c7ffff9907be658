import { expect, test } from "vitest";
import { ManualClock, MemoryBus } from "../../tests/gateway/memory-bus.ts";
import { ScriptedDecode } from "../../tests/gateway/scripted-decode.ts";
import { silentLog } from "../lib/contracts/bus.ts";
import { subjects } from "../lib/contracts/subjects.ts";
import { WorkerDirectory } from "./worker-directory.ts";

async function setup() {
  const clock = new ManualClock();
  const bus = new MemoryBus(clock);
  const gone: string[] = [];
  const onGone = ({ workerId }: { workerId: string }) => gone.push(workerId);
  const directory = new WorkerDirectory({ bus, clock, subjects: subjects("test"), log: silentLog, onGone });
  new ScriptedDecode({ bus, clock, workerId: "decode-0", script: () => ({}) as never });
  const state = () => directory.snapshot().workers[0]?.state;
  await clock.advance(2_000);
  expect(state()).toBe("ready");
  return { clock, bus, gone, state };
}

test("a worker whose messages stop while the bus works is silent, then gone", async () => {
  const { clock, bus, gone, state } = await setup();
  bus.fate = (subject) => (subject.includes(".state.") ? [] : [0]);
  await clock.advance(2_000);
  expect(state()).toBe("silent");
  await clock.advance(2_000);
  expect(gone).toEqual(["decode-0"]);
});

test("while the server hangs with its connections open, nobody is silent; nor when it goes on", async () => {
  const { clock, bus, gone, state } = await setup();
  bus.fate = () => [];
  let goOn = () => {};
  bus.flush = () =>
    new Promise((resolve) => {
      goOn = resolve;
    });
  await clock.advance(8_000);
  expect(state()).toBe("ready");
  delete (bus as Partial<MemoryBus>).flush;
  goOn();
  // The server answers before it hands on what it still holds.
  await clock.advance(600);
  expect(state()).toBe("ready");
  bus.fate = () => [0];
  await clock.advance(4_000);
  expect([state(), gone]).toEqual(["ready", []]);
});
