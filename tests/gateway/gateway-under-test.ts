// The gateway's express app on a real port, over a bus in memory and a scripted decode worker.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Router } from "express";
import { Admission } from "../../services/gateway/admission/admission.ts";
import { Callers } from "../../services/gateway/admission/callers.ts";
import { Room } from "../../services/gateway/admission/room.ts";
import { DispatchClient } from "../../services/gateway/dispatch-client.ts";
import { GatewayMetrics } from "../../services/gateway/gateway-metrics.ts";
import { createHandler } from "../../services/gateway/http-app.ts";
import { ByteBudget } from "../../services/gateway/json-body.ts";
import { loadModelFolder, type TokenizerFiles } from "../../services/lib/model/folder.ts";
import { PromptEncoder } from "../../services/gateway/prompt-encoder.ts";
import type { Gateway, HostedModel } from "../../services/gateway/gateway.ts";
import { poolsOf, whyModelNotReady, withSleeping } from "../../services/gateway/readiness.ts";
import { RecentRequests } from "../../services/gateway/recent-requests.ts";
import { servedModel } from "../../services/gateway/served-model.ts";
import type { Encoder } from "../../services/gateway/tokenizer-pool.ts";
import { WakeQueue } from "../../services/gateway/wake-queue.ts";
import { WorkerDirectory } from "../../services/gateway/worker-directory.ts";
import { silentLog, systemClock } from "../../services/lib/contracts/bus.ts";
import { subjects as subjectsOf } from "../../services/lib/contracts/subjects.ts";
import { Registry } from "../../services/lib/runtime/metrics.ts";
import { MemoryBus } from "./memory-bus.ts";
import { type Script, ScriptedDecode, testModelName } from "./scripted-decode.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

export interface GatewayUnderTest {
  gateway: Gateway;
  bus: MemoryBus;
  decode: ScriptedDecode;
  registry: Registry;
  url: string;
  close(): Promise<void>;
}

export async function startGatewayUnderTest(
  options: {
    maxRunning?: number;
    maxWaitMs?: number;
    tokenizer?: boolean;
    /** Names of the models served, all of the folder in the box; the scripted worker has the first. */
    models?: string[];
    /** Of them, those that may sleep; so many requests may wait for them. */
    sleeping?: { names: string[]; maxWaiting: number };
    limits?: Partial<Gateway["limits"]>;
    console?: (gateway: Gateway) => Router;
    corsOrigins?: ReadonlySet<string>;
  } = {},
): Promise<GatewayUnderTest> {
  const bus = new MemoryBus();
  const subjects = subjectsOf("test");
  const log = silentLog;
  const client = new DispatchClient({
    bus,
    clock: systemClock,
    subjects,
    gatewayId: "gateway-0",
    leaseMs: 10_000,
    resumeWaitMs: 1_500,
    log,
  });
  const directory = new WorkerDirectory({ bus, clock: systemClock, subjects, log, onGone: (instance) => client.workerGone(instance) });
  const decode = new ScriptedDecode({ bus, script: () => say("hello") });
  const folder = loadModelFolder(embeddedModel());
  const served = options.tokenizer === false ? { ...folder, tokenizer: null } : folder;
  const encoder = served.tokenizer === null ? null : encoderHere(served.tokenizer);
  const names = options.models ?? [testModelName];
  const registry = new Registry();
  const admission = new Admission({
    clock: systemClock,
    maxRunning: options.maxRunning ?? 100,
    maxWaiting: 20,
    maxWaitMs: options.maxWaitMs ?? 5_000,
  });
  const models = new Map(
    names.map((name): [string, HostedModel] => {
      const model = servedModel(served, { name, filesDigest: null });
      return [name, { model, encoder, room: new Room(directory, model) }];
    }),
  );
  const wakeQueue =
    options.sleeping === undefined
      ? null
      : new WakeQueue({
          clock: systemClock,
          maxWaiting: options.sleeping.maxWaiting,
          isAwake: (name) => {
            const hosted = gateway.models.get(name);
            return hosted !== undefined && whyModelNotReady(directory, hosted.model) === null;
          },
        });
  wakeQueue?.know(options.sleeping?.names ?? []);
  const bodyBudget = new ByteBudget(64 * 1024 * 1024);
  const gateway: Gateway = {
    models,
    learned: null,
    client,
    directory,
    callers: new Callers({ thisMachineOnly: true }),
    admission,
    wakeQueue,
    bodyBudget,
    metrics: new GatewayMetrics(registry, {
      running: () => admission.running,
      waiting: () => admission.waiting + (wakeQueue?.waiting ?? 0),
      cancelling: () => client.cancellationsPending,
      bodyBytes: () => bodyBudget.usedBytes,
      keysUnread: () => false,
      pools: () =>
        withSleeping(
          poolsOf([...models.values()], directory, ({ room }) => admission.waitingFor(room)),
          wakeQueue,
        ),
      modelsMissing: () => 0,
    }),
    recent: new RecentRequests(),
    tracer: undefined,
    limits: {
      maxBodyBytes: 1024 * 1024,
      defaultMaxTokens: 32_768,
      deadlineMs: 20_000,
      localPrefillTokens: 256,
      stallMs: 1_000,
      keepAliveMs: 15_000,
      ...options.limits,
    },
    debug: true,
    log,
  };
  const server = createServer(createHandler(gateway, options.console?.(gateway), options.corsOrigins));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  await waitFor(() => directory.snapshot().workers.length > 0);
  return {
    gateway,
    bus,
    decode,
    registry,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => closeAll(server, decode, directory),
  };
}

/** Output tokens of the model in the box for this text, in which <think>-like tags are tokens, ended by its end of sentence. */
export function say(text: string, more: Partial<Script> = {}): Script {
  const tokens: number[] = [];
  text.split("</think>").forEach((part, index) => {
    if (index > 0) tokens.push(261);
    tokens.push(...Buffer.from(part));
  });
  return { tokens: more.reason === "length" ? tokens : [...tokens, 257], ...more };
}

export async function waitFor(condition: () => boolean, limitMs = 5_000): Promise<void> {
  const until = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > until) throw new Error(`not reached within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function encoderHere(files: TokenizerFiles): Encoder {
  const encoder = new PromptEncoder(files);
  return {
    encode: async (job) => {
      if (job.kind === "ids" || job.format !== undefined) throw new Error("formats are tested with the tokenizer's own threads");
      return job.kind === "text" ? encoder.encodeText(job.text, job.special) : encoder.encodeChat(job.prompt);
    },
  };
}

async function closeAll(server: Server, decode: ScriptedDecode, directory: WorkerDirectory): Promise<void> {
  decode.kill();
  directory.close();
  server.closeAllConnections();
  await new Promise<void>((resolve) => server.close(() => resolve()));
}
