// ./pelagic load: an honest load test of any OpenAI-compatible server; of the running instance unless told otherwise.
import { readFileSync, writeFileSync } from "node:fs";
import { type Command, Option } from "commander";
import { arrivalKinds, type ArrivalKind } from "../../loadtest/arrivals.ts";
import type { Endpoint, Target } from "../../loadtest/client.ts";
import type { LoadPlan, Progress } from "../../loadtest/generator.ts";
import { htmlReport } from "../../loadtest/html.ts";
import { closedLoop, openLoop, traceLoop } from "../../loadtest/plan.ts";
import { compareReports, formatReport, type LoadReport } from "../../loadtest/report.ts";
import { LoadError, runKnee, runLoad } from "../../loadtest/run.ts";
import { readTrace, TraceError } from "../../loadtest/trace.ts";
import { within } from "../lib/runtime/within.ts";
import { keyFor } from "./api-key.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { runningInstance } from "./instances.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { isTerminal } from "./terminal.ts";
import { count, number } from "./up.ts";

/** Unless told otherwise. */
const closedLoopSessions = 100;

interface LoadOptions {
  baseUrl?: string;
  model?: string;
  endpoint: Endpoint;
  apiKey?: string;
  header: string[];
  rate: number;
  endRate?: number;
  arrivals: ArrivalKind;
  burstiness: number;
  duration: number;
  clients?: number;
  requests?: number;
  trace?: string;
  timeScale: number;
  lengthScale: number;
  promptTokens: number;
  outputTokens: number;
  spread: number;
  shared: number;
  turns: number;
  think: number;
  cancel: number;
  ignoreEos: boolean;
  timeout: number;
  sloTtft?: number;
  sloTpot?: number;
  sloHeaders?: boolean;
  knee?: number[];
  seed: number;
  out?: string;
  html?: string;
  json?: boolean;
  compare?: string[];
}

export function register(program: Command): void {
  program
    .command("load")
    .description("offer load to an OpenAI-compatible server and say what it carried")
    .option("--base-url <url>", "such as http://host:8000/v1 (default: the instance that runs here)")
    .option("--model <name>", "as the server calls it (default: the first that it lists)")
    .addOption(new Option("--endpoint <kind>", "which API").choices(["chat", "completions"]).default("chat"))
    .option("--api-key <key>", "sent as a bearer token (default: OPENAI_API_KEY; for the instance that runs here PELAGIC_API_KEY)")
    .option("--header <name: value>", "a further header; may be given again", append, [])
    .optionsGroup("When requests are sent:")
    .option("--rate <r>", "requests per second, whatever becomes of earlier ones", number(1e-3), 1)
    .option("--end-rate <r>", "the rate at the end, reached in a straight line", number(0))
    .addOption(new Option("--arrivals <kind>", "the gaps between them").choices([...arrivalKinds]).default("poisson"))
    .option("--burstiness <shape>", "of gamma's gaps: 1 is Poisson, less is burstier", number(0.01), 0.5)
    .option("--duration <seconds>", "how long requests are sent", number(0.1), 30)
    .option("--clients <n>", "a closed loop instead: so many clients, each with its next request after its last", count(1))
    .option("--requests <n>", "sessions in a closed loop (default: 100), or at most so many of a trace (default: all)", count(1))
    .option("--trace <file>", "a trace instead: Mooncake's JSON lines, Azure's or BurstGPT's CSV, perhaps gzipped")
    .option("--time-scale <x>", "2: the trace twice as slow", number(1e-6), 1)
    .option("--length-scale <x>", "0.5: its prompts and answers half as long", number(1e-6), 1)
    .optionsGroup("What is sent:")
    .option("--prompt-tokens <n>", "length of prompts", count(1), 256)
    .option("--output-tokens <n>", "length of answers", count(1), 64)
    .option("--spread <share>", "lengths lie evenly within this share around those", number(0, 1), 0)
    .option("--shared <share>", "so many prompts have the same first half", number(0, 1), 0)
    .option("--turns <n>", "turns of each conversation", count(1), 1)
    .option("--think <seconds>", "between an answer and the next turn", number(0), 1)
    .option("--cancel <share>", "so many are left in mid-answer", number(0, 1), 0)
    .option("--no-ignore-eos", "let the model end its answers (for servers that do not know ignore_eos)")
    .option("--timeout <seconds>", "a request that takes longer has failed", number(0.1), 300)
    .option("--seed <n>", "the same seed is the same load", count(0), 1)
    .optionsGroup("What is asked of the server:")
    .option("--slo-ttft <seconds>", "a good request's first token comes within this time of its scheduled sending", number(0))
    .option("--slo-tpot <seconds>", "and its further tokens within this each, in the mean", number(0))
    .option("--slo-headers", "say so to the server, in x-slo-ttft-ms and x-slo-tpot-ms of each request")
    .option("--knee <attainments...>", "search the highest rate at which such a share of all requests is good, such as 0.9 0.99", shares)
    .optionsGroup("Reports:")
    .option("--out <file>", "write the report, every request included, as JSON")
    .option("--html <file>", "write it as one HTML file with plots")
    .option("--json", "print the report as JSON, without the single requests")
    .option("--compare <files...>", "no load: print two reports beside each other")
    .addHelpText(
      "after",
      `
Examples:
  ./pelagic load --rate 4 --duration 60 --html report.html
  ./pelagic load --knee 0.9 0.99 --slo-ttft 1 --slo-tpot 0.05 --duration 20
  ./pelagic load --base-url http://host:8000/v1 --trace conversation.jsonl --time-scale 2 --length-scale 0.02
  ./pelagic load --compare before.json after.json

Exit code 1 where the figures are not to be used, because the generator was late, or no request succeeded.`,
    )
    .action(load);
}

