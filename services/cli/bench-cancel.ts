// bench cancel: from the moment a client leaves to the decode worker's word that nothing of its request is left, heard on the bus. Other requests
// run meanwhile, since a cancellation waits for the call that computes.
import { cpus } from "node:os";
import { type ClientRequest, request } from "node:http";
import type { Command } from "commander";
import { uniform } from "../../loadtest/random.ts";
import { quantile } from "../../loadtest/summary.ts";
import { type Bus, type BusSubscription, silentLog } from "../lib/contracts/bus.ts";
import { decodeDeltas } from "../lib/contracts/deltas.ts";
import { Control, ControlReply, Dispatch } from "../lib/contracts/messages.ts";
import { decodeMessage } from "../lib/contracts/wire.ts";
import { connectBus } from "../lib/runtime/nats-bus.ts";
import { atMost, type BenchRow, type BenchTarget, commit, printReport } from "./bench-report.ts";
import { CliError } from "./cli-error.ts";
import { prepareFirst } from "./prepare.ts";
import { type Stack, startStack } from "./stack/stack.ts";
import { count } from "./up.ts";

interface Options {
  requests: number;
  streams: number;
  json?: boolean;
}

/** What the project promises. */
const boundMs = 100;
/** Beyond it the measurement is off, not slow. */
const giveUpMs = 10_000;
const kinds = [
  { what: "streamed, in mid-answer", stream: true, promptTokens: 100, leaveAt: "deltas" },
  { what: "streamed, during prefill", stream: true, promptTokens: 3_000, leaveAt: "dispatch" },
  { what: "not streamed, in mid-answer", stream: false, promptTokens: 100, leaveAt: "deltas" },
  { what: "not streamed, during prefill", stream: false, promptTokens: 3_000, leaveAt: "dispatch" },
] as const;
/** After the first message of that kind. */
const leaveAfterMs = 50;

