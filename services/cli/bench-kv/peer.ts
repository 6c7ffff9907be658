// One of the bench's two processes: a sender or a receiver, with a cache, two connections to the server, and two ways to move bytes. The
// product's way is TransferSender, TransferReceiver and CreditBudget, put together as RowServer and DecodeWorker do; the bare way is
// nats.js and nothing else.
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { kvBlockTokens } from "../../lib/contracts/block-key.ts";
import { silentLog, type Bus } from "../../lib/contracts/bus.ts";
import { frameHeaderBytes, sealFrame } from "../../lib/contracts/frame.ts";
import { Credit } from "../../lib/contracts/messages.ts";
import { subjects } from "../../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../../lib/contracts/wire.ts";
import { CreditBudget } from "../../lib/engine/credit-budget.ts";
import { loadNativeRunner, type NativeRunner } from "../../lib/engine/model-runner.ts";
import { TransferReceiver } from "../../lib/engine/transfer-receiver.ts";
import { TransferSender } from "../../lib/engine/transfer-sender.ts";
import { connectBus } from "../../lib/runtime/nats-bus.ts";
import { inboxPrefixOf } from "../../lib/runtime/nats-permissions.ts";
import { benchService, type Job, type PeerOrder, type PeerReport, type PeerSetup, receiverId, senderId } from "./jobs.ts";

const names = subjects(benchService);
const kvDtype = "bfloat16";

interface Peer {
  setup: PeerSetup;
  runner: NativeRunner;
  control: Bus;
  data: Bus;
  /** The bare way's own connection. */
  bare: NatsConnection;
}

const fail = (error: unknown) => say({ report: "failed", reason: error instanceof Error ? error.message : String(error) });
const say = (report: PeerReport) => process.send?.(report);

async function open(setup: PeerSetup): Promise<Peer> {
  const { natsUrl: servers, user, password, modelDir, kvBlocks } = setup;
  const runner = await loadNativeRunner({ dir: modelDir, kvDtype, threads: 1, isa: "auto", kvBlocks });
  const bus = (name: string) => connectBus({ servers, user, password, name, log: silentLog });
  const peer = {
    setup,
    runner,
    control: await bus("control"),
    data: await bus("data"),
    bare: await connect({ servers, user, pass: password, inboxPrefix: inboxPrefixOf(user), noAsyncTraces: true }),
  };
  fill(peer);
  return peer;
}

/** Every byte of the cache is written once: it is all resident, and differs from place to place. */
function fill({ runner, setup }: Peer): void {
  const frame = new Uint8Array(frameHeaderBytes + kvBlockTokens * runner.rowBytes);
  const words = new Uint32Array(frame.buffer, frameHeaderBytes);
  let state = setup.fill;
  for (let layer = 0; layer < runner.info.layerCount; layer++) {
    for (let id = 0; id < setup.kvBlocks; id++) {
      for (let i = 0; i < words.length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) | 0;
        words[i] = state;
      }
      sealFrame(frame, (data) => runner.xxh64(data));
      runner.unpackFrame(layer, id, 0, kvBlockTokens, frame);
    }
  }
}

function digest({ runner, setup }: Peer): string {
  const block = new Uint8Array(kvBlockTokens * runner.rowBytes);
  let all = 0n;
  for (let layer = 0; layer < runner.info.layerCount; layer++) {
    for (let id = 0; id < setup.kvBlocks; id++) {
      all = BigInt.asUintN(64, all * 31n + runner.packRows(layer, id, 0, kvBlockTokens, block, 0));
    }
  }
  return all.toString(16);
}

const blockTable = (count: number) => Array.from({ length: count }, (_, i) => i);

/** As RowServer does for rows that are all in its cache. */
async function prepareSend({ runner, control, data, setup }: Peer, job: Job): Promise<void> {
  const table = blockTable(setup.kvBlocks);
  let sender: TransferSender | undefined;
  const subscription = control.subscribe(names.credit(senderId, job.id), (message) => {
    const { body } = decodeMessage(Credit, message.data);
    if (body.end) {
      subscription.unsubscribe();
      return;
    }
    if (!sender) {
      const options = { transferId: job.id, kvDtype, firstRow: 0, endRow: job.rows, grantedBytes: body.grantedBytes } as const;
      sender = new TransferSender(runner, data, names.frames(receiverId, job.id), options, () => table, fail);
      for (let layer = 0; layer < runner.info.layerCount; layer++) sender.rowsReady(layer, 0, job.rows, true);
      return;
    }
    sender.acknowledge(body.receivedFrames);
    if (body.resend) sender.resend(body.receivedFrames);
    sender.grant(body.grantedBytes);
  });
  await control.flush();
}

