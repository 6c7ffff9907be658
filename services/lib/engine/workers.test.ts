// Prefill and decode apart, over a bus in memory: the answer of a request never depends on who computed its prompt or on what went wrong.
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { silentLog } from "../contracts/bus.ts";
import { type FrameHeader, frameHeaderBytes, readFrameHeader, readFramePlaces } from "../contracts/frame.ts";
import { decodeDeltas, type OutputPart } from "../contracts/deltas.ts";
import { type Delta, DispatchReply, ExpertCounts, RowsReply, WorkerState, type WorkerRole } from "../contracts/messages.ts";
import { decodeMessage, encodeMessage } from "../contracts/wire.ts";
import { DecodeWorker } from "./decode-worker.ts";
import { Engine, type EngineEnd } from "./engine.ts";
import { loadIntervalMs } from "./load-publisher.ts";
import { RowServer } from "./row-server.ts";
import { CacheRunner } from "./testing/cache-runner.ts";
import { ManualClock, MemoryBroker, settle } from "./testing/memory-bus.ts";
import { WorkerCore } from "./worker-core.ts";

const modelDir = mkdtempSync(join(tmpdir(), "pelagic-model-"));
writeFileSync(join(modelDir, "config.json"), "{}");
const engineConfig = { kvBlocks: 64, tokenBudget: 128, chunkTokens: 128, chunkAlignTokens: 64 as const, maxSequences: 8, maxWaiting: 16 };
const prompt = (length: number, salt = 0) => Uint32Array.from({ length }, (_, i) => (i * 31 + salt) % 97);

let broker: MemoryBroker;
let clock: ManualClock;

/** Of each worker's process of now. */
const instanceIds = new Map<string, string>();

async function startWorker(role: WorkerRole, workerId: string, kvBlocks = engineConfig.kvBlocks) {
  const runner = new CacheRunner(kvBlocks);
  const bus = broker.connect(clock);
  const options = { service: "test", workerId, role, modelDir, kvDtype: "bfloat16" as const, engine: { ...engineConfig, kvBlocks } };
  const core = await WorkerCore.start(options, runner, bus, clock, silentLog);
  instanceIds.set(workerId, core.instanceId);
  return { core, runner, bus };
}

async function startDecode(workerId = "decode-0", kvBlocks?: number) {
  const { core, runner, bus } = await startWorker("decode", workerId, kvBlocks);
  const worker = new DecodeWorker(core, bus, broker.connect(clock), { localPrefillTokens: 64, receiveBudgetBytes: 64 * 1024 });
  core.ready();
  return { core, runner, worker };
}

async function startPrefill(workerId = "prefill-0") {
  const { core, runner, bus } = await startWorker("prefill", workerId);
  const worker = new RowServer(core, bus, broker.connect(clock), { servesWhileDraining: false });
  core.ready();
  return { core, runner, worker };
}

/** A gateway of the simplest kind. */
class Client {
  readonly tokens: number[] = [];
  end: Delta["end"];
  first: OutputPart["delta"] | undefined;
  readonly attemptId: string;
  private readonly bus = broker.connect(clock);

  constructor(attemptId: string) {
    this.attemptId = attemptId;
    this.bus.subscribe(`pelagic.test.deltas.gw.${attemptId}`, (message) => {
      for (const { delta, tokens } of decodeDeltas(message.data)) {
        tokens.forEach((token, i) => {
          this.tokens[delta.from + i] = token;
        });
        this.first ??= delta;
        this.end ??= delta.end;
      }
    });
  }

