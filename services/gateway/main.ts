// The gateway process: HTTP in, dispatches out, tokens back as SSE.
import type { AddressInfo } from "node:net";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { systemClock } from "../lib/contracts/bus.ts";
import { PelagicError } from "../lib/contracts/errors.ts";
import { maxLeaseMs } from "../lib/contracts/messages.ts";
import { subjects as subjectsOf } from "../lib/contracts/subjects.ts";
import { startAdminServer } from "../lib/runtime/admin-server.ts";
import { busFields, ConfigError, processFields, readNatsCredentials } from "../lib/runtime/config.ts";
import { countDropped } from "../lib/runtime/metrics.ts";
import { connectBus } from "../lib/runtime/nats-bus.ts";
import { announce, runProcess } from "../lib/runtime/process.ts";
import { Admission } from "./admission/admission.ts";
import { Callers } from "./admission/callers.ts";
import { KeyFile } from "./admission/key-file.ts";
import { consoleFields, consoleSettings, isLoopback } from "./console/config.ts";
import { consoleRoutes } from "./console/routes.ts";
import { corsOrigins } from "./cors.ts";
import { DispatchClient } from "./dispatch-client.ts";
import type { Gateway, HostedModel, HostedModels } from "./gateway.ts";
import { GatewayMetrics } from "./gateway-metrics.ts";
import { LearnedModels } from "./learned-models.ts";
import { hostModel } from "./model-host.ts";
import { createHandler } from "./http-app.ts";
import { RecentRequests } from "./recent-requests.ts";
import { startTracing } from "../lib/runtime/tracing.ts";
import { createHttpServer } from "./http-server.ts";
import { ByteBudget } from "./json-body.ts";
import { loadModelFolder } from "../lib/model/folder.ts";
import { type NamedFolder, parseModelList } from "./model-list.ts";
import { poolsOf, withSleeping, whyModelNotReady, whyNotReady } from "./readiness.ts";
import { servedModel } from "./served-model.ts";
import { gatewayStatus } from "./status.ts";
import { followSleepingNames } from "./sleeping-names.ts";
import { WakeQueue } from "./wake-queue.ts";
import { WorkerDirectory } from "./worker-directory.ts";

const positive = z.coerce.number().int().positive();
const mebibyte = 1024 * 1024;

const GatewayConfig = z.object({
  ...processFields,
  ...busFields,
  ...consoleFields,
  gatewayId: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  /**
   * Hugging Face model folders (model-list.ts); of each only config.json and the tokenizer's files are read. Without any, models are learned from
   * their workers, and come and go with them.
   */
  model: z.string().min(1).transform(modelsIn).meta({ list: true }).optional(),
  /** A learned model is forgotten when no worker of it was heard for so long. Until then it is listed, and refused with a time to come back. */
  keepModelMs: positive.default(600_000),
  /** Where the operator says which models may have no worker because nobody asked for long (its admin port, /models): requests for them wait. */
  sleepingModelsUrl: z.url({ protocol: /^https?$/ }).optional(),
  host: z.string().min(1).default("127.0.0.1"),
  /** 0: any free port. */
  port: z.coerce.number().int().min(0).max(65535).default(0),
  /** A file of API keys (admission/api-keys.ts); without one anyone may ask. */
  apiKeys: z.string().min(1).optional(),
  /** Web pages that may ask from a browser (cors.ts); comma-separated. */
  corsOrigins: z.string().min(1).optional(),
  maxRunning: positive.default(4096),
  /** Requests that wait for a place here or for room at a worker, and how long at most. */
  maxQueued: positive.default(1024),
  queueMs: positive.default(30_000),
  maxBodyMib: positive.default(16),
  /** Of all requests that are here, together. */
  bodyBudgetMib: positive.default(256),
  defaultMaxTokens: positive.default(32_768),
  deadlineMs: positive.default(600_000),
  leaseMs: positive.max(maxLeaseMs).default(10_000),
  /** How long a request that lost its worker waits for another one. */
  resumeWaitMs: positive.default(30_000),
  localPrefillTokens: z.coerce.number().int().nonnegative().default(256),
  stallMs: positive.default(60_000),
  /** A stream in which nothing comes for so long gets a comment, so that nobody on the way takes it for dead. */
  keepAliveMs: positive.default(15_000),
  /** Of a stop: so long it goes on as before, but for each answer's being its connection's last. For where clients come by way of a load balancer. */
  lingerMs: z.coerce.number().int().nonnegative().default(0),
  maxConnections: positive.default(10_000),
  /** How long a client may take over its headers, and over its whole request. */
  headersMs: positive.default(60_000),
  requestMs: positive.default(300_000),
  /** Shared out among the models that have a tokenizer; each gets one at least. */
  tokenizerThreads: positive.default(Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)))),
  tokenizerQueue: positive.default(4096),
  tokenizerJobMs: positive.default(30_000),
  /** A format whose grammar takes longer to compile is refused. The largest that are let through take about 2 s. */
  grammarJobMs: positive.default(5_000),
  /** Allows internal request options. */
  debug: z.stringbool().default(false),
});

