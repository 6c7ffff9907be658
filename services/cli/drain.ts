// ./pelagic drain WORKER: the worker takes no new work, gateways move what it runs to its peers, and the command ends when nothing is left.
import type { Command } from "commander";
import { WorkerDirectory } from "../gateway/worker-directory.ts";
import { type Bus, BusError, silentLog, systemClock } from "../lib/contracts/bus.ts";
import { ControlReply, WorkerState } from "../lib/contracts/messages.ts";
import { type Subjects, subjects } from "../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { type DrainEnd, DrainWatch } from "./drain-watch.ts";
import { connectTo, runningInstance } from "./instances.ts";
import { portNumber } from "./up.ts";

const replyMs = 2_000;
const tries = 3;
const graceMs = 100;

interface DrainOptions {
  port?: number;
  timeout: string;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("drain")
    .description("take a worker out of service: its running requests move to its peers")
    .argument("<worker>", "its id, as `status` shows it")
    .option("--port <port>", "the instance on this port", portNumber)
    .option("--timeout <seconds>", "give up waiting after so long; the worker goes on draining", "60")
    .option("--json", "print what happened as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic drain decode-0")
    .action(drain);
}

async function drain(workerId: string, options: DrainOptions): Promise<void> {
  const boundMs = Number(options.timeout) * 1000;
  if (!(boundMs > 0)) throw new CliError(`--timeout: ${options.timeout} is no number of seconds`, 2);
  const instance = runningInstance(options.port);
  if (!instance?.nats) throw new CliError("nothing is running here: ./pelagic up starts it");
  const named = subjects(instance.nats.service);
  let subject: string;
  try {
    subject = named.control(workerId);
  } catch (error) {
    throw new CliError(messageOf(error));
  }
  const bus = await connectTo(instance.nats);
  try {
    const begunMs = performance.now();
    const watch = new DrainWatch();
    const idle = whenIdle(bus, named, workerId, watch, boundMs, (left) => {
      if (!options.json) process.stderr.write(`${workerId}: ${left} requests left\n`);
    });
    await ask(bus, subject, workerId, instance.port);
    watch.acknowledged();
    const done = await idle;
    const { pid } = watch;
    const seconds = Math.round(performance.now() - begunMs) / 1000;
    if (options.json)
      process.stdout.write(`${JSON.stringify({ worker: workerId, drained: done === "drained", end: done, seconds, pid })}\n`);
    else if (done === "drained")
      process.stdout.write(
        `${workerId} is drained (${seconds} s); it takes no work until its process, ${pid}, has ended and its supervisor has started another\n`,
      );
    if (done === "timeout") throw new CliError(`${workerId} still runs requests after ${options.timeout} s: it goes on draining`);
    if (done === "replaced")
      throw new CliError(`${workerId} went away before it was drained, and a new process took its place: drain it again`);
    if (done === "silent") throw new CliError(`${workerId} fell silent before it was drained; ./pelagic status shows what is there`);
  } finally {
    await bus.close();
  }
}

async function ask(bus: Bus, subject: string, workerId: string, port: number | null): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      const { body } = decodeMessage(ControlReply, await bus.request(subject, encodeMessage({ kind: "drain" }), replyMs));
      if (!body.ok) throw new CliError(`${workerId} refuses to drain: ${body.message ?? "no reason given"}`);
      return;
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      if (error.code === "no_responders") {
        throw new CliError(`no worker ${workerId} is running${port === null ? "" : ` on port ${port}`}: ./pelagic status lists them`);
      }
      if (attempt === tries)
        throw new CliError(`${workerId} does not answer (${error.message}): if it only stands still, it drains once it goes on`);
    }
  }
}

/** Resolves with how it ended. */
function whenIdle(
  bus: Bus,
  named: Subjects,
  workerId: string,
  watch: DrainWatch,
  boundMs: number,
  onProgress: (left: number) => void,
): Promise<DrainEnd> {
  return new Promise((resolve) => {
    let shown = -1;
    const finish = (end: DrainEnd) => {
      clearTimeout(timer);
      subscription.unsubscribe();
      directory.close();
      resolve(end);
    };
    const timer = setTimeout(() => finish("timeout"), boundMs);
    const subscription = bus.subscribe(named.state(workerId), (message) => {
      const { body } = decodeMessage(WorkerState, message.data);
      const end = watch.see(body);
      if (end !== null) finish(end);
      const left = body.requests.running + body.requests.waiting;
      if (end === null && body.state === "draining" && left !== shown) onProgress(left);
      shown = left;
    });
    // Silence is what gateways take for it: an outage of the bus is none. A worker that stopped or was replaced is gone for them, too, and the
    // subscription above says so better, a moment before or after.
    const directory = new WorkerDirectory({
      bus,
      clock: systemClock,
      subjects: named,
      log: silentLog,
      onGone: (gone) => {
        if (gone.workerId === workerId && gone.instanceId === watch.instanceId) setTimeout(() => finish("silent"), graceMs);
      },
    });
  });
}
