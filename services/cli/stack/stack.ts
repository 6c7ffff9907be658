// A whole Pelagic on this machine: NATS, workers and the gateway as child processes of this one. `up`, `ask`, `check-exact` and the
// end-to-end tests start it through startStack(); what starts, in which order and with which settings is decided here and nowhere else.
import { availableParallelism } from "node:os";
import { basename, join, resolve } from "node:path";
import { corsOrigins } from "../../gateway/cors.ts";
import { type NamedFolder, parseModelList } from "../../gateway/model-list.ts";
import { readKeysFile } from "../keys.ts";
import { inTree, treeRoot } from "../tree.ts";
import { parseAnnouncement, type Announcement } from "../../lib/runtime/process.ts";
import type { LogLevel } from "../../lib/runtime/log.ts";
import type { NatsRole } from "../../lib/runtime/nats-permissions.ts";
import { natsServerBinary } from "../nats-binary.ts";
import { CliError, messageOf } from "../cli-error.ts";
import { type ExpertShape, mostRedundantSlots } from "../../lib/engine/ranks/expert-slots.ts";
import { expertShape } from "../../lib/engine/ranks/load.ts";
import { checkedModelFolder, embeddedModel } from "./model-folder.ts";
import { forgetNatsPort, readNatsMonitorPort, readNatsPort, writeNatsFiles, type NatsCredentialsFile, type NatsFiles } from "./nats.ts";
import { cardOf } from "./cards.ts";
import { checkPortFree } from "./ports.ts";
import { identifyProcess } from "./process-table.ts";
import { cleanUpLeftovers, createRunDir, logsOf, removeRunDir, writeInstance, type Instance } from "./run-dir.ts";
import { defaultRestartPolicy, SupervisedProcess, type ProcessSpec, type RestartPolicy } from "./supervised-process.ts";
import type { KvDtype } from "../../lib/contracts/frame.ts";
import type { Backend, WeightDtype } from "../../lib/engine/native.ts";

export interface StackOptions {
  /** A model folder, as FOLDER or NAME=FOLDER, or several; default: the one under models/. */
  model?: string | string[];
  /** Workers of each role for each model; at least one decode. */
  prefill?: number;
  decode?: number;
  /** Instead of `decode`: so many decode workers of each model, which share its experts; with copies of some beside one of each. */
  decodeRanks?: number;
  redundantExperts?: number;
  /** How often they are placed anew; 0: never. */
  rebalanceSeconds?: number;
  /** The first gateway's port; 0, the default: any free one. */
  port?: number;
  /** Default 1. 0: NATS and workers only, for a caller that speaks to the bus itself. */
  gateways?: number;
  /** Adds a user that hears everything on the bus, and NATS's monitoring port. */
  observer?: boolean;
  /** Compute threads of each worker; default: the cores, shared out. */
  threads?: number;
  kvBlocks?: number;
  kvDtype?: KvDtype;
  /** Of the workers; default: cpu. */
  backend?: Backend;
  /** On cuda; default: bfloat16. */
  weightDtype?: WeightDtype;
  logLevel?: LogLevel;
  /** The gateways' keys file; default: anyone may ask. */
  apiKeys?: string;
  /** Web pages that may ask the gateways; default: none. */
  corsOrigins?: string;
  /** More variables for every child, such as PELAGIC_ISA. */
  env?: Record<string, string>;
  /** "service" is found by `down`, `ask` and `status`; "private", the default, belongs to whoever started it. */
  kind?: Instance["kind"];
  /** How long everything may take to become ready. */
  readyTimeoutMs?: number;
  onEvent?: (event: StackEvent) => void;
  /** Aborting it during the start stops what was started. */
  signal?: AbortSignal;
  restartPolicy?: RestartPolicy;
  /** The processes' scripts; default: those of this tree. */
  scripts?: Partial<Record<ScriptRole, string>>;
}

export type ScriptRole = "gateway" | "prefill" | "decode";

