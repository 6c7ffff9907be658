// Messages on the bus that nobody sends: from one who has the right to, with whole checksums, and with contents that lie. Workers and gateways drop or
// refuse them, go on, and hold nothing.
import { readFileSync } from "node:fs";
import { z } from "zod";
import { type Bus, silentLog } from "../../lib/contracts/bus.ts";
import { WorkerState } from "../../lib/contracts/messages.ts";
import { subjects as subjectsOf } from "../../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage, protocolVersion } from "../../lib/contracts/wire.ts";
import { connectBus } from "../../lib/runtime/nats-bus.ts";
import { Random } from "../../lib/simulator/random.ts";
import { parseMetrics } from "../chaos/quiet.ts";
import type { Stack } from "../stack/stack.ts";
import { type Body, mutantOf } from "./bodies.ts";
import { type Channel, channels } from "./bus-channels.ts";
import { publishHeaders } from "./bus-headers.ts";
import type { Client } from "./client.ts";
import { smallest } from "./draw.ts";
import { type IntruderReport, withIntruder } from "./intruder.ts";
import { fieldsOf, type Schema } from "./schema.ts";
import { sleep } from "./sockets.ts";

export interface BusReport {
  messages: number;
  /** Messages that a receiver takes for whole and well-formed. */
  wellFormed: number;
  /** Messages with headers that are none. */
  headers: number;
  /** As the processes' own metrics say. */
  dropped: number;
  intruder: IntruderReport;
  /** What is not as it was, or what a log says of it. */
  faults: string[];
}

const leaseMs = 500;
const flushEvery = 50;
const boundMs = 10_000;
const headersEach = 20;
const alarms = /process failed|a step failed|the engine's loop failed|FATAL ERROR/;

export async function attackBus(
  stack: Stack,
  client: Client,
  { seed, times, onProgress }: { seed: number; times: number; onProgress(text: string): void },
): Promise<BusReport> {
  const before = identities(stack);
  const droppedBefore = await dropped(stack);
  const buses = new Map<string, Bus>();
  const counts = { messages: 0, wellFormed: 0, headers: 0 };
  try {
    for (const role of ["gateway", "prefill", "decode"] as const) {
      const { user, password } = stack.credentialsFor(role);
      buses.set(role, await connectBus({ servers: stack.natsUrl, user, password, name: `hostile-${role}`, log: silentLog }));
    }
    const worker = await accountOf(stack, buses.get("gateway") as Bus);
    for (const [at, channel] of channels(stack.service).entries()) {
      await attackChannel(channel, buses.get(channel.role) as Bus, seed + at * 7_919, times, worker, counts);
      const random = new Random(seed + at);
      const subjects = Array.from({ length: headersEach }, () => channel.subject(random));
      counts.headers += await publishHeaders(stack, channel.role, subjects, random);
    }
    for (const bus of buses.values()) await bus.flush();
    // What was taken for a request ends with its lease.
    await sleep(4 * leaseMs);
  } finally {
    for (const bus of buses.values()) await bus.close();
  }
  const intruder = await withIntruder(stack, client, new Random(seed));
  const report: BusReport = { ...counts, dropped: (await dropped(stack)) - droppedBefore, intruder, faults: [...intruder.faults] };
  // Most of what is not well-formed is a message that somebody receives and counts.
  if (report.dropped * 2 < report.messages - report.wellFormed)
    report.faults.push(`only ${report.dropped} messages were counted as dropped`);
  const after = identities(stack);
  for (const [name, was] of before) {
    if (after.get(name) !== was) report.faults.push(`${name} was process ${was} and is ${after.get(name)}`);
  }
  for (const { name, logFile } of stack.processes) {
    const alarm = readFileSync(logFile, "utf8")
      .split("\n")
      .find((line) => alarms.test(line));
    if (alarm !== undefined) report.faults.push(`${name}: ${alarm.slice(0, 500)}`);
  }
  onProgress(`${report.messages} messages on the bus (${report.wellFormed} well-formed), ${report.faults.length} faults`);
  return report;
}

/** What a worker says of itself: which model it has, and which bits. */
function accountOf(stack: Stack, bus: Bus): Promise<WorkerState> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no worker's account within ${boundMs} ms`)), boundMs);
    const states = bus.subscribe(subjectsOf(stack.service).state("decode-0"), ({ data }) => {
      clearTimeout(timer);
      states.unsubscribe();
      resolve(decodeMessage(WorkerState, data).body);
    });
  });
}

async function attackChannel(
  channel: Channel,
  bus: Bus,
  seed: number,
  times: number,
  worker: WorkerState,
  counts: { messages: number; wellFormed: number },
): Promise<void> {
  const schema = z.toJSONSchema(channel.schema, { io: "input", unrepresentable: "any" }) as Schema;
  const names = { model: "" };
  const fields = fieldsOf(schema);
  for (const [at, field] of fields.entries()) {
    for (let turn = 0; turn < times; turn++) {
      const random = new Random(seed * 1_000_003 + at * 1_009 + turn);
      const base = sound(smallest(schema, "", names) as Body, random, worker);
      const { body } = mutantOf(random, turn, field, fields, schema, base, names);
      const message = damaged(random, encodeMessage(body, channel.tail?.(random, body)));
      if (message.length > bus.maxPayloadBytes) continue;
      const isWhole = wellFormed(channel.schema, message);
      if (isWhole && channel.spares?.(body)) continue;
      if (isWhole) counts.wellFormed++;
      bus.publish(channel.subject(random, isWhole ? body : undefined), message);
      if (++counts.messages % flushEvery === 0) await bus.flush();
    }
  }
}

/** Fields without which a message is not looked at further. */
function sound(body: Body, random: Random, worker: WorkerState): Body {
  const out: Body = { ...body, v: protocolVersion };
  for (const key of ["instanceId", "modelDigest", "numericsId", "kvDtype"] as const) if (key in out) out[key] = worker[key];
  if ("seed" in out) out.seed = "1";
  for (const key of ["requestId", "attemptId", "transferId"]) if (key in out) out[key] = random.hex(16);
  if ("leaseMs" in out) out.leaseMs = leaseMs;
  if ("deadlineMs" in out) out.deadlineMs = 2 * leaseMs;
  if ("replySubject" in out) out.replySubject = `pelagic.local.deltas.gateway-0.${random.hex(16)}`;
  if ("endRow" in out) out.endRow = random.between(1, 100);
  return out;
}

/** Seldom, the bytes themselves are wrong, too: then the checksum says so. */
function damaged(random: Random, message: Uint8Array): Uint8Array {
  if (random.chance(0.9)) return message;
  const copy = message.slice(0, random.chance(0.3) ? random.between(0, message.length) : message.length);
  for (let i = random.between(0, 3); i > 0 && copy.length > 0; i--) copy[random.between(0, copy.length - 1)] = random.between(0, 255);
  return copy;
}

function wellFormed(schema: z.ZodType, message: Uint8Array): boolean {
  try {
    decodeMessage(schema, message);
    return true;
  } catch {
    return false;
  }
}

async function dropped(stack: Stack): Promise<number> {
  let sum = 0;
  for (const { name, metricsPort } of stack.processes) {
    if (name === "nats") continue;
    const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`, { signal: AbortSignal.timeout(boundMs) });
    sum += parseMetrics(await response.text()).get("pelagic_bus_dropped_messages_total") ?? 0;
  }
  return sum;
}

function identities(stack: Stack): Map<string, number | undefined> {
  return new Map(stack.processes.map(({ name, pid }) => [name, pid]));
}
