// That the simulator is one: it replays exactly, its model notices a wrong block, its oracle notices a wrong answer, and a failure shrinks. That the
// product survives it is `./pelagic simulate`, a stage of its own in `./pelagic test`.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { encodeMessage } from "../contracts/wire.ts";
import { frameHeaderBytes } from "../contracts/frame.ts";
import { mutants } from "./mutants.ts";
import { protocolPoint } from "./protocol-points.ts";
import { Random } from "./random.ts";
import { runScenario } from "./run.ts";
import { type Fault, faultKinds, makeScenario, pairCount, struckPoints } from "./scenario.ts";
import { shrink } from "./shrink.ts";
import { layerCount, SimRunner } from "./sim-runner.ts";
import { Node, World } from "./world.ts";

describe("a run", () => {
  test("replays exactly, and is right", async () => {
    for (let seed = 0; seed < 30; seed++) {
      const first = await runScenario(makeScenario(seed));
      expect(first.violations).toEqual([]);
      expect(await runScenario(makeScenario(seed))).toEqual(first);
    }
  });

  test("without faults ends every request as asked", async () => {
    for (let seed = 0; seed < 20; seed++) {
      const result = await runScenario({ ...makeScenario(seed), faults: [], drains: [] });
      expect(result.violations).toEqual([]);
      expect(Object.keys(result.outcomes).filter((outcome) => !["stop", "length", "left"].includes(outcome))).toEqual([]);
    }
  });

  test("tells its history where asked, and only there", async () => {
    const { history, violations } = await runScenario(makeScenario(1), { history: true });
    expect(violations).toEqual([]);
    expect(history.join("\n")).toContain("decode-0");
    expect((await runScenario(makeScenario(1))).history).toEqual([]);
  });
});

test("every pair of point and fault is aimed at", () => {
  const pairs = new Set<string>();
  for (let seed = 0; seed < 3 * pairCount; seed++) for (const { point, kind } of makeScenario(seed).faults) pairs.add(`${point}/${kind}`);
  expect(pairs.size).toBe(struckPoints.length * faultKinds.length);
});

describe("the model", () => {
  const pace = { callMs: 1, rowMs: 0 };
  const tokens = Uint32Array.from({ length: 200 }, (_, i) => (i * 7) % 61);
  const sampling = { temperature: 0, seed: 1n, choice: 0 };
  const work = (blocks: number[]) => [{ tokens, firstRow: 0, promptLength: 200, blocks, logitsFrom: 199, sampling }];
  const decode = (blocks: number[]) => [{ tokens: Uint32Array.of(5), firstRow: 200, promptLength: 200, blocks, logitsFrom: 200, sampling }];

  test("answers by what is cached: one changed, missing or swapped row of any layer and block changes what follows", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: layerCount - 1 }), fc.nat({ max: 199 }), fc.nat({ max: 15 }), async (layer, row, byte) => {
        const runner = new SimRunner(8, null, pace);
        await runner.run(work([0, 1, 2, 3]));
        const right = await runner.run(decode([0, 1, 2, 3]), { digests: true });
        const frame = new Uint8Array(frameHeaderBytes + runner.rowBytes);
        runner.packFrame(layer, Math.floor(row / 64), row % 64, 1, frame);
        const changed = frameHeaderBytes + byte;
        frame[changed] = (frame[changed] as number) ^ 1;
        // The header is whole, so that the row is stored: whoever calls must not count it.
        expect(runner.unpackFrame(layer, Math.floor(row / 64), row % 64, 1, frame)).toBe(false);
        const wrong = await runner.run(decode([0, 1, 2, 3]), { digests: true });
        expect(wrong[0]?.sequences[0]?.digests).not.toEqual(right[0]?.sequences[0]?.digests);
      }),
    );
    const runner = new SimRunner(8, null, pace);
    await runner.run(work([0, 1, 2, 3]));
    const digests = async (blocks: number[]) => (await runner.run(decode(blocks), { digests: true }))[0]?.sequences[0]?.digests;
    expect(await digests([1, 0, 2, 3])).not.toEqual(await digests([0, 1, 2, 3]));
  });

  test("does not depend on chunks, and tells a damaged byte by its checksum", async () => {
    const whole = new SimRunner(8, null, pace);
    const [one] = await whole.run(work([0, 1, 2, 3]), { digests: true });
    const cut = new SimRunner(8, null, pace);
    await cut.run([
      { ...(work([7, 5, 6, 4])[0] as ReturnType<typeof work>[0]), tokens: tokens.subarray(0, 77), logitsFrom: 77, sampling: null as never },
    ]);
    const rest = { tokens: tokens.subarray(77), firstRow: 77, promptLength: 200, blocks: [7, 5, 6, 4], logitsFrom: 199, sampling };
    expect((await cut.run([rest], { digests: true }))[0]?.sequences).toEqual(one?.sequences);
    const random = new Random(3);
    for (let i = 0; i < 500; i++) {
      const bytes = Uint8Array.from({ length: random.between(1, 70) }, () => random.between(0, 255));
      const sum = whole.xxh64(bytes);
      const at = random.between(0, bytes.length - 1);
      bytes[at] = (bytes[at] as number) ^ (1 << random.between(0, 7));
      expect(whole.xxh64(bytes)).not.toBe(sum);
    }
  });
});