  async dispatch(tokens: Uint32Array, fields: Record<string, unknown> = {}) {
    const body = {
      requestId: this.attemptId,
      attemptId: this.attemptId,
      gatewayId: "gw",
      instanceId: instanceIds.get("decode-0"),
      replySubject: `pelagic.test.deltas.gw.${this.attemptId}`,
      promptLength: tokens.length,
      maxTokens: 20,
      stopTokenIds: [],
      sampling: { temperature: 0, seed: "1", choice: 0 },
      cacheSalt: "tenant",
      prefillWorkerId: "prefill-0",
      leaseMs: 10_000,
      deadlineMs: 60_000,
      ...fields,
    };
    const answer = this.bus.request("pelagic.test.dispatch.decode-0", encodeMessage(body, tokens), 1000);
    return decodeMessage(DispatchReply, await answer).body;
  }

  control(body: object) {
    this.bus.publish("pelagic.test.control.decode-0", encodeMessage(body));
  }
}

/** The answer of one engine that computes everything itself. */
async function expected(tokens: Uint32Array, maxTokens = 20): Promise<number[]> {
  const identity = { modelDigest: "", numericsId: "", kvDtype: "bfloat16" };
  const engine = new Engine(new CacheRunner(64), identity, engineConfig, clock, silentLog);
  const out: number[] = [];
  await new Promise<EngineEnd>((onEnd) =>
    engine.submit({
      id: "x",
      tokens,
      promptLength: tokens.length,
      cacheSalt: "",
      mode: "local",
      maxTokens,
      stopTokenIds: new Set(),
      sampling: { temperature: 0, seed: 1n, choice: 0 },
      listener: { onToken: (_, sampled) => out.push(sampled.token), onEnd },
    }),
  );
  return out;
}

beforeEach(() => {
  broker = new MemoryBroker();
  clock = new ManualClock();
});

describe("a request", () => {
  test.each([2, 63, 64, 65, 129, 300, 1000])("of %i tokens answers the same with its prompt prefilled elsewhere", async (length) => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    const rows = { decode: decode.runner.rows, prefill: prefill.runner.rows };
    const client = new Client("a1");
    expect((await client.dispatch(prompt(length))).kind).toBe("accepted");
    await clock.advance(2000);
    expect(client.tokens).toEqual(await expected(prompt(length)));
    expect(client.end).toEqual({ kind: "finish", reason: "length" });
    const remote = length - 1 >= 64;
    expect(client.first?.prefilledBy).toBe(remote ? "prefill-0" : undefined);
    expect(prefill.runner.rows - rows.prefill).toBe(remote ? length - 1 : 0);
    expect(decode.runner.rows - rows.decode).toBe((remote ? 1 : length) + 19);
    client.control({ kind: "ack", attemptIds: ["a1"] });
    await settle();
    expect(decode.worker.liveAttempts).toBe(0);
    expect(decode.core.engine.blocks.owners()).toEqual([]);
    expect(prefill.core.engine.blocks.owners()).toEqual([]);
    expect(prefill.worker.activeTransfers).toBe(0);
  });

  test("that was meant for the process before is refused, whatever its tokens: that one may have had another model", async () => {
    const { worker } = await startDecode();
    const refusal = { kind: "error", error: { code: "worker_lost" } };
    expect(await new Client("a1").dispatch(prompt(10), { instanceId: "the-one-before" })).toMatchObject(refusal);
    expect(await new Client("a2").dispatch(Uint32Array.of(1_000_000), { instanceId: "the-one-before" })).toMatchObject(refusal);
    expect(worker.liveAttempts).toBe(0);
  });

  test("is sent again from where its reader is, no more than that has room for, and the end with its last token", async () => {
    await startDecode();
    const client = new Client("a1");
    await client.dispatch(prompt(10), { prefillWorkerId: null });
    await clock.advance(2000);
    const whole = [...client.tokens];
    const again = (from: number, most?: number) => {
      client.tokens.length = 0;
      client.end = undefined;
      const replySubject = "pelagic.test.deltas.gw.a1";
      client.control({ kind: "resend", attemptId: "a1", from, replySubject, ...(most === undefined ? {} : { most }) });
      return settle().then(() => ({ tokens: client.tokens.slice(from), end: client.end }));
    };
    const end = { kind: "finish", reason: "length" };
    expect(await again(5)).toEqual({ tokens: whole.slice(5), end });
    expect(await again(5, 3)).toEqual({ tokens: whole.slice(5, 8), end: undefined });
    expect(await again(17, 3)).toEqual({ tokens: whole.slice(17), end });
    expect(await again(20, 3)).toEqual({ tokens: [], end });
  });

  test("moves only the blocks that decode lacks, and counts what nobody computed", async () => {
    await startDecode();
    const prefill = await startPrefill();
    await new Client("a1").dispatch(prompt(200));
    await clock.advance(1000);
    let frames = 0;
    broker.deliveries = (subject, data) => {
      if (subject.includes(".kv.")) frames += readFramePlaces(data)?.length ?? 0;
      return 1;
    };
    const longer = Uint32Array.from([...prompt(200), ...prompt(100, 5)]);
    const client = new Client("a2");
    const before = prefill.runner.rows;
    await client.dispatch(longer);
    await clock.advance(1000);
    expect(client.tokens).toEqual(await expected(longer));
    expect(client.first?.cacheHitTokens).toBe(192);
    expect(prefill.runner.rows - before).toBe(299 - 192);
    expect(frames).toBe(3 * 2);
    // Another tenant shares nothing.
    const other = new Client("a3");
    await other.dispatch(longer, { cacheSalt: "someone else" });
    await clock.advance(1000);
    expect(other.first?.cacheHitTokens).toBe(0);
    expect(other.tokens).toEqual(client.tokens);
  });

  test("that prefill had in its cache is not computed again", async () => {
    await startDecode("decode-0", 8);
    const prefill = await startPrefill();
    await new Client("a1").dispatch(prompt(300));
    await clock.advance(1000);
    // Another prompt drives the first out of decode's small cache.
    await new Client("a2").dispatch(prompt(400, 9));
    await clock.advance(1000);
    const before = prefill.runner.rows;
    const client = new Client("a3");
    await client.dispatch(prompt(300));
    await clock.advance(1000);
    expect(client.tokens).toEqual(await expected(prompt(300)));
    expect(client.first?.cacheHitTokens).toBe(256);
    expect(prefill.runner.rows - before).toBe(299 - 256);
  });
});