export type StackEvent =
  | { event: "preparing"; what: string }
  | { event: "started"; process: string; pid: number }
  | { event: "ready"; process: string; afterSeconds: number }
  | { event: "died"; process: string; how: string; restartInMs: number }
  | { event: "stopping"; process: string };

export interface StackProcess {
  name: string;
  /** Undefined while it is down. */
  pid: number | undefined;
  /** Where its metrics and readiness are; undefined for NATS and before the first announcement. */
  metricsPort: number | undefined;
  logFile: string;
  kill(signal?: NodeJS.Signals): void;
}

export interface StackModel extends NamedFolder {
  workerIds: string[];
}

export interface Stack {
  /** http://127.0.0.1:PORT of the first gateway; throws without one. */
  readonly baseUrl: string;
  /** Of each gateway. */
  readonly baseUrls: string[];
  /** The first gateway's admin port: /metrics, /ready, /status. */
  readonly adminUrl: string;
  /** The first gateway's page; null where PELAGIC_CONSOLE turns it off. */
  readonly consoleUrl: string | null;
  readonly natsUrl: string;
  /** NATS's own monitoring, with an observer only; another port after each restart. */
  readonly natsMonitorUrl: string;
  readonly service: string;
  /** The folder of the first model, and its name. */
  readonly model: string;
  readonly modelName: string;
  /** All of them, with their folders and the ids of their workers. */
  readonly models: readonly StackModel[];
  readonly logsDir: string;
  readonly processes: StackProcess[];
  /** To speak to the bus as the first process of this role: its id, user and password. */
  credentialsFor(role: NatsRole): NatsCredentialsFile;
  /** Resolves with the reason if the stack gives up by itself; it is stopped then. */
  readonly failed: Promise<Error>;
  /** Gateway first, then workers, then NATS; leaves nothing, or the logs only. Safe to call again. */
  stop(options?: { keepLogs?: boolean }): Promise<void>;
  /** SIGKILL to all of it, for one who cannot wait. */
  killAll(): void;
}

const service = "local";
const natsName = "nats";
const defaultReadyTimeoutMs = 300_000;
const natsTimeoutMs = 20_000;
/** The gateway gets the time to end the answers that it is writing. */
const stopBoundsMs = { gateway: 6_000, worker: 4_000, nats: 2_000 };
const pollMs = 50;
const requestTimeoutMs = 2_000;

/** The models. Throws what the user can mend, before anything is built or started. */
export async function checkStackOptions(options: StackOptions): Promise<NamedFolder[]> {
  const models = modelsOf(options).map(({ name, folder }) => ({
    name,
    folder: checkedModelFolder(folder, { tokenizer: options.gateways !== 0 }),
  }));
  if (options.rebalanceSeconds !== undefined && options.decodeRanks === undefined)
    throw new CliError("--rebalance-seconds: experts are placed on --decode-ranks, and there are none");
  if (options.redundantExperts !== undefined && options.decodeRanks === undefined)
    throw new CliError("--redundant-experts: copies are placed on --decode-ranks, and there are none");
  if (options.redundantExperts !== undefined && options.decodeRanks !== undefined)
    for (const { folder } of models) await checkRedundantExperts(folder, options.redundantExperts, options.decodeRanks);
  if (options.apiKeys !== undefined) readKeysFile(options.apiKeys);
  try {
    corsOrigins(options);
  } catch (error) {
    throw new CliError(messageOf(error));
  }
  if (options.gateways !== 0 && options.port) await checkPortFree("127.0.0.1", options.port);
  return models;
}

async function checkRedundantExperts(folder: string, redundant: number, ranks: number): Promise<void> {
  let shape: ExpertShape;
  try {
    shape = await expertShape(folder);
  } catch (error) {
    throw new CliError(`--decode-ranks: ${messageOf(error)}`);
  }
  const most = mostRedundantSlots(shape, ranks);
  if (redundant > most)
    throw new CliError(
      `--redundant-experts: at most ${most}, with which each of ${ranks} ranks has all ${shape.logicalExperts} experts of ${folder}`,
    );
}