function append(value: string, before: string[]): string[] {
  return [...before, value];
}

function shares(value: string, before: number[] = []): number[] {
  return [...before, number(0.01, 1)(value)];
}

async function load(options: LoadOptions): Promise<void> {
  if (options.compare !== undefined) return compare(options.compare);
  const signal = onInterrupt(() => undefined);
  const shown = isTerminal(process.stderr);
  const onProgress = ({ seconds, sent, inFlight, ended, failed }: Progress) => {
    const line = `${seconds.toFixed(0)} s: ${sent} sent, ${inFlight} in flight, ${ended} ended, ${failed} failed`;
    if (shown) process.stderr.write(`\r\u001b[K${line}`);
    else if (Math.round(seconds) % 10 === 0) process.stderr.write(`${line}\n`);
  };
  const onNote = (text: string) => process.stderr.write(`${shown ? "\r\u001b[K" : ""}${text}\n`);
  const slo = { ttftSeconds: options.sloTtft ?? Number.POSITIVE_INFINITY, tpotSeconds: options.sloTpot ?? Number.POSITIVE_INFINITY };
  let report: LoadReport;
  try {
    const target = await targetOf(options, signal);
    const { apiKey: _, header: __, ...told } = options;
    const run = { target, slo, options: { ...told }, signal, onProgress, onNote };
    if (options.knee === undefined) report = await runLoad(planOf(options, onNote), run);
    else {
      if (options.clients !== undefined || options.trace !== undefined)
        throw new CliError("--knee needs rates: not with --clients or --trace");
      if (options.sloTtft === undefined && options.sloTpot === undefined)
        throw new CliError("--knee: say with --slo-ttft and --slo-tpot what is good");
      report = await runKnee((rate) => planOf({ ...options, rate, endRate: rate }, onNote), options.rate, options.knee, run);
    }
  } catch (error) {
    if (signal.aborted) throw new CliError("cancelled", interruptedExitCode);
    if (error instanceof LoadError || error instanceof TraceError) throw new CliError(error.message);
    throw error;
  } finally {
    if (shown) process.stderr.write("\r\u001b[K");
  }
  if (options.out !== undefined) write(options.out, `${JSON.stringify(report)}\n`);
  if (options.html !== undefined) write(options.html, htmlReport(report));
  if (options.json) {
    const { records: _, ...rest } = report;
    process.stdout.write(`${JSON.stringify(rest)}\n`);
  } else process.stdout.write(`${formatReport(report)}\n`);
  if (signal.aborted) throw new CliError("stopped before the end: the figures are of what was sent until then", interruptedExitCode);
  if (report.summary.refused !== null) throw new CliError(report.summary.refused);
  if (report.summary.byOutcome.ok === 0) throw new CliError(`no request succeeded: ${firstError(report)}`);
}

