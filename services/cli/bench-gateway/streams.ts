// Many streams at once through the gateway, some of whose readers stall: whether all the others get all of their answer, how evenly its tokens
// come, and what it costs. A few streams by bare NATS at the same time say what of the unevenness is the gateway's.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { CliError } from "../cli-error.ts";
import { cpuSeconds, forgetPeak, residentBytes } from "../process-figures.ts";
import { findOnPath } from "../run-command.ts";
import { inTree } from "../tree.ts";
import { askHttp } from "./http-client.ts";
import { readAnswer } from "./received.ts";
import { type StubStack, stubWorkerId } from "./surroundings.ts";
import type { Workload } from "./workload.ts";

export interface StreamsOptions {
  streams: number;
  /** Readers beside them that stop reading after the first event, and how many of these go on a while later. */
  stalled: number;
  resumed: number;
  resumeAfterMs: number;
  /** Of the stub worker. */
  stepMs: number;
}

export interface StreamsResult {
  /** Of the streams whose readers read. */
  firstMs: number[];
  /** How far each gap between two tokens was from the step. */
  jitterMs: number[];
  /** The same by bare NATS. */
  bareJitterMs: number[];
  /** Streams that did not end with the whole right answer: what was wrong. */
  wrong: string[];
  /** How the streams of stalled readers ended, and how many so. */
  stalledEnds: Record<string, number>;
  gateway: { peakBytes: number; grownBytes: number; cpuSeconds: number };
  seconds: number;
}

const bareStreams = 20;
const timeoutMs = 180_000;
/** Their events are long: they stall soon. */
const stalledRequest = { logprobs: true, top_logprobs: 20 };
/** Of their own answers. */
export const stalledTokens = 4_000;

export async function runStreams({ nats, url, pids }: StubStack, workload: Workload, options: StreamsOptions): Promise<StreamsResult> {
  const before = residentBytes(pids.gateway).now;
  const cpuBefore = cpuSeconds(pids.gateway);
  forgetPeak(pids.gateway);
  const begunMs = performance.now();
  const questions = Array.from({ length: options.streams }, () => workload.next());
  const stalled = options.stalled > 0 ? stalledReaders(url, workload, options) : Promise.resolve({});
  const bare = Promise.all(
    Array.from({ length: bareStreams }, async () => {
      const { seed, prompt } = workload.nextTokens();
      const { tokens, tokenMs } = await nats.ask(stubWorkerId, prompt, seed, workload.answerTokens, timeoutMs);
      if (!workload.areAnswer(seed, tokens)) throw new CliError("bare NATS: a wrong answer");
      return gaps(tokenMs);
    }),
  );
  const raw = await Promise.all(questions.map(({ body }) => askHttp({ url }, body, timeoutMs).catch((error: unknown) => String(error))));
  const [bareGaps, stalledEnds] = await Promise.all([bare, stalled]);
  const seconds = (performance.now() - begunMs) / 1000;
  const peakBytes = residentBytes(pids.gateway).peak;
  const result: StreamsResult = {
    firstMs: [],
    jitterMs: [],
    bareJitterMs: bareGaps.flat().map((gap) => Math.abs(gap - options.stepMs)),
    wrong: [],
    stalledEnds,
    gateway: { peakBytes, grownBytes: peakBytes - before, cpuSeconds: cpuSeconds(pids.gateway) - cpuBefore },
    seconds,
  };
  raw.forEach((answer, i) => {
    if (typeof answer === "string") {
      result.wrong.push(answer);
      return;
    }
    const { text, finishReason, pieceMs, done } = readAnswer(answer.body, answer.arrivals);
    if (!done || finishReason !== "length" || !workload.isAnswer(questions[i]?.seed ?? 0, text)) {
      result.wrong.push(`${finishReason ?? "no end"}: ${JSON.stringify(text.slice(0, 100))}`);
      return;
    }
    result.firstMs.push((pieceMs[0] as number) - answer.sentMs);
    for (const gap of gaps(pieceMs)) result.jitterMs.push(Math.abs(gap - options.stepMs));
  });
  return result;
}

/** What came together came once. */
function gaps(timesMs: readonly number[]): number[] {
  const times = [...new Set(timesMs)];
  return times.slice(1).map((time, i) => time - (times[i] as number));
}

interface StalledEnd {
  index: number;
  outcome: string;
  body?: string;
}

/** Throws where one of those that read on did not get its whole answer. */
async function stalledReaders(url: string, workload: Workload, options: StreamsOptions): Promise<Record<string, number>> {
  const python = findOnPath("python3");
  if (python === undefined) throw new CliError("python3 is not installed: it is the readers that stall");
  const args = [
    "--resume",
    String(options.resumed),
    "--after",
    String(options.resumeAfterMs / 1000),
    "--timeout",
    String(timeoutMs / 1000),
  ];
  const script = inTree("services", "cli", "bench-gateway", "stalled-readers.py");
  const child = spawn(python, [script, url, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  const questions = Array.from({ length: options.stalled }, (_, i) =>
    workload.next(i < options.resumed ? stalledRequest : { ...stalledRequest, max_tokens: stalledTokens }),
  );
  child.stdin.end(questions.map(({ body }) => `${body}\n`).join(""));
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new CliError(`the stalled readers ended with ${code}`);
  const ends: Record<string, number> = {};
  for (const line of Buffer.concat(chunks).toString().trim().split("\n")) {
    const { index, outcome, body } = JSON.parse(line) as StalledEnd;
    ends[outcome] = (ends[outcome] ?? 0) + 1;
    if (body === undefined) continue;
    const { text, done } = readAnswer(Buffer.from(body, "base64"), []);
    if (!done || !workload.isAnswer(questions[index]?.seed ?? 0, text)) throw new CliError("a reader that had stalled got a wrong answer");
  }
  return ends;
}