describe("a worker's account of itself", () => {
  test("counts tokens and bytes since its start", async () => {
    await startDecode();
    await startPrefill();
    const totals = new Map<string, WorkerState["totals"]>();
    broker.connect(clock).subscribe("pelagic.test.state.*", ({ data }) => {
      const { body } = decodeMessage(WorkerState, data);
      totals.set(body.workerId, body.totals);
    });
    await new Client("a1").dispatch(prompt(300));
    await clock.advance(2000);
    const bytes = 299 * 3 * 16;
    const none = { preemptions: 0, receivedBytes: 0, sentBytes: 0 };
    expect(totals.get("decode-0")).toEqual({ ...none, prefilledTokens: 0, sampledTokens: 20, receivedBytes: bytes });
    expect(totals.get("prefill-0")).toEqual({ ...none, prefilledTokens: 299, sampledTokens: 0, sentBytes: bytes });
  });

  test("says how many tokens each expert got, when asked", async () => {
    const { core } = await startDecode();
    core.engine.expertTally.add(Uint32Array.of(1, 2, 3, 4, 5, 6));
    const asked = async (question: object) => {
      const control = core.subjects.control("decode-0");
      const reply = await broker.connect(clock).request(control, encodeMessage({ kind: "expert-counts", ...question }), 1000);
      return decodeMessage(ExpertCounts, reply);
    };
    const { body, tokens } = await asked({});
    expect(body).toMatchObject({ workerId: "decode-0", instanceId: core.instanceId, firstLayer: 1, moeLayers: 2, logicalExperts: 3 });
    expect([...tokens]).toEqual([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
    // A minute and what is open.
    for (let interval = 0; interval < 13; interval++) await clock.advance(loadIntervalMs);
    core.engine.expertTally.add(Uint32Array.of(0, 0, 0, 0, 0, 8));
    const late = await asked({ span: "late" });
    expect(late.body.span).toBe("late");
    expect([...late.tokens]).toEqual([1, 0, 1, 0, 2, 0, 2, 0, 3, 0, 11, 0]);
  });
});

describe("when something goes wrong", () => {
  /** The frames of a message, and where they begin in it. */
  const framesOf = (subject: string, data: Uint8Array) => {
    const frames: (FrameHeader & { at: number })[] = [];
    if (!subject.includes(".kv.")) return frames;
    for (let at = 0; at < data.length; ) {
      const header = readFrameHeader(data, at);
      frames.push({ ...header, at });
      at += frameHeaderBytes + header.payloadBytes;
    }
    return frames;
  };
  const frame = (subject: string, data: Uint8Array, sequence: number) => framesOf(subject, data).find((one) => one.sequence === sequence);
  const flip = (data: Uint8Array, at: number) => {
    data[at] = (data[at] as number) ^ 1;
  };

  const faults: [string, () => void][] = [
    [
      "a frame is lost each time",
      () => {
        broker.deliveries = (s, d) => (frame(s, d, 4) ? 0 : 1);
      },
    ],
    [
      "the last frame is lost",
      () => {
        broker.deliveries = (s, d) => (framesOf(s, d).some(({ last }) => last) ? 0 : 1);
      },
    ],
    [
      "a frame comes twice",
      () => {
        broker.deliveries = (s, d) => (frame(s, d, 4) ? 2 : 1);
      },
    ],
    [
      "a frame is damaged",
      () => {
        broker.tamper = (s, d) => {
          const struck = frame(s, d, 5);
          if (struck) flip(d, struck.at + 100);
          return d;
        };
      },
    ],
    [
      "all frames are lost",
      () => {
        broker.deliveries = (s) => (s.includes(".kv.") ? 0 : 1);
      },
    ],
    [
      "credits are lost",
      () => {
        broker.deliveries = (s) => (s.includes(".credit.") ? 0 : 1);
      },
    ],
    [
      "the prefill request is lost",
      () => {
        broker.deliveries = (s) => (s.includes(".rows.") ? 0 : 1);
      },
    ],
    [
      "prefill is silent after it accepted",
      () => {
        broker.deliveries = (s) => (s.includes(".kv.") || s.includes(".notices.") ? 0 : 1);
      },
    ],
  ];
  test.each(faults)("%s, decode computes the rest itself and the answer is the same", async (_, strike) => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    strike();
    const client = new Client("a1");
    await client.dispatch(prompt(700));
    await clock.advance(25_000);
    expect(client.tokens).toEqual(await expected(prompt(700)));
    expect(client.end?.kind).toBe("finish");
    expect(decode.core.engine.blocks.owners()).toEqual([]);
    expect(decode.worker.receivingBytes).toBe(0);
    expect(prefill.core.engine.blocks.owners()).toEqual([]);
    expect(prefill.worker.activeTransfers).toBe(0);
    decode.core.engine.blocks.check();
  });

  test.each([
    ["lost", 0],
    ["damaged", 1],
    ["doubled", 2],
    ["late", 3],
  ])("a frame that is %s once is sent again, and decode computes no row that prefill computed", async (_, how) => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    let struck = 0;
    broker.deliveries = (s, d) => {
      if (!frame(s, d, 4) || struck++ > 0 || how === 1) return 1;
      if (how === 3) clock.setTimer(50, () => broker.send(s, d));
      return how === 2 ? 2 : 0;
    };
    broker.tamper = (s, d) => {
      const hit = how === 1 ? frame(s, d, 4) : undefined;
      if (hit && struck++ === 0) flip(d, hit.at + 100);
      return d;
    };
    const before = decode.runner.rows;
    const client = new Client("a1");
    await client.dispatch(prompt(700));
    await clock.advance(2_000);
    expect(client.tokens).toEqual(await expected(prompt(700)));
    expect(decode.runner.rows - before).toBe(20);
    expect(decode.worker.receivingBytes).toBe(0);
    expect(prefill.worker.activeTransfers).toBe(0);
  });

  test("an outage shorter than the lease ends nothing, a longer one frees everything", async () => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    const client = new Client("a1");
    decode.runner.beforeStep = () => new Promise((resolve) => clock.setTimer(1_000, resolve));
    prefill.runner.beforeStep = () => new Promise((resolve) => clock.setTimer(1_000, resolve));
    await client.dispatch(prompt(300), { maxTokens: 1_000, leaseMs: 3_000 });
    await clock.advance(1_000);
    broker.connected = false;
    await clock.advance(2_800);
    expect(decode.worker.liveAttempts).toBe(1);
    expect(prefill.worker.activeTransfers).toBe(1);
    broker.restart();
    await clock.advance(2_800);
    expect(decode.worker.liveAttempts).toBe(1);
    broker.connected = false;
    await clock.advance(7_500);
    expect(decode.worker.liveAttempts).toBe(0);
    expect(decode.core.engine.blocks.owners()).toEqual([]);
    expect(prefill.core.engine.blocks.owners()).toEqual([]);
  });

  test("no prefill worker is there: decode prefills", async () => {
    await startDecode();
    const client = new Client("a1");
    await client.dispatch(prompt(300));
    await clock.advance(1000);
    expect(client.tokens).toEqual(await expected(prompt(300)));
    expect(client.first?.prefilledBy).toBeUndefined();
  });

  test("the gateway falls silent: decode cancels when the lease is over, and everything is free", async () => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    const client = new Client("a1");
    decode.runner.beforeStep = () => new Promise((resolve) => clock.setTimer(1000, resolve));
    await client.dispatch(prompt(300), { maxTokens: 1000, leaseMs: 3000 });
    await clock.advance(6000);
    expect(decode.worker.liveAttempts).toBe(0);
    expect(decode.core.engine.blocks.owners()).toEqual([]);
    expect(prefill.core.engine.blocks.owners()).toEqual([]);
  });

  test("a cancel in the middle of a step frees everything after the step, and is answered", async () => {
    const decode = await startDecode();
    await startPrefill();
    const client = new Client("a1");
    decode.runner.beforeStep = () => new Promise((resolve) => clock.setTimer(100, resolve));
    await client.dispatch(prompt(300), { maxTokens: 1000 });
    await clock.advance(1050);
    const answer = broker.connect(clock).request("pelagic.test.control.decode-0", encodeMessage({ kind: "cancel", attemptId: "a1" }), 1000);
    await clock.advance(200);
    expect(decodeMessage((await import("../contracts/messages.ts")).ControlReply, await answer).body.ok).toBe(true);
    expect(decode.core.engine.blocks.owners()).toEqual([]);
    expect(decode.worker.liveAttempts).toBe(0);
  });

  test("a dispatch or a request for rows that comes again after its end begins nothing, a damaged one is not answered", async () => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    const seen: [string, Uint8Array][] = [];
    broker.tamper = (s, d) => {
      if (s.includes(".dispatch.") || s.includes(".rows.")) seen.push([s, d.slice()]);
      return d;
    };
    const client = new Client("a1");
    await client.dispatch(prompt(300));
    await clock.advance(1_000);
    client.control({ kind: "ack", attemptIds: ["a1"] });
    await clock.advance(100);
    broker.tamper = (_, d) => d;
    expect(seen.map(([s]) => s)).toEqual(["pelagic.test.dispatch.decode-0", "pelagic.test.rows.prefill-0"]);
    const rows = decode.runner.rows + prefill.runner.rows;
    for (const [s, d] of seen) broker.send(s, d);
    await clock.advance(1_000);
    expect(decode.worker.liveAttempts + prefill.worker.activeTransfers).toBe(0);
    expect(decode.runner.rows + prefill.runner.rows).toBe(rows);
    // Cancelled before it came.
    client.control({ kind: "cancel", attemptId: "a2" });
    await settle();
    expect(await new Client("a2").dispatch(prompt(10))).toMatchObject({ kind: "error", error: { code: "cancelled" } });
    broker.tamper = (s, d) => {
      if (s.includes(".dispatch.")) d[20] = (d[20] as number) ^ 1;
      return d;
    };
    const damaged = new Client("a3").dispatch(prompt(10)).catch((error: unknown) => error);
    await clock.advance(1_500);
    expect(await damaged).toMatchObject({ code: "timeout" });
  });

  test("deltas are lost: a resend from any position gives them again", async () => {
    await startDecode();
    broker.deliveries = (s) => (s.includes(".deltas.") ? 0 : 1);
    const client = new Client("a1");
    await client.dispatch(prompt(100));
    await clock.advance(1000);
    expect(client.tokens).toEqual([]);
    broker.deliveries = () => 1;
    client.control({ kind: "resend", attemptId: "a1", from: 0, replySubject: "pelagic.test.deltas.gw.a1" });
    await settle();
    expect(client.tokens).toEqual(await expected(prompt(100)));
    expect(client.end?.kind).toBe("finish");
    const late = new Client("a9");
    late.control({ kind: "resend", attemptId: "a9", from: 0, replySubject: "pelagic.test.deltas.gw.a9" });
    await settle();
    expect(late.end).toMatchObject({ kind: "error", error: { code: "worker_lost" } });
  });

  test("more requests than fit in the cache all end right, by waiting and preemption", async () => {
    const decode = await startDecode("decode-0", 16);
    await startPrefill();
    const clients = Array.from({ length: 12 }, (_, i) => new Client(`a${i}`));
    for (const [i, client] of clients.entries()) await client.dispatch(prompt(150 + i * 20, i), { maxTokens: 150 });
    await clock.advance(9000);
    for (const [i, client] of clients.entries()) expect(client.tokens).toEqual(await expected(prompt(150 + i * 20, i), 150));
    expect(decode.core.engine.stats().preemptions).toBeGreaterThan(0);
    expect(decode.core.engine.blocks.owners()).toEqual([]);
  });

  test("a request that can never fit, or one too many, is refused by name", async () => {
    await startDecode("decode-0", 4);
    const reply = await new Client("a1").dispatch(prompt(300));
    expect(reply).toMatchObject({ kind: "error", error: { code: "context_length_exceeded" } });
    const outside = await new Client("a2").dispatch(Uint32Array.of(1, 97));
    expect(outside).toMatchObject({ kind: "error", error: { code: "invalid_request" } });
  });

  test("prefill refuses a decode worker of other numerics, in words, and decode goes on alone", async () => {
    const decode = await startDecode();
    const prefill = await startPrefill();
    (prefill.core.identity as { numericsId: string }).numericsId = "0".repeat(64);
    // As where one computes on the CPU and the other on a GPU, or one with FP8 weights.
    const { modelDigest, numericsId, kvDtype } = decode.core.identity;
    const ask = (fields: object) =>
      encodeMessage(
        {
          requestId: "r1",
          transferId: "1".repeat(32),
          decodeWorkerId: "decode-0",
          modelDigest,
          numericsId,
          kvDtype,
          cacheSalt: "",
          firstRow: 0,
          endRow: 64,
          promptLength: 65,
          deadlineMs: 1000,
          grantedBytes: 1 << 20,
          ...fields,
        },
        prompt(64),
      );
    const bus = broker.connect(clock);
    const reply = async (fields: object) =>
      decodeMessage(RowsReply, await bus.request(prefill.core.subjects.rows("prefill-0"), ask(fields), 1000)).body;
    const words = `decode decode-0 has numerics ${numericsId.slice(0, 12)} (bfloat16), this worker 000000000000 (bfloat16): blocks move only between equals`;
    expect(await reply({})).toMatchObject({ kind: "error", error: { code: "numerics_mismatch", message: words } });
    expect(await reply({ transferId: "2".repeat(32), numericsId: "0".repeat(64) })).toMatchObject({ kind: "accepted" });
    const client = new Client("a1");
    await client.dispatch(prompt(300));
    await clock.advance(1000);
    expect(client.tokens).toEqual(await expected(prompt(300)));
    expect(client.first?.prefilledBy).toBeUndefined();
  });
});

