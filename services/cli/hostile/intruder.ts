// Lies into what runs: KV frames into transfers, with whole checksums and the transfer's own id, and with neither; notices; deltas of answers. Each
// receiver asks again, or finds its rows elsewhere: every answer is the same as before.
import { type Bus, silentLog } from "../../lib/contracts/bus.ts";
import { frameHeaderBytes, frameTransferId, kvDtypes, sealFrame, writeFrameHeader } from "../../lib/contracts/frame.ts";
import { Dispatch, RowsRequest } from "../../lib/contracts/messages.ts";
import { subjects as subjectsOf } from "../../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../../lib/contracts/wire.ts";
import { nativeModule } from "../../lib/engine/native.ts";
import { connectBus } from "../../lib/runtime/nats-bus.ts";
import type { Random } from "../../lib/simulator/random.ts";
import type { Stack } from "../stack/stack.ts";
import type { Client } from "./client.ts";
import { hostileJson } from "./hostile-json.ts";

export interface IntruderReport {
  answers: number;
  transfers: number;
  frames: number;
  notices: number;
  deltas: number;
  faults: string[];
}

/** Into each transfer and each answer. */
const messagesEach = 3;
const mostPayloadBytes = 200;
const answers = 12;
const mostRounds = 5;
/** Long enough to be prefilled elsewhere. */
const promptTokens = 400;

export async function withIntruder(stack: Stack, client: Client, random: Random): Promise<IntruderReport> {
  const report: IntruderReport = { answers: 0, transfers: 0, frames: 0, notices: 0, deltas: 0, faults: [] };
  const prompts = Array.from({ length: answers }, () => Array.from({ length: promptTokens }, () => random.between(10, 250)));
  const expected: string[] = [];
  for (const prompt of prompts) expected.push(await answer(stack, client, prompt, "before"));
  const buses = await enter(stack, random, report);
  try {
    // Until the router sends some by way of prefill.
    for (let round = 0; round < mostRounds && report.transfers === 0; round++) {
      // At once: one worker alone would keep them waiting.
      const all = await Promise.all(prompts.map((prompt) => answer(stack, client, prompt, `meanwhile-${round}`).catch(String)));
      for (const [at, got] of all.entries()) {
        report.answers++;
        if (got !== expected[at])
          report.faults.push(`an intruder's frames: ${got.slice(0, 300)} where ${expected[at]?.slice(0, 300)} was due`);
      }
    }
  } finally {
    for (const bus of buses) await bus.close();
  }
  if (report.transfers === 0) report.faults.push(`none of ${report.answers} answers came with a transfer`);
  return report;
}

/** Another salt shares no blocks: the rows come from prefill each time. */
async function answer(stack: Stack, client: Client, prompt: number[], salt: string): Promise<string> {
  const body = { model: stack.modelName, prompt, max_tokens: 8, temperature: 1, seed: 1, ignore_eos: true, logprobs: 1, cache_salt: salt };
  const { status, text } = await client.send("POST", "/v1/completions", JSON.stringify(body));
  if (status !== 200) throw new Error(`${status}: ${text}`);
  return JSON.stringify((JSON.parse(text) as { choices: unknown }).choices);
}

async function enter(stack: Stack, random: Random, report: IntruderReport): Promise<Bus[]> {
  const open = (role: "observer" | "prefill" | "decode") => {
    const { user, password } = stack.credentialsFor(role);
    return connectBus({ servers: stack.natsUrl, user, password, name: `intruder-${role}`, log: silentLog });
  };
  const [observer, prefill, decode] = [await open("observer"), await open("prefill"), await open("decode")];
  const named = subjectsOf(stack.service);
  const each = (send: () => void) => {
    for (let i = 0; i < messagesEach; i++) send();
  };
  observer.subscribe(named.rows("prefill-0"), ({ data }) => {
    const { decodeWorkerId, transferId } = decodeMessage(RowsRequest, data).body;
    report.transfers++;
    each(() => {
      prefill.publish(named.frames(decodeWorkerId, transferId), hostileFrame(random, transferId));
      report.frames++;
    });
    if (random.chance(0.5)) return;
    // One that says it failed would be believed.
    const sentFrames = random.pick([0, 1, 2 ** 31, 2 ** 53 - 1]);
    prefill.publish(named.notices(decodeWorkerId), encodeMessage({ kind: "alive", transferId, sentFrames }));
    report.notices++;
  });
  observer.subscribe(named.dispatch("decode-0"), ({ data }) => {
    const { attemptId, replySubject } = decodeMessage(Dispatch, data).body;
    // A well-formed one of this attempt would be believed: this is who may answer.
    each(() => {
      const lies = [
        { attemptId, from: "nowhere", count: 1, end: hostileJson(random, 1) },
        { attemptId, from: 0, count: random.pick([0, 2, 2 ** 53 - 1]) },
        { attemptId: random.hex(12), from: 0, count: 1 },
      ];
      decode.publish(replySubject, encodeMessage({ deltas: [random.pick(lies)] }, Uint32Array.of(random.word())));
      report.deltas++;
    });
  });
  await observer.flush();
  return [observer, prefill, decode];
}

/** Shorter than any row, so that none of them can be what is due. */
function hostileFrame(random: Random, transferId: string): Uint8Array {
  const payload = random.between(0, mostPayloadBytes);
  const frame = new Uint8Array(frameHeaderBytes + payload).map(() => random.between(0, 255));
  if (random.chance(0.15)) return frame.slice(0, random.between(1, frame.length));
  const word = () => random.pick([0, 1, 4, 63, 64, 65, 400, 0xffff, 0x7fffffff, 0xffffffff]);
  writeFrameHeader(frame, frameTransferId(random.chance(0.8) ? transferId : random.hex(16)), {
    sequence: random.chance(0.6) ? random.between(0, 3) : word(),
    layer: random.between(0, 6) * (random.chance(0.1) ? 1_000 : 1),
    last: random.chance(0.2),
    cached: random.chance(0.5),
    firstRow: random.chance(0.5) ? 0 : word(),
    rowCount: random.chance(0.5) ? 64 : word(),
    payloadBytes: random.chance(0.8) ? payload : word(),
    kvDtype: random.pick(kvDtypes),
  });
  sealFrame(frame, (data) => nativeModule().xxh64(data));
  if (random.chance(0.2)) frame[random.between(0, frame.length - 1)] = random.between(0, 255);
  return frame;
}