export function register(bench: Command): void {
  bench
    .command("cancel")
    .description("how soon a request whose client leaves is freed at its decode worker")
    .option("--requests <n>", "requests of each kind, one at a time", count(10, 10_000), 100)
    .option("--streams <n>", "other streams that run meanwhile", count(0, 64), 8)
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic bench cancel --json")
    .action(async (options: Options) => {
      await prepareFirst();
      const stack = await startStack({ observer: true });
      try {
        const { rows, targets } = await benchCancel(stack, options);
        const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores`;
        printReport({ bench: "cancel", machine, commit: commit(), rows, targets }, options.json);
      } finally {
        await stack.stop();
      }
    });
}

async function benchCancel(stack: Stack, { requests, streams }: Options): Promise<{ rows: BenchRow[]; targets: BenchTarget[] }> {
  const { user, password } = stack.credentialsFor("observer");
  const bus = await connectBus({ servers: stack.natsUrl, user, password, name: "observer", log: silentLog });
  const others = Array.from({ length: streams }, (_, n) => keepStreaming(stack, n));
  try {
    const rows: BenchRow[] = [];
    const targets: BenchTarget[] = [];
    for (const kind of kinds) {
      const times: number[] = [];
      for (let n = 0; n < requests; n++) times.push(await leaveOnce(stack, bus, kind, kinds.indexOf(kind) * requests + n));
      for (const q of [0.5, 0.99]) {
        const value = Number(quantile(times, q).toPrecision(3));
        rows.push({
          what: `${kind.what}, p${q * 100}`,
          value,
          unit: "ms",
          ceiling: boundMs,
          ratio: Number((value / boundMs).toPrecision(3)),
        });
      }
      targets.push(atMost(`${kind.what}, p99`, quantile(times, 0.99), "ms", boundMs));
    }
    return { rows, targets };
  } finally {
    for (const other of others) other.stop();
    await bus.close();
  }
}

async function leaveOnce(stack: Stack, bus: Bus, kind: (typeof kinds)[number], seed: number): Promise<number> {
  const requestId = `leaves-${seed}`;
  const heard = new RequestOnBus(bus, requestId);
  try {
    // The subscription must stand before there is something to hear.
    await bus.flush();
    const sent = send(stack, kind, seed, requestId);
    sent.on("error", () => undefined);
    const refused = new Promise<never>((_, reject) => {
      sent.on("response", ({ statusCode }) => statusCode !== 200 && reject(new CliError(`${requestId}: status ${statusCode}`)));
    });
    await Promise.race([heard.until(kind.leaveAt), refused]);
    await new Promise((resolve) => setTimeout(resolve, leaveAfterMs));
    const leftMs = performance.now();
    sent.destroy();
    await heard.until("freed");
    return heard.freedAtMs - leftMs;
  } finally {
    heard.close();
  }
}

type Stage = "dispatch" | "deltas" | "cancel" | "freed";

/** What is said of one request. Only one is cancelled at a time, so that the next confirmation is of it. */
class RequestOnBus {
  freedAtMs = 0;
  private readonly seen = new Set<Stage>();
  private readonly requestId: string;
  private readonly subscription: BusSubscription;
  private attemptId: string | null = null;
  private onSeen = () => {};

  constructor(bus: Bus, requestId: string) {
    this.requestId = requestId;
    this.subscription = bus.subscribe(">", ({ subject, data }) => {
      const stage = this.stageOf(subject, data);
      if (stage === null) return;
      if (stage === "freed") this.freedAtMs = performance.now();
      this.seen.add(stage);
      this.onSeen();
    });
  }

  until(stage: Stage): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new CliError(`${this.requestId}: no ${stage} within ${giveUpMs} ms, after ${[...this.seen].join(", ") || "nothing"}`)),
        giveUpMs,
      );
      this.onSeen = () => {
        if (!this.seen.has(stage)) return;
        clearTimeout(timer);
        resolve();
      };
      this.onSeen();
    });
  }

  close(): void {
    this.subscription.unsubscribe();
  }

  private stageOf(subject: string, data: Uint8Array): Stage | null {
    const kind = subject.split(".")[2];
    // An answer has an inbox for a subject.
    if (!subject.startsWith("pelagic.")) return this.seen.has("cancel") && !this.seen.has("freed") && isReply(data) ? "freed" : null;
    if (kind === "dispatch") {
      const { body } = decodeMessage(Dispatch, data);
      if (body.requestId !== this.requestId) return null;
      this.attemptId = body.attemptId;
      return "dispatch";
    }
    if (this.attemptId === null) return null;
    if (kind === "deltas") return decodeDeltas(data).some(({ delta }) => delta.attemptId === this.attemptId) ? "deltas" : null;
    if (kind !== "control") return null;
    const { body } = decodeMessage(Control, data);
    return body.kind === "cancel" && body.attemptId === this.attemptId ? "cancel" : null;
  }
}

function isReply(data: Uint8Array): boolean {
  try {
    return decodeMessage(ControlReply, data).body.ok;
  } catch {
    return false;
  }
}

/** A request after another, read to their ends. */
function keepStreaming(stack: Stack, index: number): { stop(): void } {
  let stopped = false;
  let current: ClientRequest | null = null;
  const next = (round: number) => {
    if (stopped) return;
    current = send(stack, { stream: true, promptTokens: 50 }, 1_000_000 + index * 1_000 + round);
    current.on("error", () => undefined);
    current.on("response", (response) => response.resume());
    current.on("close", () => next(round + 1));
  };
  next(0);
  return {
    stop: () => {
      stopped = true;
      current?.destroy();
    },
  };
}

/** Prompts differ, so that none is cached. */
function send(
  stack: Stack,
  { stream, promptTokens }: { stream: boolean; promptTokens: number },
  seed: number,
  requestId?: string,
): ClientRequest {
  const random = uniform(seed);
  const prompt = Array.from({ length: promptTokens }, () => Math.floor(random() * 256));
  const body = JSON.stringify({ model: stack.modelName, prompt, stream, max_tokens: 1_000, ignore_eos: true });
  const sent = request(`${stack.baseUrl}/v1/completions`, {
    method: "POST",
    agent: false,
    headers: {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      ...(requestId && { "x-request-id": requestId }),
    },
  });
  sent.end(body);
  return sent;
}
