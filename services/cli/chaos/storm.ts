// The abort storm: hundreds of streams dropped at once while their blocks are on their way. Whoever comes next must not notice.
import { setMaxListeners } from "node:events";
import type { Random } from "../../lib/simulator/random.ts";
import type { Stack } from "../stack/stack.ts";
import { difference, type Answer } from "./answer.ts";
import { ask } from "./client.ts";
import type { BusObserver } from "./observer.ts";
import type { PoolRequest } from "./pool.ts";
import { sleep } from "./striker.ts";
import { round } from "./tally.ts";

export interface StormReport {
  streams: number;
  /** Dispatched when they were dropped, with transfers under way. */
  dispatched: number;
  framesBefore: number;
  /** Of new requests sent at the same moment, to their ends. */
  answerSeconds: number[];
  /** Until every block was free or cached again. */
  quietSeconds: number | null;
  violations: string[];
}

const stormStreams = 500;
/** As many as two decode workers hold and let wait, about; the others wait at the gateways, and are dropped there. */
const dispatchedWanted = 100;
const promptTokens = 700;
/** So many were dispatched by then, or the machine is too slow for more. */
const dispatchBoundMs = 45_000;
const framesWanted = 20;

export async function storm(
  stack: Stack,
  observer: BusObserver,
  random: Random,
  options: {
    vocabSize: number;
    answerBoundMs: number;
    probes: { request: PoolRequest; right: Answer }[];
    waitUntilQuiet: () => Promise<{ leak: string | null; seconds: number }>;
  },
): Promise<StormReport> {
  const report: StormReport = {
    streams: stormStreams,
    dispatched: 0,
    framesBefore: 0,
    answerSeconds: [],
    quietSeconds: null,
    violations: [],
  };
  const drop = new AbortController();
  setMaxListeners(stormStreams, drop.signal);
  const frames = () => (observer.counts["frame-k"] ?? 0) + (observer.counts["first-frame"] ?? 0);
  const framesAtBegin = frames();
  const dispatched = new Set<string>();
  observer.onDispatch = (requestId) => {
    if (requestId.startsWith("storm-")) dispatched.add(requestId);
  };
  const streams = Array.from({ length: stormStreams }, (_, i) =>
    ask({
      baseUrl: stack.baseUrls[i % stack.baseUrls.length] as string,
      requestId: `storm-${i}`,
      body: {
        model: stack.modelName,
        // Unlike any other: each must be prefilled and moved.
        prompt: Array.from({ length: promptTokens }, () => random.between(0, options.vocabSize - 1)),
        max_tokens: 64,
        ignore_eos: true,
      },
      stream: true,
      boundMs: 90_000,
      signal: drop.signal,
    }),
  );
  const dispatchEnd = performance.now() + dispatchBoundMs;
  while ((dispatched.size < dispatchedWanted || frames() - framesAtBegin < framesWanted) && performance.now() < dispatchEnd) await sleep(5);
  report.dispatched = dispatched.size;
  report.framesBefore = frames() - framesAtBegin;
  drop.abort();
  const probes = options.probes.map(async ({ request, right }, i) => {
    const outcome = await ask({
      baseUrl: stack.baseUrls[i % stack.baseUrls.length] as string,
      requestId: `after-storm-${i}`,
      body: request.body,
      stream: true,
      boundMs: 30_000,
    });
    report.answerSeconds.push(round(outcome.seconds));
    const wrong = outcome.ending.kind === "answered" ? difference(right, outcome.answer, false) : JSON.stringify(outcome.ending);
    if (wrong !== null) report.violations.push(`after the storm: ${wrong}`);
    else if (outcome.seconds * 1000 > options.answerBoundMs) report.violations.push(`a new request took ${round(outcome.seconds)} s`);
  });
  await Promise.all(probes);
  await Promise.all(streams);
  observer.onDispatch = () => {};
  const { leak, seconds } = await options.waitUntilQuiet();
  if (leak !== null) report.violations.push(`after the storm: ${leak}`);
  else report.quietSeconds = round(seconds);
  if (report.dispatched < dispatchedWanted) report.violations.push(`only ${report.dispatched} streams were dispatched: no storm`);
  return report;
}