function modelsIn(text: string, context: z.RefinementCtx): NamedFolder[] {
  try {
    return parseModelList(text);
  } catch (error) {
    context.addIssue({ code: "custom", message: error instanceof Error ? error.message : String(error) });
    return z.NEVER;
  }
}

/** So long at most a start waits for the workers' accounts of themselves: who connects first is not told that there are none. */
const firstAccountsMs = 500;
/** Of the drain's bound, what is left for telling decode and closing connections. */
const closingMs = 1_000;

await runProcess({
  name: "gateway",
  config: GatewayConfig,
  async main({ config, log, metrics: registry, onStop, name }) {
    const tracer = await startTracing({ name, id: config.gatewayId }, process.env, log);
    onStop(() => tracer?.close());
    const callers = new Callers({ thisMachineOnly: isLoopback(config.host) });
    let keyFile: KeyFile | null = null;
    if (config.apiKeys !== undefined) {
      try {
        const file = new KeyFile(config.apiKeys, log, (ring) => callers.use(ring));
        keyFile = file;
        onStop(() => file.close());
      } catch (error) {
        throw new ConfigError(`--api-keys (PELAGIC_API_KEYS): ${error instanceof Error ? error.message : String(error)}`);
      }
    } else if (!isLoopback(config.host)) {
      log.warn({ host: config.host }, "anyone who reaches this address may use it: there are no API keys (PELAGIC_API_KEYS)");
    }
    const consoleAccess = consoleSettings(config);
    const origins = corsOrigins(config);
    // What is wrong with a folder is told before anything is connected.
    const folders = config.model?.map(({ name, folder }) => ({
      source: folder,
      model: servedModel(loadModelFolder(folder), { name, filesDigest: null }),
    }));
    const subjects = subjectsOf(config.service);
    const bus = await connectBus({
      servers: config.natsUrl.split(","),
      ...readNatsCredentials(config.natsCredentialsFile),
      name: config.gatewayId,
      log,
      onDropped: countDropped(registry),
    });
    onStop(() => bus.close());
    const client = new DispatchClient({
      bus,
      clock: systemClock,
      subjects,
      gatewayId: config.gatewayId,
      leaseMs: config.leaseMs,
      resumeWaitMs: config.resumeWaitMs,
      log,
      onCancelled: (seconds) => metrics.cancellations.observe(seconds),
    });
    onStop(() => client.close());
    const directory = new WorkerDirectory({
      bus,
      clock: systemClock,
      subjects,
      log,
      onGone: (instance) => client.workerGone(instance),
      onDraining: (instance) => client.workerDraining(instance),
    });
    onStop(() => directory.close());

    const admission = new Admission({
      clock: systemClock,
      maxRunning: config.maxRunning,
      maxWaiting: config.maxQueued,
      maxWaitMs: config.queueMs,
    });
    const hosting = { config, directory, log };
    const threadsEach = threadsFor(config.tokenizerThreads, (folders ?? []).filter(({ model }) => model.table !== null).length);
    const fixed =
      folders === undefined ? null : await Promise.all(folders.map(({ source, model }) => hostModel(model, source, threadsEach, hosting)));
    onStop(async () => void (await Promise.all((fixed ?? []).map((one) => one.close()))));
    const learned =
      fixed !== null
        ? null
        : new LearnedModels({
            ...{ bus, clock: systemClock, subjects, directory, log },
            keepMs: config.keepModelMs,
            host: (model, files, count) => hostModel(model, files, threadsFor(config.tokenizerThreads, count), hosting),
            onServed: (name) => metrics.begin(name),
            onForgotten: (name) => void metrics.forget(name),
            onFault: (fault) => metrics.modelFaults.inc({ fault }),
          });
    onStop(() => learned?.close());
    const configured: HostedModels = new Map((fixed ?? []).map((one) => [one.model.name, one]));
    const builds = (): readonly HostedModel[] => learned?.builds ?? fixed ?? [];
    const wakeQueue =
      config.sleepingModelsUrl === undefined
        ? null
        : new WakeQueue({
            clock: systemClock,
            maxWaiting: config.maxQueued,
            isAwake: (name) => {
              const hosted = gateway.models.get(name);
              return hosted !== undefined && whyModelNotReady(directory, hosted.model) === null;
            },
          });
    const bodyBudget = new ByteBudget(config.bodyBudgetMib * mebibyte);
    const metrics = new GatewayMetrics(registry, {
      running: () => admission.running,
      waiting: () => admission.waiting + (wakeQueue?.waiting ?? 0),
      cancelling: () => client.cancellationsPending,
      bodyBytes: () => bodyBudget.usedBytes,
      keysUnread: () => keyFile?.isUnread ?? false,
      pools: () =>
        withSleeping(
          poolsOf(builds(), directory, ({ room }) => admission.waitingFor(room)),
          wakeQueue,
        ),
      modelsMissing: () => learned?.missing.size ?? 0,
    });
    const gateway: Gateway = {
      get models() {
        return learned?.models ?? configured;
      },
      learned,
      client,
      directory,
      callers,
      admission,
      wakeQueue,
      bodyBudget,
      metrics,
      recent: new RecentRequests(),
      tracer,
      limits: {
        maxBodyBytes: config.maxBodyMib * mebibyte,
        defaultMaxTokens: config.defaultMaxTokens,
        deadlineMs: config.deadlineMs,
        localPrefillTokens: config.localPrefillTokens,
        stallMs: config.stallMs,
        keepAliveMs: config.keepAliveMs,
      },
      debug: config.debug,
      log,
    };

    const someModelNotReady = () => Array.from(configured.values()).some(({ model }) => whyModelNotReady(directory, model) !== null);
    const accountsUntil = performance.now() + firstAccountsMs;
    while (someModelNotReady() && performance.now() < accountsUntil) await sleep(10);

    if (config.sleepingModelsUrl !== undefined)
      onStop(await followSleepingNames(config.sleepingModelsUrl, log, (names) => wakeQueue?.know(names)));

    const console =
      consoleAccess === null
        ? undefined
        : consoleRoutes(gateway, {
            ...consoleAccess,
            gatewayId: config.gatewayId,
            files: join(import.meta.dirname, "..", "..", "console"),
            notReady: () => whyNotReady(gateway)?.message ?? null,
          });
    const { server, answering, lastAnswers } = createHttpServer(createHandler(gateway, console, origins), config);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // Who comes at once with many others waits in the kernel, and is not turned away.
      server.listen({ port: config.port, host: config.host, backlog: config.maxRunning }, resolve);
    });
    const admin = await startAdminServer({
      host: config.metricsHost,
      port: config.metricsPort,
      registry,
      ready: () => {
        const reason = whyNotReady(gateway);
        return reason === null ? { ready: true } : { ready: false, reason: reason.message };
      },
      routes: {
        "/status": () => gatewayStatus(gateway, config.gatewayId),
        "/requests": () => ({ requests: gateway.recent.list() }),
      },
      log,
    });
    onStop(() => admin.close());
    onStop(async () => {
      const until = performance.now() + config.drainMs - closingMs;
      lastAnswers();
      await sleep(config.lingerMs);
      admission.close();
      wakeQueue?.close();
      const stopped = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      // Also what is still being sent, so that it is told, and what a slow reader has yet to take.
      while (answering() > 0 && performance.now() < until) await sleep(20);
      client.cancelAll(new PelagicError("shutting_down", "the gateway is shutting down; try again elsewhere"));
      while ((answering() > 0 || client.cancellationsPending > 0) && performance.now() < until + closingMs / 2) await sleep(20);
      server.closeAllConnections();
      await stopped;
    });
    announce({ port: (server.address() as AddressInfo).port, metricsPort: admin.port });
    log.info({ port: (server.address() as AddressInfo).port, models: [...gateway.models.keys()] }, "listening");
  },
});

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Of all tokenizer threads, for each of so many models. */
function threadsFor(threads: number, models: number): number {
  return Math.max(1, Math.floor(threads / Math.max(1, models)));
}
