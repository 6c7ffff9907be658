// ./pelagic up: prepares what is missing, starts a stack, asks it one real question through HTTP, and keeps it running.
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { InvalidArgumentError, Option, type Command } from "commander";
import { type KvDtype, kvDtypes } from "../lib/contracts/frame.ts";
import { type Backend, backends, type WeightDtype, weightDtypes } from "../lib/engine/native.ts";
import { within } from "../lib/runtime/within.ts";
import { askQuestion, requestBody, type Answer } from "./chat-client.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { prepare } from "./prepare.ts";
import { embeddedModel } from "./stack/model-folder.ts";
import { createProgress, progressMode, type Progress } from "./stack/progress.ts";
import { checkStackOptions, startStack, type Stack, type StackEvent } from "./stack/stack.ts";
import { formatSeconds } from "./terminal.ts";
import { inTree } from "./tree.ts";

export const firstQuestion = "What is 127 + 536?";
const firstAnswer = /\b663\b/;
const answerTimeoutMs = 120_000;
const defaultPort = 8000;

interface UpOptions {
  port: number;
  prefill: number;
  decode: number;
  decodeRanks?: number;
  redundantExperts?: number;
  rebalanceSeconds?: number;
  model?: string[];
  detach?: boolean;
  json?: boolean;
  threads?: number;
  kvBlocks?: number;
  kvDtype?: KvDtype;
  backend?: Backend;
  weightDtype?: WeightDtype;
  apiKeys?: string;
  corsOrigins?: string;
}

/** What the running stack tells its user, and with --json the last event of the start. */
interface UpReport {
  event: "up";
  address: string;
  adminAddress: string;
  /** Null where it is off. */
  console: string | null;
  model: string;
  /** All that are served, the one that was asked first. */
  models: string[];
  question: string;
  /** Null where the gateway wants an API key and there is none to ask with. */
  answer: string | null;
  ttftSeconds: number | null;
  /** Null where nobody knows the right answer. */
  right: boolean | null;
  curl: string;
  logs: string;
}

/** From a detached supervisor to the command that started it. */
type DetachedMessage =
  | { kind: "event"; event: StackEvent }
  | { kind: "report"; report: UpReport }
  | { kind: "failed"; message: string; exitCode: number };

export function register(program: Command): void {
  program
    .command("up")
    .description("start NATS, the workers and the gateway on this machine, and ask them one question")
    .option("--port <port>", "the gateway's port on 127.0.0.1", portNumber, defaultPort)
    .option("--prefill <n>", "prefill workers of each model", count(0, maxWorkers), 1)
    .option("--decode <n>", "decode workers of each model", count(1, maxWorkers), 1)
    .addOption(
      new Option("--decode-ranks <n>", "decode workers of each model that share its experts: each holds a part of them")
        .argParser(count(1, maxWorkers))
        .conflicts("decode"),
    )
    .option("--redundant-experts <n>", "with --decode-ranks: copies of experts beside one of each", count(0, maxRedundantExperts))
    .option(
      "--rebalance-seconds <n>",
      "with --decode-ranks: how often experts are placed anew by their load (default: 60); 0: never",
      count(0, 86_400),
    )
    .option(
      "--model <dir>",
      "a Hugging Face model folder, or NAME=DIR; again for each further model (default: the one in models/)",
      (dir: string, before: string[] = []) => [...before, dir],
    )
    .option("--threads <n>", "compute threads of each worker (default: the cores, shared out)", count(1, maxThreads))
    .option("--kv-blocks <n>", "KV blocks of 64 tokens in each worker", count(4))
    .addOption(new Option("--kv-dtype <dtype>", "type of the cached latents; fp8 with --backend cuda, float32 without").choices(kvDtypes))
    .addOption(
      new Option("--backend <backend>", "what the workers compute on; cuda needs an H100 or H200 (kernels/cuda/README.md)").choices(
        backends,
      ),
    )
    .addOption(
      new Option("--weight-dtype <dtype>", "with --backend cuda: type of the weights of projections and experts; default bfloat16").choices(
        weightDtypes,
      ),
    )
    .option("--api-keys <file>", "answer only those whose key is in it (./pelagic keys; default: PELAGIC_API_KEYS, or everyone)")
    .option("--cors-origins <origins>", "web pages that may ask from a browser, comma-separated (default: PELAGIC_CORS_ORIGINS, or none)")
    .option("--detach", "leave it running in the background; ./pelagic down stops it")
    .option("--json", "one JSON event a line on stdout")
    .addHelpText(
      "after",
      "\nExample:\n  ./pelagic up --port 8001 --decode 2 --detach\n  ./pelagic up --model small=models/plankton --model DIR",
    )
    .action((given: UpOptions) => {
      const apiKeys = given.apiKeys ?? (process.env.PELAGIC_API_KEYS || undefined);
      const corsOrigins = given.corsOrigins ?? (process.env.PELAGIC_CORS_ORIGINS || undefined);
      const cuda = given.backend === "cuda";
      if (given.kvDtype === (cuda ? "float32" : "fp8"))
        throw new CliError(`--kv-dtype ${given.kvDtype} needs --backend ${cuda ? "cpu" : "cuda"}`);
      if (given.weightDtype !== undefined && !cuda) throw new CliError("--weight-dtype needs --backend cuda");
      const options = { ...given, ...(apiKeys !== undefined && { apiKeys }), ...(corsOrigins !== undefined && { corsOrigins }) };
      return options.detach ? upDetached(options) : upHere(options);
    });
}