describe("time", () => {
  test("runs what is due in order, each node by its own clock", async () => {
    const world = new World();
    const [a, b] = [new Node(world, "a"), new Node(world, "b")];
    const heard: string[] = [];
    const say = (what: string) => () => heard.push(`${what}@${world.nowMs}`);
    a.setTimer(30, say("a30"));
    b.setTimer(10, say("b10"));
    const cancel = a.setTimer(5, say("never"));
    cancel();
    a.setTimer(500, say("jumped over"));
    world.at(40, () => a.jump(480));
    world.at(50, () => b.pause(25));
    b.setTimer(60, say("b60"));
    b.setTimer(90, () => b.crash());
    b.setTimer(95, say("dead"));
    await world.run(200);
    expect(heard).toEqual(["b10@10", "a30@30", "jumped over@40", "b60@75"]);
    expect(world.nowMs).toBe(200);
  });
});

test("protocol points are told from messages alone, and from no others", () => {
  const at = (subject: string, body: object, tokens = 0) => protocolPoint(subject, encodeMessage(body, new Uint32Array(tokens)));
  expect(at("pelagic.s.dispatch.decode-0", { promptLength: 3 }, 3)).toEqual({ point: "dispatch", receiver: "decode-0" });
  expect(at("pelagic.s.dispatch.decode-0", { promptLength: 3 }, 4)).toEqual({ point: "resume", receiver: "decode-0" });
  expect(at("pelagic.s.deltas.gateway-1.aa", { deltas: [{ from: 4 }, { from: 0 }] })).toEqual({
    point: "first-token",
    receiver: "gateway-1",
  });
  expect(at("pelagic.s.credit.prefill-0.ff", { end: "complete" })).toEqual({ point: "complete", receiver: "prefill-0" });
  expect(at("_INBOX_s_gateway-0.1", { kind: "accepted" })).toEqual({ point: "dispatch-reply", receiver: "gateway-0" });
  expect(at("_INBOX_s_decode-1.1", { kind: "busy" })).toEqual({ point: "rows-reply", receiver: "decode-1" });
  fc.assert(
    fc.property(
      fc.constantFrom("pelagic.s.control.x", "pelagic.s.kv.x.y", "_INBOX_x.1", "$SYS.x", "pelagic"),
      fc.uint8Array(),
      (subject, data) => {
        const sighting = protocolPoint(subject, data);
        if (data.length < 8) expect(sighting).toBeNull();
      },
    ),
  );
});

test("a failure shrinks to what it takes", async () => {
  const scenario = { ...makeScenario(7), gateways: 2 };
  const culprit: Fault = { point: "ack", kind: "loss", nth: 0, side: "sender", ms: 10 };
  scenario.faults = [...scenario.faults, culprit, ...makeScenario(8).faults];
  const shortest = await shrink(scenario, async ({ faults }) => faults.some(({ point }) => point === "ack"));
  expect(shortest.faults).toEqual([culprit]);
  expect(shortest.requests).toHaveLength(1);
  expect(shortest).toMatchObject({ gateways: 1, prefill: 1, decode: 1, drains: [] });
});

test("the list of mutants names each once, and has at least twenty", () => {
  expect(new Set(mutants.map(({ name }) => name)).size).toBe(mutants.length);
  expect(mutants.length).toBeGreaterThanOrEqual(20);
});