function modelsOf({ model }: StackOptions): NamedFolder[] {
  const entries = [model ?? []].flat();
  if (entries.length === 0) return [{ name: basename(embeddedModel()), folder: embeddedModel() }];
  try {
    return parseModelList(entries.join("\n"));
  } catch (error) {
    throw new CliError(`--model: ${messageOf(error)}`);
  }
}

/** Resolves when every process is ready. Throws, with everything stopped, when one does not become so. */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const models = await checkStackOptions(options);
  const natsBinary = await natsServerBinary((what) => options.onEvent?.({ event: "preparing", what }));
  await cleanUpLeftovers();
  const stack = new LocalStack(options, models, natsBinary);
  try {
    await stack.start();
    return stack;
  } catch (error) {
    await stack.stop({ keepLogs: !options.signal?.aborted });
    throw error;
  }
}

class LocalStack implements Stack {
  readonly service = service;
  readonly models: readonly StackModel[];
  readonly failed: Promise<Error>;
  private readonly options: StackOptions;
  private readonly runDir: string;
  private readonly natsFiles: NatsFiles;
  private readonly nats: SupervisedProcess;
  private readonly workers: SupervisedProcess[];
  private readonly gateways: SupervisedProcess[];
  private readonly announced = new Map<string, Announcement>();
  private readonly begunMs = performance.now();
  private readonly startedAt = new Date().toISOString();
  private natsPort: number | undefined;
  private isReady = false;
  private stopped: Promise<void> | undefined;
  /** Why the stack cannot go on; also what ends the waits of the start. */
  private failure: Error | undefined;
  private resolveFailed!: (error: Error) => void;

  constructor(options: StackOptions, models: NamedFolder[], natsBinary: string) {
    this.options = options;
    this.failed = new Promise((resolve) => {
      this.resolveFailed = resolve;
    });
    // Numbered over all models: those of the first begin with 0.
    const workerIds = (["prefill", "decode"] as const).flatMap((role) =>
      models.flatMap((model, at) => {
        const each = (role === "decode" ? options.decodeRanks : undefined) ?? options[role] ?? 1;
        return ids(role, each, at * each).map((worker, rank) => ({ ...worker, model, rank }));
      }),
    );
    this.models = models.map((model) => ({
      ...model,
      workerIds: workerIds.filter((worker) => worker.model === model).map(({ id }) => id),
    }));
    const gatewayIds = ids("gateway", options.gateways ?? 1);
    const busUsers = [
      ...workerIds,
      // Without a gateway of ours the caller acts as one, so its user exists all the same.
      ...ids("gateway", Math.max(1, gatewayIds.length)),
      { id: "cli", role: "cli" as const },
      ...(options.observer ? [{ id: "observer", role: "observer" as const }] : []),
    ];
    this.runDir = createRunDir();
    this.natsFiles = writeNatsFiles(this.runDir, service, busUsers, { monitored: options.observer ?? false });
    const threads = options.threads ?? Math.max(1, Math.floor(availableParallelism() / workerIds.length));
    this.nats = this.supervise({
      name: natsName,
      command: natsBinary,
      // The first start takes any port; a restart must take the same one, which the processes know.
      args: () => ["-c", this.natsFiles.configFile, ...(this.natsPort === undefined ? [] : ["-p", String(this.natsPort)])],
      env: () => ({}),
      logFile: this.logFile(natsName),
    });
    this.workers = workerIds.map(({ id, role, model, rank }) =>
      this.supervise(
        this.nodeProcess(id, role, () => ({
          PELAGIC_WORKER_ID: id,
          PELAGIC_MODEL: model.folder,
          PELAGIC_MODEL_NAME: model.name,
          PELAGIC_THREADS: String(threads),
          ...(options.kvBlocks === undefined ? {} : { PELAGIC_KV_BLOCKS: String(options.kvBlocks) }),
          ...(options.kvDtype === undefined ? {} : { PELAGIC_KV_DTYPE: options.kvDtype }),
          ...(options.backend === undefined ? {} : { PELAGIC_BACKEND: options.backend }),
          ...cardOf(process.env.CUDA_VISIBLE_DEVICES, rank),
          ...(options.weightDtype === undefined ? {} : { PELAGIC_WEIGHT_DTYPE: options.weightDtype }),
          ...(role === "decode" && rankSettings(options, rank)),
          PELAGIC_METRICS_PORT: "0",
          PELAGIC_DRAIN_MS: String(stopBoundsMs.worker - 500),
        })),
      ),
    );
    this.gateways = gatewayIds.map(({ id }, index) =>
      this.supervise(
        this.nodeProcess(id, "gateway", () => ({
          PELAGIC_GATEWAY_ID: id,
          PELAGIC_MODEL: models.map(({ name, folder }) => `${name}=${folder}`).join("\n"),
          PELAGIC_HOST: "127.0.0.1",
          // Also where there is none: what the caller's own environment has is meant for `up`.
          PELAGIC_API_KEYS: options.apiKeys === undefined ? "" : resolve(options.apiKeys),
          PELAGIC_CORS_ORIGINS: options.corsOrigins ?? "",
          PELAGIC_CONSOLE: consoleOf(this.options),
          // A restarted gateway comes back where its users know it.
          PELAGIC_PORT: String(this.announced.get(id)?.port ?? (index === 0 ? (options.port ?? 0) : 0)),
          PELAGIC_METRICS_PORT: String(this.announced.get(id)?.metricsPort ?? 0),
          PELAGIC_DRAIN_MS: String(stopBoundsMs.gateway - 500),
        })),
      ),
    );
  }