async function upHere(options: UpOptions): Promise<void> {
  // The detached supervisor has a channel to whoever started it, and no terminal.
  const detached = process.send !== undefined;
  const progress = detached ? channelProgress() : createProgress(progressMode(options));
  let stack: Stack | undefined;
  const interrupt = onInterrupt(() => stack?.killAll());
  try {
    await checkStackOptions(options);
    await prepare(progress);
    stack = await startStack({ ...options, kind: "service", onEvent: (event) => progress.onEvent(event), signal: interrupt });
    const report = await askFirstQuestion(stack, options, interrupt);
    if (report.right === false) {
      throw new CliError(
        `a wrong answer to ${JSON.stringify(report.question)}: ${JSON.stringify(report.answer)}, not 663 (logs: ${stack.logsDir})`,
      );
    }
    progress.end();
    if (detached) sendToStarter({ kind: "report", report });
    else printReport(report, options);
  } catch (error) {
    progress.end();
    await stack?.stop({ keepLogs: !interrupt.aborted });
    const exitCode = error instanceof CliError ? error.exitCode : 1;
    if (detached) sendToStarter({ kind: "failed", message: messageOf(error), exitCode });
    if (interrupt.aborted) process.exit(interruptedExitCode);
    throw error;
  }
  const failure = await Promise.race([stack.failed, aborted(interrupt)]);
  progress.end();
  await stack.stop();
  if (failure) throw failure;
  if (!options.json && !detached) process.stderr.write("stopped\n");
  process.exit(0);
}

/** The same command in a session of its own, followed until it is up. */
async function upDetached(options: UpOptions): Promise<void> {
  const progress = createProgress(progressMode(options));
  // Here, where its progress can be seen; the supervisor finds it done.
  await checkStackOptions(options);
  await prepare(progress);
  mkdirSync(inTree(".cache"), { recursive: true });
  const log = openSync(inTree(".cache", "supervisor.log"), "a", 0o600);
  const args = process.argv.slice(2).filter((argument) => argument !== "--detach");
  const child = spawn(process.execPath, [fileURLToPath(new URL("main.js", import.meta.url)), ...args], {
    detached: true,
    stdio: ["ignore", log, log, "ipc"],
  });
  closeSync(log);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  const last = await new Promise<DetachedMessage>((resolve) => {
    child.on("message", (message) => {
      const received = message as DetachedMessage;
      if (received.kind === "event") progress.onEvent(received.event);
      else resolve(received);
    });
    child.on("exit", () =>
      resolve({
        kind: "failed",
        message: `the supervisor ended before everything was up (${inTree(".cache", "supervisor.log")})`,
        exitCode: 1,
      }),
    );
  });
  progress.end();
  if (last.kind === "report") {
    child.disconnect();
    child.unref();
    printReport(last.report, options);
    process.exit(0);
  }
  if (last.kind === "failed") throw new CliError(last.message, last.exitCode);
}