/** As DecodeWorker does. */
async function prepareReceive({ runner, control, data, setup }: Peer, job: Job): Promise<() => void> {
  const { id } = job;
  const options = { transferId: id, kvDtype, firstRow: 0, endRow: job.rows } as const;
  const receiver = new TransferReceiver(runner, options, blockTable(setup.kvBlocks));
  const credits = new CreditBudget(job.budgetBytes);
  const stall = staller(job);
  let startedMs = 0;
  let messages = 0;
  const sendCredit = (more: { end?: "complete" } = {}) => {
    messages++;
    control.publish(
      names.credit(senderId, id),
      encodeMessage({ transferId: id, grantedBytes: credits.grantedBytes(id), receivedFrames: receiver.frames, ...more }),
    );
  };
  const distribute = () => {
    for (const _ of credits.distribute(kvBlockTokens * runner.rowBytes)) sendCredit();
  };
  const subscription = data.subscribe(names.frames(receiverId, id), (message) => {
    const arrival = receiver.accept(message.data);
    if (arrival.missing !== undefined) throw new Error(`frame ${receiver.frames}: ${arrival.missing}`);
    credits.received(id, arrival.storedBytes);
    if (!receiver.complete) {
      distribute();
      stall(receiver.receivedBytes);
      return;
    }
    const seconds = (performance.now() - startedMs) / 1000;
    subscription.unsubscribe();
    sendCredit({ end: "complete" });
    say({ report: "done", seconds, bytes: receiver.receivedBytes, credits: messages });
  });
  await data.flush();
  return () => {
    startedMs = performance.now();
    credits.open(id, receiver.totalBytes);
    distribute();
  };
}

/** Publishes one buffer again and again, as far as the receiver's position and the window reach. */
async function prepareBareSend({ bare }: Peer, job: Job): Promise<void> {
  const frame = new Uint8Array(job.frameBytes);
  const subject = names.frames(receiverId, job.id);
  let sent = 0;
  const subscription = bare.subscribe(names.credit(senderId, job.id), {
    callback: (_, message) => {
      const limit = Math.min(job.totalBytes, Number(message.string()));
      while (sent + frame.length <= limit) {
        bare.publish(subject, frame);
        sent += frame.length;
      }
      if (sent === job.totalBytes) subscription.unsubscribe();
    },
  });
  await bare.flush();
}

/** Counts. It says four times a window how far it may be filled: without that the server would cut off a slow reader. */
async function prepareBareReceive({ bare }: Peer, job: Job): Promise<() => void> {
  const stepBytes = job.budgetBytes / 4;
  const ack = names.credit(senderId, job.id);
  const stall = staller(job);
  let received = 0;
  let granted = job.budgetBytes;
  let startedMs = 0;
  let messages = 1;
  const subscription = bare.subscribe(names.frames(receiverId, job.id), {
    callback: (_, message) => {
      received += message.data.length;
      if (received === job.totalBytes) {
        const seconds = (performance.now() - startedMs) / 1000;
        subscription.unsubscribe();
        say({ report: "done", seconds, bytes: received, credits: messages });
      } else if (received + job.budgetBytes - granted >= stepBytes) {
        granted = received + job.budgetBytes;
        messages++;
        bare.publish(ack, String(granted));
        stall(received);
      }
    },
  });
  await bare.flush();
  return () => {
    startedMs = performance.now();
    bare.publish(ack, String(granted));
  };
}

/** Stops the whole process: nothing is read and nothing granted. */
function staller({ stall }: Job): (receivedBytes: number) => void {
  if (!stall) return () => undefined;
  const cell = new Int32Array(new SharedArrayBuffer(4));
  let next = stall.everyBytes;
  return (receivedBytes) => {
    if (receivedBytes < next) return;
    next += stall.everyBytes;
    Atomics.wait(cell, 0, 0, stall.ms);
  };
}

let peer: Peer | undefined;
let begin = () => {};

async function obey(order: PeerOrder): Promise<void> {
  if (order.order === "setup") {
    peer = await open(order.setup);
    say({ report: "ready" });
    return;
  }
  if (!peer) throw new Error("not set up");
  if (order.order === "prepare") {
    const { job } = order;
    if (peer.setup.role === "prefill") await (job.kind === "product" ? prepareSend : prepareBareSend)(peer, job);
    else begin = await (job.kind === "product" ? prepareReceive : prepareBareReceive)(peer, job);
    say({ report: "prepared" });
  } else if (order.order === "begin") {
    begin();
  } else if (order.order === "digest") {
    say({ report: "digest", digest: digest(peer) });
  } else {
    process.exit(0);
  }
}

process.on("message", (order: PeerOrder) => {
  obey(order).catch(fail);
});
// The bench is gone.
process.on("disconnect", () => process.exit(1));
