// The life of a process: configuration, logger and registry in; a stop that drains within a bound; and an end, always.
//   await runProcess({ name: "decode", config: DecodeConfig, main: async ({ config, log, metrics, onStop }) => { ... announce({...}) } })
import { writeSync } from "node:fs";
import type { z } from "zod";
import { ConfigError, loadConfig, type processFields } from "./config.ts";
import { createLog, type ProcessLog } from "./log.ts";
import { createRegistry, type Registry } from "./metrics.ts";

export const exitCodes = { failed: 1, configuration: 2 } as const;

export interface ProcessContext<C> {
  name: string;
  config: C;
  log: ProcessLog;
  metrics: Registry;
  /** Adds a step to the stop. Steps run one after another, the last added first; what they take together is bounded by config.drainMs. */
  onStop(step: () => void | Promise<void>): void;
  /** Aborted when a stop begins, before its first step. */
  stopping: AbortSignal;
  /** Begins the stop, as SIGTERM does. */
  stop(reason: string): void;
  /** Ends the process at once with exit code 1: for what it cannot go on without. */
  fail(error: unknown): never;
}

export interface ProcessDefinition<S extends z.ZodObject<typeof processFields>> {
  name: string;
  config: S;
  /** Starts everything and returns; what it started keeps the process alive. */
  main(context: ProcessContext<z.output<S>>): Promise<void>;
}

/** What a child tells its supervisor: one line of JSON on stdout. */
export interface Announcement {
  event: "listening";
  /** Of the user's traffic; only the gateway has one. */
  port?: number;
  metricsPort: number;
}

/** Called once the ports are open. Readiness is asked for at /ready, not announced. */
export function announce(announcement: Omit<Announcement, "event">): void {
  try {
    writeSync(1, `${JSON.stringify({ event: "listening", ...announcement })}\n`);
  } catch {
    // Nobody reads stdout: then nobody waits for the line either.
  }
}

/** The announcement in a line of a child's stdout, if it is one. */
export function parseAnnouncement(line: string): Announcement | undefined {
  if (!line.startsWith('{"event":"listening"')) return undefined;
  try {
    return JSON.parse(line) as Announcement;
  } catch {
    return undefined;
  }
}

export async function runProcess<S extends z.ZodObject<typeof processFields>>(definition: ProcessDefinition<S>): Promise<void> {
  let config: z.output<S>;
  try {
    config = loadConfig(definition.config, { env: process.env, argv: process.argv.slice(2) });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`${definition.name}: ${error.message}\n`);
    process.exit(exitCodes.configuration);
  }
  const log = createLog({ name: definition.name, level: config.logLevel });
  const fail = (error: unknown): never => {
    log.error({ error: describe(error) }, "process failed");
    process.exit(exitCodes.failed);
  };
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  if (config.exitWithParent) endWithParent();

  const steps: (() => void | Promise<void>)[] = [];
  const stopping = new AbortController();
  const stop = (reason: string): void => {
    if (stopping.signal.aborted) return;
    log.info({ reason }, "stopping");
    setTimeout(() => {
      log.warn({ drainMs: config.drainMs }, "did not stop in time");
      process.exit(exitCodes.failed);
    }, config.drainMs);
    stopping.abort();
    void runSteps(steps, log).then(() => {
      log.info({}, "stopped");
      process.exit(0);
    });
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (stopping.signal.aborted) process.exit(exitCodes.failed);
      stop(signal);
    });
  }

  try {
    await definition.main({
      name: definition.name,
      config,
      log,
      metrics: createRegistry(),
      onStop: (step) => steps.push(step),
      stopping: stopping.signal,
      stop,
      fail,
    });
  } catch (error) {
    // A stop in the middle of the start makes the start fail: that is no failure of its own.
    if (stopping.signal.aborted) return;
    if (error instanceof ConfigError) {
      log.error({}, error.message);
      process.exit(exitCodes.configuration);
    }
    fail(error);
  }
}

async function runSteps(steps: (() => void | Promise<void>)[], log: ProcessLog): Promise<void> {
  for (const step of steps.reverse()) {
    try {
      await step();
    } catch (error) {
      log.error({ error: describe(error) }, "a step of the stop failed");
    }
  }
}

/** The supervisor holds the other end of our stdin, and the kernel closes it however the supervisor ends. */
function endWithParent(): void {
  // Nothing is left to drain to, and an exit handler that hangs would leave an orphan: hence not process.exit.
  const end = () => process.kill(process.pid, "SIGKILL");
  process.stdin.on("end", end);
  process.stdin.on("close", end);
  process.stdin.on("error", end);
  process.stdin.resume();
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