function planOf(options: LoadOptions, onNote: (text: string) => void): LoadPlan {
  const { seed, promptTokens, outputTokens, spread, turns } = options;
  const common = { thinkSeconds: options.think, cancelShare: options.cancel, seed };
  const lengths = { promptTokens, outputTokens, spread, turns, sharedShare: options.shared };
  if (options.trace !== undefined) {
    const requests = readTrace(options.trace, { time: options.timeScale, length: options.lengthScale });
    const sent = requests.slice(0, options.requests);
    onNote(`${sent.length} of the trace's ${requests.length} requests are sent`);
    return traceLoop(sent, common);
  }
  if (options.clients !== undefined) return closedLoop(options.clients, options.requests ?? closedLoopSessions, { ...common, lengths });
  const { arrivals: kind, rate, endRate, duration, burstiness } = options;
  const arrivals = { kind, ratePerSecond: rate, endRatePerSecond: endRate ?? rate, durationSeconds: duration, burstiness };
  return openLoop(arrivals, { ...common, lengths });
}

async function targetOf(options: LoadOptions, signal: AbortSignal): Promise<Target> {
  let { baseUrl, model } = options;
  if (baseUrl === undefined) {
    const port = runningInstance()?.port;
    if (port == null) throw new CliError("nothing is running here: ./pelagic up starts it, or name a server with --base-url");
    baseUrl = `http://127.0.0.1:${port}/v1`;
  }
  if (!/^https?:\/\//.test(baseUrl) || !URL.canParse(baseUrl)) throw new CliError(`--base-url: ${baseUrl} is no http or https address`);
  // Reports quote it.
  if (new URL(baseUrl).username !== "" || new URL(baseUrl).password !== "")
    throw new CliError("--base-url: no name and password in the address; send them with --header");
  const headers: Record<string, string> = {};
  if (options.sloHeaders) {
    if (options.sloTtft === undefined && options.sloTpot === undefined)
      throw new CliError("--slo-headers: say with --slo-ttft and --slo-tpot what is good");
    const milliseconds = (seconds: number) => String(Math.round(seconds * 1e6) / 1e3);
    if (options.sloTtft !== undefined) headers["x-slo-ttft-ms"] = milliseconds(options.sloTtft);
    if (options.sloTpot !== undefined) headers["x-slo-tpot-ms"] = milliseconds(options.sloTpot);
  }
  const key = options.apiKey ?? keyFor(options.baseUrl, process.env);
  if (key !== undefined && key !== "") headers.authorization = `Bearer ${key}`;
  for (const header of options.header) {
    const at = header.indexOf(":");
    if (at < 1) throw new CliError(`--header: ${header} has no name and colon`);
    headers[header.slice(0, at).trim().toLowerCase()] = header.slice(at + 1).trim();
  }
  if (model === undefined) {
    const url = `${baseUrl.replace(/\/$/, "")}/models`;
    let listed: { data?: { id?: string }[] };
    try {
      listed = await within(10_000, signal, async (bounded) => {
        const response = await fetch(url, { headers, signal: bounded });
        if (!response.ok) throw new Error(`status ${response.status}`);
        return (await response.json()) as typeof listed;
      });
    } catch (error) {
      throw new CliError(`${url} lists no models (${messageOf(error)}): name one with --model`);
    }
    model = listed.data?.[0]?.id;
    if (model === undefined) throw new CliError(`${url} lists no models: name one with --model`);
  }
  return { baseUrl, model, endpoint: options.endpoint, headers, timeoutMs: options.timeout * 1000, ignoreEos: options.ignoreEos };
}

function compare(files: string[]): void {
  if (files.length !== 2) throw new CliError("--compare: two reports, as --out writes them", 2);
  const [before, after] = files.map((file) => {
    let report: LoadReport | null;
    try {
      report = JSON.parse(readFileSync(file, "utf8"));
    } catch (error) {
      throw new CliError(`${file}: ${messageOf(error)}`);
    }
    if (report?.kind !== "pelagic-load") throw new CliError(`${file}: no report of ./pelagic load`);
    if (report.version !== 3) throw new CliError(`${file}: a report of version ${report.version}, which this one cannot read`);
    return report;
  });
  process.stdout.write(`${compareReports(before as LoadReport, after as LoadReport)}\n`);
}

function write(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch (error) {
    throw new CliError(`${file}: ${messageOf(error)}`);
  }
}

function firstError({ records }: LoadReport): string {
  return records.find(({ error }) => error !== null)?.error ?? "all were left";
}