test("one request whose logits are not numbers ends by name, and its neighbours go on", async () => {
  const decode = await startDecode();
  const run = decode.runner.run.bind(decode.runner);
  decode.runner.run = async (work, options) => {
    const results = await run(work, options);
    // The request with 101 prompt tokens overflows at once.
    work.forEach((sequence, i) => {
      const sampled = results[0]?.sequences[i]?.sampled;
      if (sequence.promptLength === 101 && sampled) sampled.token = -1;
    });
    return results;
  };
  const [good, bad] = [new Client("a1"), new Client("a2")];
  await good.dispatch(prompt(100));
  await bad.dispatch(prompt(101));
  await clock.advance(1000);
  expect(bad.end).toMatchObject({ kind: "error", error: { code: "internal" } });
  expect(bad.tokens).toEqual([]);
  expect(good.tokens).toEqual(await expected(prompt(100)));
  expect(decode.core.engine.blocks.owners()).toEqual([]);
});

test("sampling that float32 cannot hold, or a bias outside the vocabulary, is refused before it shares a batch", async () => {
  await startDecode();
  for (const field of [{ topP: 1e-50 }, { repetitionPenalty: 1e-50 }, { logitBias: [[97, 1]] }]) {
    const reply = await new Client("a1").dispatch(prompt(10), { sampling: { temperature: 1, seed: "1", choice: 0, ...field } });
    expect(reply.kind).toBe("error");
  }
});