  get model(): string {
    return (this.models[0] as StackModel).folder;
  }

  get modelName(): string {
    return (this.models[0] as StackModel).name;
  }

  get baseUrl(): string {
    return `http://127.0.0.1:${this.gatewayAnnouncement().port}`;
  }

  get baseUrls(): string[] {
    return this.gateways.map(({ name }) => `http://127.0.0.1:${this.announced.get(name)?.port}`);
  }

  get adminUrl(): string {
    return `http://127.0.0.1:${this.gatewayAnnouncement().metricsPort}`;
  }

  get consoleUrl(): string | null {
    return consoleOf(this.options) === "on" ? `${this.baseUrl}/console/` : null;
  }

  get natsUrl(): string {
    return `127.0.0.1:${this.natsPort}`;
  }

  get natsMonitorUrl(): string {
    return `http://127.0.0.1:${readNatsMonitorPort(this.natsFiles.portsDir)}`;
  }

  get logsDir(): string {
    return logsOf(this.runDir);
  }

  get processes(): StackProcess[] {
    return this.all().map((child) => ({
      name: child.name,
      pid: child.identity?.pid,
      metricsPort: this.announced.get(child.name)?.metricsPort,
      logFile: child.logFile,
      kill: (signal = "SIGKILL") => child.kill(signal),
    }));
  }

  credentialsFor(role: NatsRole): NatsCredentialsFile {
    const found = this.natsFiles.credentials.find((credentials) => credentials.role === role);
    if (!found) throw new Error(`this stack has no ${role}`);
    return found;
  }

  async start(): Promise<void> {
    const deadlineMs = performance.now() + (this.options.readyTimeoutMs ?? defaultReadyTimeoutMs);
    forgetNatsPort(this.natsFiles.portsDir);
    this.nats.start();
    await this.waitFor(natsName, Math.min(deadlineMs, performance.now() + natsTimeoutMs), async () => {
      this.natsPort = readNatsPort(this.natsFiles.portsDir);
      return this.natsPort === undefined ? "it does not listen" : undefined;
    });
    const others = [...this.workers, ...this.gateways];
    for (const child of others) child.start();
    await Promise.all(others.map((child) => this.waitFor(child.name, deadlineMs, () => this.whyNotReady(child.name))));
    this.isReady = true;
    for (const child of this.all()) child.restarts = true;
    this.record();
  }