async function askFirstQuestion(stack: Stack, options: UpOptions, interrupt: AbortSignal): Promise<UpReport> {
  let answer: Answer | null = null;
  const apiKey = process.env.PELAGIC_API_KEY || undefined;
  try {
    if (options.apiKeys === undefined || apiKey !== undefined)
      answer = await within(answerTimeoutMs, interrupt, (signal) =>
        askQuestion({
          baseUrl: stack.baseUrl,
          apiKey,
          model: stack.modelName,
          text: firstQuestion,
          thinking: true,
          temperature: 0,
          maxTokens: 512,
          signal,
        }),
      );
  } catch (error) {
    throw new CliError(`everything is up, but the first question failed: ${messageOf(error)} (logs: ${stack.logsDir})`);
  }
  // Another model may not know, or may take more tokens: that an answer came in time is all that can be asked of it.
  const known = options.model === undefined || stack.model === embeddedModel();
  return {
    event: "up",
    address: stack.baseUrl,
    adminAddress: stack.adminUrl,
    console: stack.consoleUrl,
    model: stack.modelName,
    models: stack.models.map(({ name }) => name),
    question: firstQuestion,
    answer: answer?.content.trim() ?? null,
    ttftSeconds: answer && Math.round(answer.ttftSeconds * 1e4) / 1e4,
    right: known && answer ? firstAnswer.test(answer.content) : null,
    curl: curlLine(stack, options.apiKeys !== undefined),
    logs: stack.logsDir,
  };
}

function curlLine(stack: Stack, keyed: boolean): string {
  const body = JSON.stringify(requestBody({ model: stack.modelName, text: firstQuestion, thinking: true }));
  const key = keyed ? ' -H "authorization: Bearer $PELAGIC_API_KEY"' : "";
  return `curl -N ${stack.baseUrl}/v1/chat/completions${key} -H 'content-type: application/json' -d '${body.replaceAll("'", "'\\''")}'`;
}

function printReport(report: UpReport, options: UpOptions): void {
  if (options.json) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  process.stdout.write(
    [
      "",
      ...(report.answer === null || report.ttftSeconds === null
        ? ["  Not asked anything: it wants an API key, and PELAGIC_API_KEY has none (./pelagic keys create NAME)."]
        : [`  ${report.question}`, `  ${report.answer}   (first token after ${formatSeconds(report.ttftSeconds)})`]),
      "",
      `  address  ${report.address}   ${report.models.length === 1 ? "model" : "models"} ${report.models.join(", ")}`,
      ...(report.console === null ? [] : [`  console  ${report.console}`]),
      `  logs     ${report.logs}`,
      `  try      ${report.curl}`,
      "",
      options.detach ? "  It runs in the background: ./pelagic down stops it." : "  Ctrl-C stops it.",
      "",
    ].join("\n"),
  );
}

function channelProgress(): Progress {
  return {
    onEvent: (event) => sendToStarter({ kind: "event", event }),
    step: (what) => sendToStarter({ kind: "event", event: { event: "preparing", what } }),
    detail: () => undefined,
    end: () => undefined,
  };
}

/** Whoever started us may be gone by now, and that is no reason to stop. */
function sendToStarter(message: DetachedMessage): void {
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
}

function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}

export function portNumber(text: string): number {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 0 || port > 65535) throw new InvalidArgumentError("a port from 0 (any free one) to 65535");
  return port;
}

/** One machine: a mistyped number must not start ten thousand processes. */
const maxWorkers = 64;
const maxRedundantExperts = 4096;
/** The engine's own bound. */
export const maxThreads = 1024;

export function count(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isInteger(value) || value < least)
      throw new InvalidArgumentError(`a whole number, at least ${least}`);
    if (value > most) throw new InvalidArgumentError(`at most ${most}`);
    return value;
  };
}

export function number(least: number, most = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= least && value <= most)) {
      throw new InvalidArgumentError(
        most === Number.POSITIVE_INFINITY ? `a number, at least ${least}` : `a number from ${least} to ${most}`,
      );
    }
    return value;
  };
}