test("a worker that differs from the numerics id its model folder carries is not ready, and says so", async () => {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-model-"));
  writeFileSync(join(dir, "config.json"), "{}");
  writeFileSync(join(dir, "numerics.json"), JSON.stringify({ bfloat16: "0".repeat(64) }));
  const options = { service: "test", workerId: "decode-0", role: "decode" as const, modelDir: dir, kvDtype: "bfloat16" as const };
  const core = await WorkerCore.start({ ...options, engine: engineConfig }, new CacheRunner(64), broker.connect(clock), clock, silentLog);
  core.ready();
  expect(core.readiness.ready).toBe(false);
  expect(core.readiness.reason).toContain("numerics id");
  writeFileSync(join(dir, "numerics.json"), JSON.stringify({ bfloat16: core.identity.numericsId }));
  const equal = await WorkerCore.start({ ...options, engine: engineConfig }, new CacheRunner(64), broker.connect(clock), clock, silentLog);
  equal.ready();
  // Not before the server has its word: an old worker may be ended as soon as this one says that it is ready.
  expect(equal.readiness).toEqual({ ready: false, reason: "telling the gateways" });
  await settle();
  expect(equal.readiness.ready).toBe(true);
});

test("a request that moves takes its whole blocks from the draining peer, and prefill is not asked", async () => {
  const old = await startDecode("decode-1");
  const server = new RowServer(old.core, broker.connect(clock), broker.connect(clock), { servesWhileDraining: true });
  const fresh = await startDecode();
  const prefill = await startPrefill();
  const whole = await expected(prompt(200), 150);
  const known = Uint32Array.from([...prompt(200), ...whole.slice(0, 100)]);
  // The old worker has served it until here: 300 tokens, 4 whole blocks.
  await new Promise<EngineEnd>((onEnd) =>
    old.core.engine.submit({
      id: "before",
      tokens: known,
      promptLength: 200,
      cacheSalt: "tenant",
      mode: "local",
      maxTokens: 101,
      stopTokenIds: new Set(),
      sampling: { temperature: 0, seed: 1n, choice: 0 },
      listener: { onEnd },
    }),
  );
  old.core.drain();
  const before = { old: old.runner.rows, fresh: fresh.runner.rows, prefill: prefill.runner.rows };
  const client = new Client("a1");
  await client.dispatch(known, { promptLength: 200, maxTokens: 150, heldBy: "decode-1" });
  await clock.advance(1_000);
  expect(client.tokens.slice(100)).toEqual(whole.slice(100));
  expect(old.runner.rows).toBe(before.old);
  expect(prefill.runner.rows).toBe(before.prefill);
  // Rows 256 to 299 are replayed, then one for each further token.
  expect(fresh.runner.rows - before.fresh).toBe(300 - 256 + 49);
  expect(server.activeTransfers).toBe(0);
  expect(old.core.engine.blocks.owners()).toEqual([]);
});