  stop(options: { keepLogs?: boolean } = {}): Promise<void> {
    this.stopped ??= this.stopAll(options.keepLogs ?? false);
    return this.stopped;
  }

  killAll(): void {
    for (const child of this.all()) child.kill("SIGKILL");
  }

  private async stopAll(keepLogs: boolean): Promise<void> {
    const stopOne = async (child: SupervisedProcess, boundMs: number) => {
      if (child.identity !== undefined) this.options.onEvent?.({ event: "stopping", process: child.name });
      await child.stop(boundMs);
    };
    await Promise.all(this.gateways.map((gateway) => stopOne(gateway, stopBoundsMs.gateway)));
    await Promise.all(this.workers.map((worker) => stopOne(worker, stopBoundsMs.worker)));
    await stopOne(this.nats, stopBoundsMs.nats);
    removeRunDir(this.runDir, keepLogs);
  }

  private supervise(spec: ProcessSpec): SupervisedProcess {
    const child: SupervisedProcess = new SupervisedProcess(
      spec,
      {
        onStarted: () => {
          this.record();
          this.options.onEvent?.({ event: "started", process: spec.name, pid: child.identity?.pid ?? 0 });
        },
        onDied: (how, restartInMs) => {
          this.record();
          this.options.onEvent?.({ event: "died", process: spec.name, how, restartInMs });
        },
        onGivenUp: (how) => this.fail(spec.name, how),
      },
      this.options.restartPolicy ?? defaultRestartPolicy,
    );
    return child;
  }

  private nodeProcess(id: string, role: ScriptRole, env: () => Record<string, string>): ProcessSpec {
    const script = this.options.scripts?.[role] ?? inTree("dist", "services", role, "main.js");
    return {
      name: id,
      command: process.execPath,
      args: () => [script],
      env: () => ({
        PELAGIC_SERVICE: service,
        PELAGIC_NATS_URL: this.natsUrl,
        PELAGIC_NATS_CREDENTIALS_FILE: this.natsFiles.credentials.find(({ processId }) => processId === id)?.file ?? "",
        PELAGIC_METRICS_HOST: "127.0.0.1",
        PELAGIC_EXIT_WITH_PARENT: "1",
        PELAGIC_LOG_LEVEL: this.options.logLevel ?? "info",
        ...env(),
        ...this.options.env,
      }),
      logFile: this.logFile(id),
      onStdoutLine: (line) => {
        const announcement = parseAnnouncement(line);
        if (!announcement) return;
        this.announced.set(id, announcement);
        this.record();
      },
    };
  }

  private fail(name: string, how: string): void {
    if (this.failure || this.stopped) return;
    const child = this.all().find((one) => one.name === name);
    const reason = lastReason(child?.logTail(20) ?? []);
    const often = this.isReady ? " again and again" : "";
    this.failure = new CliError(`${name} ${how}${often}${reason ? `: ${reason}` : ""} (logs: ${this.logsDir})`);
    // During the start, whoever waits in start() sees it and gives up.
    if (this.isReady) void this.stop({ keepLogs: true }).then(() => this.resolveFailed(this.failure as Error));
  }

  /** Asks until there is no reason left why it is not ready. */
  private async waitFor(name: string, deadlineMs: number, whyNot: () => Promise<string | undefined>): Promise<void> {
    for (;;) {
      if (this.failure) throw this.failure;
      if (this.options.signal?.aborted) throw new CliError("stopped", 130);
      const reason = await whyNot();
      if (reason === undefined) break;
      if (performance.now() >= deadlineMs) throw new CliError(`${name} is not ready in time: ${reason} (logs: ${this.logsDir})`);
      await new Promise((resolve) => setTimeout(resolve, pollMs));
    }
    this.options.onEvent?.({ event: "ready", process: name, afterSeconds: round((performance.now() - this.begunMs) / 1000) });
  }

