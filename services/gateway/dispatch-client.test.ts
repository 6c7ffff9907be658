import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ManualClock, MemoryBus } from "../../tests/gateway/memory-bus.ts";
import { type Script, ScriptedDecode, scriptedScores } from "../../tests/gateway/scripted-decode.ts";
import { silentLog } from "../lib/contracts/bus.ts";
import { PelagicError } from "../lib/contracts/errors.ts";
import { Control } from "../lib/contracts/messages.ts";
import { subjects } from "../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import { DispatchClient } from "./dispatch-client.ts";
import type { Generation, GenerationRequest, TokenBatch } from "./generation.ts";
import { WorkerDirectory } from "./worker-directory.ts";

const leaseMs = 10_000;

function setup(scripts: Record<string, Script | ((attempt: number) => Script)>) {
  const clock = new ManualClock();
  const bus = new MemoryBus(clock);
  const client = new DispatchClient({
    bus,
    clock,
    subjects: subjects("test"),
    gatewayId: "gateway-0",
    leaseMs,
    resumeWaitMs: 30_000,
    log: silentLog,
  });
  const directory = new WorkerDirectory({
    bus,
    clock,
    subjects: subjects("test"),
    log: silentLog,
    onGone: (instance) => client.workerGone(instance),
    onDraining: (instance) => client.workerDraining(instance),
  });
  const workers = Object.fromEntries(
    Object.entries(scripts).map(([workerId, script]) => {
      let attempts = 0;
      const decode = new ScriptedDecode({
        bus,
        clock,
        workerId,
        script: () => (typeof script === "function" ? script(attempts++) : script),
      });
      return [workerId, decode];
    }),
  );
  const start = (more: Partial<GenerationRequest> = {}, reads = true) => {
    const generation = client.start(
      {
        requestId: "r",
        prompt: Uint32Array.from([1, 2, 3]),
        maxTokens: 100,
        stopTokenIds: [],
        sampling: { temperature: 0, seed: "1", choice: 0 },
        cacheSalt: "",
        deadlineMs: 60_000,
        ...more,
      },
      {
        choose: (_, excluded) => {
          const worker = Object.values(workers).find((one) => one.state.state !== "draining" && !excluded.has(one.instanceId));
          return worker === undefined ? null : { workerId: worker.workerId, instanceId: worker.instanceId, prefillWorkerId: null };
        },
        shouldMove: (workerId) => Object.values(workers).some((one) => one.workerId !== workerId && one.state.state !== "draining"),
      },
    );
    return { generation, reader: reads ? read(generation) : { tokens: [], ends: 0, error: null } };
  };
  const worker = (id: string) => workers[id] as ScriptedDecode;
  return { clock, bus, client, directory, worker, start };
}

/** Everything that a reader gets. */
function read(generation: Generation) {
  const reader = { tokens: [] as number[], ends: 0, error: null as PelagicError | null };
  void (async () => {
    try {
      for await (const batch of generation) reader.tokens.push(...batch.tokens);
    } catch (error) {
      reader.error = error as PelagicError;
    }
    reader.ends++;
  })();
  return reader;
}
/** What an iterator gives when it is asked, and how many tokens that are. */
async function take(batches: AsyncIterator<TokenBatch>, clock: ManualClock) {
  let taken: IteratorResult<TokenBatch> | undefined;
  void batches.next().then((result) => {
    taken = result;
  });
  await clock.runUntil(() => taken !== undefined, 60_000);
  return taken as unknown as IteratorResult<TokenBatch>;
}
const range = (count: number) => Array.from({ length: count }, (_, i) => i);

