import { expect, test } from "vitest";
import { silentLog } from "../../contracts/bus.ts";
import { ExpertTally } from "../expert-tally.ts";
import { loadIntervalMs, LoadPublisher } from "../load-publisher.ts";
import { ManualClock, MemoryBroker, settle } from "../testing/memory-bus.ts";
import { GroupLoad } from "./group-load.ts";

const modelDigest = "ab".repeat(32);
const shape = { moeLayers: 2, logicalExperts: 3 };

function setUp() {
  const clock = new ManualClock();
  const broker = new MemoryBroker();
  const worker = (workerId: string, changes: object = {}) => {
    const tally = new ExpertTally();
    const about = { workerId, instanceId: `${workerId}-a`, rankGroup: "m", modelDigest, ...shape, ...changes };
    const publisher = new LoadPublisher({
      bus: broker.connect(clock),
      clock,
      log: silentLog,
      subject: `pelagic.s.loads.${workerId}`,
      tally,
      about,
    });
    return { tally, publisher };
  };
  const group = new GroupLoad({ bus: broker.connect(clock), clock, subject: "pelagic.s.loads.*", rankGroup: "m", modelDigest, ...shape });
  const intervals = async (count: number) => {
    for (let i = 0; i < count; i++) await clock.advance(loadIntervalMs);
    await settle();
  };
  return { clock, broker, worker, group, intervals };
}

test("a worker's window holds what came in each interval", async () => {
  const { worker, intervals } = setUp();
  const { tally, publisher } = worker("decode-0");
  await intervals(1);
  tally.add(Uint32Array.of(1, 2, 3, 4, 5, 6));
  await intervals(1);
  tally.add(Uint32Array.of(1, 0, 0, 0, 0, 0));
  tally.add(Uint32Array.of(1, 0, 0, 0, 0, 1));
  await intervals(1);
  expect(publisher.window.intervals().map((interval) => [...interval])).toEqual([
    [0, 0, 0, 0, 0, 0],
    [1, 2, 3, 4, 5, 6],
    [2, 0, 0, 0, 0, 1],
  ]);
});

test("a group's load is that of its own ranks, each interval once", async () => {
  const { broker, worker, group, intervals } = setUp();
  const heard = () => [...(group.window?.total() ?? [])];
  broker.deliveries = () => 2;
  group.listen(true);
  const ranks = [worker("decode-0"), worker("decode-1")];
  const others = [
    worker("prefill-0", { rankGroup: undefined }),
    worker("decode-2", { rankGroup: "other" }),
    worker("decode-3", { modelDigest: "cd".repeat(32) }),
  ];
  for (let i = 0; i < 3; i++) {
    for (const { tally } of [...ranks, ...others]) tally.add(Uint32Array.of(1, 2, 3, 4, 5, 6));
    await intervals(1);
  }
  await intervals(1);
  expect(heard()).toEqual([6, 12, 18, 24, 30, 36]);
  // A worker that came anew counts from 0 again.
  ranks[0]?.publisher.stop();
  worker("decode-0", { instanceId: "decode-0-b" }).tally.add(Uint32Array.of(1, 0, 0, 0, 0, 0));
  await intervals(2);
  expect(heard()).toEqual([7, 12, 18, 24, 30, 36]);
  group.listen(false);
  expect(group.window).toBeUndefined();
  expect(broker.listeners("pelagic.s.loads.decode-0")).toHaveLength(0);
});

test("nothing is said of an interval without tokens, and an outage costs what came in it", async () => {
  const { broker, worker, group, intervals } = setUp();
  group.listen(true);
  const { tally } = worker("decode-0");
  let messages = 0;
  broker.deliveries = () => {
    messages++;
    return 1;
  };
  await intervals(2);
  expect(messages).toBe(0);
  broker.connected = false;
  tally.add(Uint32Array.of(9, 9, 9, 9, 9, 9));
  await intervals(1);
  broker.restart();
  tally.add(Uint32Array.of(1, 1, 1, 1, 1, 1));
  await intervals(2);
  expect([...(group.window?.total() ?? [])]).toEqual([1, 1, 1, 1, 1, 1]);
});