  private async whyNotReady(name: string): Promise<string | undefined> {
    const port = this.announced.get(name)?.metricsPort;
    if (port === undefined) return "it does not listen";
    try {
      const response = await fetch(`http://127.0.0.1:${port}/ready`, { signal: AbortSignal.timeout(requestTimeoutMs) });
      const body = (await response.json()) as { reason?: string };
      if (!response.ok) return body.reason ?? `/ready says ${response.status}`;
      // It is ready for one model, and is waited for until it is for all.
      return this.gateways.some((gateway) => gateway.name === name) ? await whyModelsNotReady(port) : undefined;
    } catch (error) {
      return messageOf(error);
    }
  }

  private gatewayAnnouncement(): Announcement {
    const announcement = this.gateways[0] && this.announced.get(this.gateways[0].name);
    if (!announcement) throw new Error("this stack has no gateway");
    return announcement;
  }

  private record(): void {
    if (this.stopped) return;
    const gateway = this.gateways[0] && this.announced.get(this.gateways[0].name);
    writeInstance(this.runDir, {
      tree: treeRoot,
      kind: this.options.kind ?? "private",
      supervisor: identifyProcess(process.pid),
      processes: this.all().flatMap((child) => (child.identity ? [{ name: child.name, ...child.identity }] : [])),
      port: gateway?.port ?? null,
      adminPort: gateway?.metricsPort ?? null,
      nats:
        this.natsPort === undefined ? null : { url: this.natsUrl, credentialsFile: this.credentialsFor("cli").file, service: this.service },
      models: this.models.map(({ name, folder }) => ({ name, folder })),
      ready: this.isReady,
      startedAt: this.startedAt,
    });
  }

  private all(): SupervisedProcess[] {
    return [this.nats, ...this.workers, ...this.gateways];
  }

  private logFile(name: string): string {
    return join(this.logsDir, `${name}.log`);
  }
}

async function whyModelsNotReady(adminPort: number): Promise<string | undefined> {
  const response = await fetch(`http://127.0.0.1:${adminPort}/status`, { signal: AbortSignal.timeout(requestTimeoutMs) });
  const { gateway } = (await response.json()) as { gateway?: { models?: { notReady: string | null }[] } };
  return gateway?.models?.find(({ notReady }) => notReady !== null)?.notReady ?? undefined;
}

function rankSettings({ decodeRanks, redundantExperts, rebalanceSeconds }: StackOptions, rank: number): Record<string, string> {
  if (decodeRanks === undefined) return {};
  return {
    PELAGIC_RANK: String(rank),
    PELAGIC_RANK_COUNT: String(decodeRanks),
    ...(rebalanceSeconds === undefined ? {} : { PELAGIC_REBALANCE_SECONDS: String(rebalanceSeconds) }),
    ...(redundantExperts === undefined ? {} : { PELAGIC_REDUNDANT_EXPERTS: String(redundantExperts) }),
  };
}

/** On, since everything here listens on the loopback alone. */
function consoleOf({ env }: StackOptions): string {
  return env?.PELAGIC_CONSOLE || process.env.PELAGIC_CONSOLE || "on";
}

function ids<R extends ScriptRole>(role: R, count: number, first = 0): { id: string; role: R }[] {
  return Array.from({ length: count }, (_, index) => ({ id: `${role}-${first + index}`, role }));
}

/** What a process said last that explains its end: a logged error, or the last line as it is. */
function lastReason(lines: string[]): string {
  for (const line of lines.toReversed()) {
    try {
      const { level, msg, error } = JSON.parse(line) as { level?: number; msg?: string; error?: string };
      if ((level ?? 0) >= 50) return [msg, error?.split("\n", 1)[0]].filter(Boolean).join(": ");
    } catch {
      if (line.trim() !== "") return line.trim();
    }
  }
  return "";
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