describe("dispatch client", () => {
  it("gives every token once and in order, and says once when it has all", async () => {
    const { clock, bus, client, worker, start } = setup({ d0: { tokens: range(80), gapMs: 5, cacheHitTokens: 2 } });
    const before = bus.subscriptionCount;
    const { generation, reader } = start();
    await clock.runUntil(() => reader.ends > 0, 10_000);
    expect(reader).toEqual({ tokens: range(80), ends: 1, error: null });
    expect(generation.end).toMatchObject({ reason: "stop" });
    expect(generation.cacheHitTokens).toBe(2);
    await clock.advance(1_000);
    expect(worker("d0").acks).toHaveLength(1);
    expect(worker("d0").attempts.size).toBe(0);
    expect(client.running).toBe(0);
    expect(bus.subscriptionCount).toBe(before);
  });

  it("keeps no more than some batches for a reader that does not read, and gives it everything when it does", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(undefined, 0, 20),
        fc.integer({ min: 5, max: 400 }),
        fc.boolean(),
        async (logprobs, tokensPerDelta, dies) => {
          const tokens = range(8_000);
          const script = { tokens, tokensPerDelta, gapMs: 1 };
          const { clock, client, worker, start } = setup({ d0: dies ? { ...script, hangAfter: 6_000 } : script, d1: script });
          const sampling = { temperature: 0, seed: "1", choice: 0, ...(logprobs === undefined ? {} : { logprobs }) };
          const { generation } = start({ maxTokens: tokens.length, sampling, deadlineMs: 600_000 }, false);
          const most = logprobs === undefined ? 1_024 : 1_024 / (2 + logprobs);
          const batches = generation[Symbol.asyncIterator]();
          const got: number[] = [];
          for (let round = 0; ; round++) {
            // It stalls, for longer than decode takes for the whole answer, at the start and a few times more.
            if (round % 40 === 0) await clock.advance(2_000);
            if (dies && round === 5) {
              worker("d0").kill();
              client.workerGone({ workerId: "d0", instanceId: worker("d0").instanceId });
            }
            expect(generation.received - got.length).toBeLessThanOrEqual(4 * most);
            const { done, value } = await take(batches, clock);
            if (done) break;
            expect(value.tokens.length).toBeLessThanOrEqual(most);
            if (logprobs !== undefined) expect(value.logprobs.length).toBe(value.tokens.length);
            got.push(...value.tokens);
          }
          expect(got).toEqual(tokens);
          expect(client.running).toBe(0);
        },
      ),
      { numRuns: 8 },
    );
  });

  it("does so over a bus that loses, doubles and reorders anything", async () => {
    const fate = fc.array(fc.constantFrom<number[]>([0], [0], [0], [3], [40], [0, 7], []), { minLength: 20, maxLength: 60 });
    const anyTop = fc.constantFrom(undefined, undefined, 0, 2);
    await fc.assert(
      fc.asyncProperty(
        fate,
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 40 }),
        anyTop,
        async (fates, tokensPerDelta, count, top) => {
          const { clock, bus, client, worker, start } = setup({ d0: { tokens: range(count), gapMs: 2, tokensPerDelta } });
          await clock.advance(10);
          let messages = 0;
          let dispatchesLost = 0;
          // The faults end, so that the request can; a dispatch is given up after three tries; heartbeats are not what is tested here.
          bus.fate = (subject) => {
            const chosen = subject.includes(".state") ? [0] : (fates[messages++] ?? [0]);
            const ofDispatch = subject.includes(".dispatch.") || subject === "_INBOX";
            return chosen.length === 0 && ofDispatch && ++dispatchesLost > 2 ? [0] : chosen;
          };
          const { generation, reader } = start({ prompt: Uint32Array.from(range(8)), ...(top !== undefined && { promptTop: top }) });
          await clock.runUntil(() => reader.ends > 0, 40_000);
          expect(reader).toEqual({ tokens: range(count), ends: 1, error: null });
          expect(generation.promptScores).toEqual(top === undefined ? null : scriptedScores(8, top));
          expect(worker("d0").dispatches).toHaveLength(1);
          await clock.advance(5_000);
          expect(reader.ends).toBe(1);
          expect(client.running).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("begins again where a worker dies before the prompt's scores are here, and shows no token before", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: range(3) }, d1: { tokens: range(3) } });
    await clock.advance(10);
    const { generation, reader } = start({ prompt: Uint32Array.from(range(40)), promptTop: 1, maxTokens: 3 });
    await clock.runUntil(() => generation.received > 0 || reader.ends > 0, 5_000);
    const [first, other] = worker("d0").dispatches.length > 0 ? [worker("d0"), worker("d1")] : [worker("d1"), worker("d0")];
    expect(reader.tokens).toEqual([]);
    first.kill();
    await clock.runUntil(() => reader.ends > 0, 40_000);
    expect(reader).toEqual({ tokens: range(3), ends: 1, error: null });
    expect(generation.promptScores).toEqual(scriptedScores(40, 1));
    expect(other.dispatches.map(({ body, tokens }) => [body.promptTop, tokens.length])).toEqual([[1, 40]]);
  });

  it("goes elsewhere when a worker is busy, and says overloaded when all are", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: [1] }, d1: { tokens: [2] } });
    worker("d0").busy = true;
    const first = start();
    await clock.runUntil(() => first.reader.ends > 0, 1_000);
    expect(first.reader.tokens).toEqual([2]);
    worker("d1").busy = true;
    const second = start();
    await clock.runUntil(() => second.reader.ends > 0, 1_000);
    expect(second.reader.error).toMatchObject({ code: "overloaded", retryAfterMs: 2_000 });
  });

  it("moves a request whose worker died before its first token", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: [1], gapMs: 5_000 }, d1: { tokens: [2] } });
    const { reader } = start();
    await clock.advance(100);
    worker("d0").kill();
    await clock.runUntil(() => reader.ends > 0, 4_000);
    expect(reader).toMatchObject({ tokens: [2], error: null });
  });

  it.each(["dies", "restarts", "forgets it", "stops"])(
    "goes on elsewhere, without a token lost or doubled, when its worker %s in mid-answer",
    async (how) => {
      const answer = { tokens: range(50), gapMs: 100 };
      const { clock, worker, client, start } = setup({ d0: answer, d1: answer });
      const { reader, generation } = start();
      await clock.advance(550);
      const before = [...reader.tokens];
      expect(before.length).toBeGreaterThan(0);
      if (how === "dies") worker("d0").kill();
      if (how === "restarts") worker("d0").instanceId = "d0-2";
      if (how !== "dies") for (const attempt of worker("d0").attempts.values()) attempt.stopTimer();
      if (how === "stops") worker("d0").state = { state: "stopped" };
      if (how !== "dies") worker("d0").attempts.clear();
      await clock.runUntil(() => reader.ends > 0, 15_000);
      expect(reader).toEqual({ tokens: range(50), ends: 1, error: null });
      expect(generation.resumes).toBe(1);
      const resumed = worker("d1").dispatches[0] ?? worker("d0").dispatches[1];
      expect(resumed?.body).toMatchObject({ promptLength: 3, maxTokens: 100 });
      expect([...(resumed?.tokens ?? [])].slice(3)).toEqual(range(before.length));
      expect(client.running).toBe(0);
    },
  );

  it("knows within moments that a worker is gone from the bus, and asks nothing of the kind soon after an outage", async () => {
    const answer = { tokens: range(50), gapMs: 100 };
    const { clock, bus, worker, start } = setup({ d0: answer, d1: answer });
    const { reader } = start();
    await clock.advance(550);
    worker("d0").kill();
    await clock.runUntil(() => worker("d1").dispatches.length > 0, 600);
    expect(worker("d1").dispatches).toHaveLength(1);
    // Workers come back one by one: that nobody listens says nothing yet.
    bus.disconnect();
    await clock.advance(1_000);
    bus.reconnect();
    worker("d1").kill();
    await clock.advance(1_500);
    expect(reader.ends).toBe(0);
    expect(worker("d1").dispatches).toHaveLength(1);
  });

  it("says which process it means: another one refuses, and is asked anew in its own name", async () => {
    const { clock, bus, worker, start } = setup({ d0: { tokens: range(5) } });
    // Its states are lost: only its own answer says who it is.
    bus.fate = (subject) => (subject.includes(".state.") ? [] : [10]);
    const { reader } = start();
    // Restarted under the same id before the dispatch arrives: perhaps with another model.
    worker("d0").instanceId = "d0-2";
    await clock.runUntil(() => reader.ends > 0, 10_000);
    expect(reader).toEqual({ tokens: range(5), ends: 1, error: null });
    const taken = worker("d0").dispatches.map(({ body }) => body);
    expect(taken.map(({ instanceId }) => instanceId)).toEqual(["d0-2"]);
    // In case it was the answer that went wrong.
    expect(worker("d0").cancelled).toHaveLength(1);
    expect(worker("d0").cancelled).not.toContain(taken[0]?.attemptId);
  });

  it("tells a worker that comes back after an outage later than we do what to cancel", async () => {
    const { clock, bus, worker, client, start } = setup({ d0: { tokens: range(50), gapMs: 100 } });
    const { generation } = start();
    await clock.advance(550);
    bus.disconnect();
    worker("d0").kill();
    bus.reconnect();
    generation.cancel();
    await clock.advance(500);
    const cancelled: string[] = [];
    bus.subscribe(subjects("test").control("d0"), ({ data, respond }) => {
      const { body } = decodeMessage(Control, data);
      if (body.kind !== "cancel") return;
      cancelled.push(body.attemptId);
      respond?.(encodeMessage({ ok: true }));
    });
    await clock.advance(1_500);
    expect(cancelled).toHaveLength(1);
    expect(client.cancellationsPending).toBe(0);
  });

  it("waits for a worker to come back when its only one died, and says which was lost when none does", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: range(50), gapMs: 100 } });
    const first = start();
    await clock.advance(550);
    worker("d0").kill();
    await clock.advance(8_000);
    expect(first.reader.ends).toBe(0);
    await clock.runUntil(() => first.reader.ends > 0, 40_000);
    expect(first.reader.error).toMatchObject({ code: "worker_lost" });
  });

  it("gives a request up with which one worker after another dies, and no other", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: [1], gapMs: 60_000 } });
    const { reader } = start({ deadlineMs: 600_000 });
    for (let life = 2; reader.ends === 0 && life < 100; life++) {
      await clock.advance(1_000);
      worker("d0").instanceId = `d0-${life}`;
      worker("d0").attempts.clear();
      worker("d0").sayState();
    }
    expect(reader.error).toMatchObject({ code: "worker_lost" });
    expect(worker("d0").dispatches).toHaveLength(9);

    const stopping = setup({
      d0: (attempt) => ({ tokens: [7], ...(attempt < 19 ? { error: new PelagicError("shutting_down", "stopping") } : {}) }),
    });
    const patient = stopping.start();
    await stopping.clock.runUntil(() => patient.reader.ends > 0, 30_000);
    expect(patient.reader).toMatchObject({ tokens: [7], error: null });
  });

  it("moves off a draining worker once that has stopped, and names it to the next one", async () => {
    const answer = { tokens: range(50), gapMs: 100 };
    const { clock, worker, client, start } = setup({ d0: answer, d1: answer });
    const { reader } = start();
    await clock.advance(550);
    worker("d0").state = { state: "draining" };
    worker("d0").sayState();
    await clock.advance(50);
    expect(worker("d0").attempts.size).toBe(0);
    expect(worker("d1").dispatches[0]?.body.heldBy).toBe("d0");
    await clock.runUntil(() => reader.ends > 0, 10_000);
    expect(reader).toEqual({ tokens: range(50), ends: 1, error: null });
    expect(client.running).toBe(0);
  });

  it("stays on a draining worker while there is no other, and moves when one comes", async () => {
    const answer = { tokens: range(50), gapMs: 100 };
    const { clock, worker, start } = setup({ d0: answer, d1: answer });
    worker("d1").state = { state: "draining" };
    const { reader } = start();
    await clock.advance(550);
    worker("d0").state = { state: "draining" };
    await clock.advance(2_000);
    expect(worker("d0").attempts.size).toBe(1);
    worker("d1").state = {};
    await clock.advance(1_000);
    expect(worker("d0").attempts.size).toBe(0);
    await clock.runUntil(() => reader.ends > 0, 10_000);
    expect(reader).toEqual({ tokens: range(50), ends: 1, error: null });
  });

  it("cancels at decode at once when the reader leaves, and tries again a bounded number of times", async () => {
    const { clock, bus, client, worker, start } = setup({ d0: { tokens: range(50), gapMs: 100 } });
    const { generation, reader } = start();
    await clock.advance(250);
    generation.cancel();
    await clock.advance(10);
    expect(reader.error).toMatchObject({ code: "cancelled" });
    expect(worker("d0").cancelled).toHaveLength(1);
    expect(client.cancellationsPending).toBe(0);

    const second = start();
    await clock.advance(250);
    bus.fate = (subject) => (subject.includes(".control.") ? [] : [0]);
    second.generation.cancel();
    await clock.advance(10);
    expect(second.reader.ends).toBe(1);
    expect(client.cancellationsPending).toBe(1);
    await clock.advance(7_000);
    expect(client.cancellationsPending).toBe(0);
  });

  it("cancels a request that is still being dispatched", async () => {
    const { clock, bus, worker, start } = setup({ d0: { tokens: range(50), gapMs: 100 } });
    await clock.advance(10);
    bus.fate = (subject) => (subject === "_INBOX" ? [500] : [0]);
    const { generation, reader } = start();
    await clock.advance(100);
    generation.cancel();
    await clock.advance(3_000);
    expect(reader.ends).toBe(1);
    expect(worker("d0").attempts.size).toBe(0);
  });

  it("renews the lease of what runs, and of nothing else", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: range(50), gapMs: 500 } });
    const { generation, reader } = start();
    await clock.advance(12_000);
    expect(worker("d0").leases.length).toBeGreaterThanOrEqual(3);
    expect(worker("d0").leases.at(-1)).toEqual([generation.attemptId]);
    await clock.runUntil(() => reader.ends > 0, 60_000);
    // One may still be on its way.
    await clock.advance(10);
    const leases = worker("d0").leases.length;
    await clock.advance(20_000);
    expect(worker("d0").leases).toHaveLength(leases);
  });

  it("survives an outage shorter than the lease, at any moment", async () => {
    for (const atMs of [0, 1, 40, 120, 900]) {
      const { clock, bus, start } = setup({ d0: { tokens: range(60), gapMs: 20 } });
      await clock.advance(10);
      const { reader } = start();
      await clock.advance(atMs);
      bus.disconnect();
      await clock.advance(leaseMs - 2_000);
      bus.reconnect();
      await clock.runUntil(() => reader.ends > 0, 10_000);
      expect(reader).toEqual({ tokens: range(60), ends: 1, error: null });
    }
  });

  it("ends within the lease when the bus stays away", async () => {
    const { clock, bus, start } = setup({ d0: { tokens: range(60), gapMs: 20 } });
    const { reader } = start();
    await clock.advance(100);
    bus.disconnect();
    await clock.runUntil(() => reader.ends > 0, leaseMs + 200);
    expect(reader.error).toMatchObject({ code: "bus_unavailable" });
  });

  it("ends at its deadline, and cancels", async () => {
    const { clock, worker, start } = setup({ d0: { tokens: range(60), gapMs: 20, hangAfter: 3 } });
    const { reader } = start({ deadlineMs: 5_000 });
    await clock.runUntil(() => reader.ends > 0, 5_100);
    expect(reader.error).toMatchObject({ code: "deadline_exceeded" });
    expect(reader.tokens).toEqual(range(3));
    await clock.advance(100);
    expect(worker("d0").cancelled).toHaveLength(1);
  });

  it("passes on decode's own error, and names the lack of workers", async () => {
    const broken = setup({ d0: { tokens: [], error: new PelagicError("numerics_mismatch", "no") } });
    const first = broken.start();
    await broken.clock.runUntil(() => first.reader.ends > 0, 1_000);
    expect(first.reader.error).toMatchObject({ code: "numerics_mismatch" });
    const empty = setup({});
    const second = empty.start();
    await empty.clock.runUntil(() => second.reader.ends > 0, 1_000);
    expect(second.reader.error).toMatchObject({ code: "no_workers" });
  });
});