test("a draining worker takes nothing new, and stands by what it took", async () => {
  const { core } = await startDecode();
  const client = new Client("a1");
  await client.dispatch(prompt(100));
  core.drain();
  // The answer to the first dispatch was lost on its way: the same attempt comes again.
  expect(await client.dispatch(prompt(100))).toMatchObject({ kind: "accepted" });
  expect(await new Client("a2").dispatch(prompt(100))).toMatchObject({ kind: "busy", reason: "draining" });
  await clock.advance(1_000);
  expect(client.tokens).toEqual(await expected(prompt(100)));
});

test("a worker that was told to drain while it started stays draining", async () => {
  const { core } = await startWorker("decode", "decode-0");
  core.drain();
  core.ready();
  expect(core.readiness.ready).toBe(false);
  expect(core.draining).toBe(true);
});

test("a drained worker stays a little for whoever takes over its last request", async () => {
  const { worker } = await startDecode();
  const client = new Client("a1");
  await client.dispatch(prompt(100), { maxTokens: 1_000 });
  expect(worker.drained).toBe(false);
  client.control({ kind: "cancel", attemptId: "a1" });
  await clock.advance(300);
  expect(worker.liveAttempts).toBe(0);
  expect(worker.drained).toBe(false);
  await clock.advance(300);
  expect(worker.drained).toBe(true);
});

test("a request that moves before its rows were there makes the draining peer compute nothing", async () => {
  const old = await startDecode("decode-1");
  new RowServer(old.core, broker.connect(clock), broker.connect(clock), { servesWhileDraining: true });
  await startDecode();
  const prefill = await startPrefill();
  old.core.drain();
  const before = { old: old.runner.rows, prefill: prefill.runner.rows };
  const client = new Client("a1");
  await client.dispatch(prompt(300), { heldBy: "decode-1" });
  await clock.advance(1_000);
  expect(client.tokens).toEqual(await expected(prompt(300)));
  expect(old.runner.rows).toBe(before.old);
  expect(prefill.runner.rows - before.prefill).toBe(299);
});

test("a resumed request replays its tokens as rows and goes on with the same ones", async () => {
  await startDecode();
  await startPrefill();
  const whole = await expected(prompt(200), 40);
  const client = new Client("a1");
  await client.dispatch(Uint32Array.from([...prompt(200), ...whole.slice(0, 25)]), { promptLength: 200, maxTokens: 40 });
  await clock.advance(1000);
  expect(client.tokens.slice(25)).toEqual(whole.slice(25));
  expect(client.first?.from).toBe(25);
});
