import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bus, BusError, silentLog } from "../contracts/bus.ts";
import { decodeDeltas, type OutputPart } from "../contracts/deltas.ts";
import { DeltaSender, type DeltaSource } from "./delta-sender.ts";

/** Grows by `grow`, ends with `end`. A token weighs what a logprob does. */
class Source implements DeltaSource {
  readonly output: number[] = [];
  sent = 0;
  ended = false;
  readonly replySubject: string;
  readonly attemptId: string;

  constructor(replySubject: string, attemptId: string) {
    this.replySubject = replySubject;
    this.attemptId = attemptId;
  }

  part(from: number, until: number): OutputPart {
    const tokens = this.output.slice(from, until);
    const end = this.ended && until >= this.output.length ? { end: { kind: "finish", reason: "stop" } as const } : {};
    const logprobs = tokens.map((token) => ({ logprob: token, top: [] }));
    return { delta: { attemptId: this.attemptId, from, logprobs, ...end }, tokens: Uint32Array.from(tokens) };
  }
}

function setup(maxPayloadBytes = 1024 * 1024) {
  const messages: { subject: string; data: Uint8Array }[] = [];
  const state = { connected: true };
  const bus = {
    maxPayloadBytes,
    publish(subject: string, data: Uint8Array) {
      if (!state.connected) throw new BusError("disconnected", "away");
      messages.push({ subject, data });
    },
  } as unknown as Bus;
  return { messages, state, sender: new DeltaSender(bus, silentLog) };
}

const moment = () => new Promise<void>((resolve) => setImmediate(resolve));

describe("what a step samples", () => {
  test("leaves in one message for each gateway", async () => {
    const { messages, sender } = setup();
    const sources = ["a", "b", "c"].map((id, i) => new Source(i === 2 ? "other" : "one", id));
    for (const source of sources) {
      source.output.push(1, 2);
      sender.mark(source);
      sender.mark(source);
    }
    await moment();
    expect(messages.map(({ subject, data }) => [subject, decodeDeltas(data).map(({ delta }) => delta.attemptId)])).toEqual([
      ["one", ["a", "b"]],
      ["other", ["c"]],
    ]);
  });

  test("leaves whole, in messages that the server takes, each token once and an end with the last", async () => {
    const growth = fc.array(fc.array(fc.nat({ max: 40 }), { minLength: 4, maxLength: 4 }), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(growth, fc.integer({ min: 200, max: 5_000 }), fc.integer({ min: -1, max: 8 }), async (steps, limit, away) => {
        const { messages, state, sender } = setup(limit);
        const sources = ["a", "b", "c", "d"].map((id) => new Source("one", id));
        for (const [step, counts] of steps.entries()) {
          // What is not sent while disconnected leaves with what comes next.
          state.connected = step !== away;
          for (const [i, source] of sources.entries()) {
            for (let n = counts[i] as number; n > 0; n--) source.output.push(source.output.length);
            source.ended = step === steps.length - 1;
            if (counts[i] !== 0 || source.ended) sender.mark(source);
          }
          await moment();
        }
        state.connected = true;
        for (const source of sources) if (source.sent < source.output.length || away === steps.length - 1) sender.mark(source);
        await moment();
        const got = new Map<string, { tokens: number[]; ended: boolean }>();
        for (const { data } of messages) {
          expect(data.length).toBeLessThanOrEqual(limit);
          for (const { delta, tokens } of decodeDeltas(data)) {
            const one = got.get(delta.attemptId) ?? { tokens: [], ended: false };
            got.set(delta.attemptId, one);
            expect(delta.from).toBe(one.tokens.length);
            one.tokens.push(...tokens);
            expect(one.ended).toBe(false);
            one.ended = delta.end !== undefined;
          }
        }
        for (const { attemptId, output } of sources) expect(got.get(attemptId)).toEqual({ tokens: output, ended: true });
      }),
    );
  });

  test("is sent again from any position, and so many at most", () => {
    const { messages, sender } = setup();
    const source = new Source("one", "a");
    source.output.push(0, 1, 2, 3);
    source.ended = true;
    const sent = (from: number, most?: number) => {
      messages.length = 0;
      sender.send(source, from, most);
      return messages
        .flatMap(({ data }) => decodeDeltas(data))
        .map(({ delta, tokens }) => [delta.from, [...tokens], delta.end !== undefined]);
    };
    expect(sent(0, 2)).toEqual([[0, [0, 1], false]]);
    expect(sent(1)).toEqual([[1, [1, 2, 3], true]]);
    expect(sent(9)).toEqual([[9, [], true]]);
  });
});
