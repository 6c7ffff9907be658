// One run of chaos: a stack of its own, its undisturbed answers, then load and strikes with looks for leaks in between, a storm, a report.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../lib/simulator/random.ts";
import { CliError } from "../cli-error.ts";
import { startStack, type Stack } from "../stack/stack.ts";
import type { RestartPolicy } from "../stack/supervised-process.ts";
import type { Answer } from "./answer.ts";
import { ask } from "./client.ts";
import { Load } from "./load.ts";
import { BusObserver } from "./observer.ts";
import { faults, roles, type PlanOptions } from "./plan.ts";
import { makePool, type PoolRequest } from "./pool.ts";
import { Rebalances } from "./rebalances.ts";
import { parseMetrics, waitUntilQuiet } from "./quiet.ts";
import { storm, type StormReport } from "./storm.ts";
import { sleep, Striker } from "./striker.ts";
import { type Counts, logLinesOf, percentiles, residentMib, type Resumes, round, type Tree, type Violation } from "./tally.ts";

export const onlyChoices = ["kill", "stop", "restart", "nats", "disconnect", "storm"] as const;
export type Only = (typeof onlyChoices)[number];

export interface ChaosOptions {
  seed: number;
  minutes: number;
  /** Ends sooner, once there were so many: kills of workers, or strikes of the only kind. */
  kills?: number;
  /** And so many clients left in mid-answer. */
  disconnects?: number;
  only?: Only;
  model?: string;
  gateways: number;
  prefill: number;
  decode: number;
  /** Instead of `decode`: so many ranks, which share the model's experts, with so many copies beside one of each. */
  decodeRanks?: number;
  redundantExperts?: number;
  /** The ranks are told so often to place their experts otherwise. */
  rebalanceEveryMs?: number;
  /** How often they are placed anew. */
  rebalanceSeconds?: number;
  kvBlocks: number;
  /** Different requests. */
  requests: number;
  stayers: number;
  leavers: number;
  meanGapMs: number;
  /** The load runs so long before the first strike, so that there is something to compare with. */
  calmMs: number;
  /** The load rests this often, and everything must be free again. */
  checkEveryMs: number;
  /** A request sent when the storm's streams are dropped is answered within this time. */
  stormAnswerBoundMs: number;
  onProgress: (text: string) => void;
  signal?: AbortSignal;
}

export const chaosDefaults: Omit<ChaosOptions, "minutes" | "onProgress"> = {
  seed: 1,
  gateways: 2,
  prefill: 2,
  decode: 3,
  kvBlocks: 48,
  requests: 200,
  stayers: 10,
  leavers: 5,
  meanGapMs: 1_000,
  calmMs: 0,
  checkEveryMs: 120_000,
  stormAnswerBoundMs: 2_000,
};

export interface ChaosReport {
  seed: number;
  seconds: number;
  stack: { gateways: number; prefill: number; decode: number; decodeRanks: number; redundantExperts: number; kvBlocks: number };
  /** Which requests make the pool, and how many got the right answer, at all and after a resume. */
  pool: { requests: number; answered: number; resumedAfterLoss: number; moved: number; movedWithBlocks: number; resumedEither: number };
  /** Of experts: orders that ranks took, and those that came at a time when they could not. */
  rebalances: { taken: number; refused: number };
  strikes: { total: number; workerKills: number; byFaultRolePoint: Tree; pointsMissed: number; drainsCutShort: number };
  disconnects: number;
  requests: { byEnding: Counts; retries: Counts };
  resumes: Resumes;
  preemptions: number;
  ttftSeconds: ReturnType<typeof percentiles>;
  /** Under the same load, struck and before the first strike. */
  tpotSeconds: ReturnType<typeof percentiles>;
  calm: { seconds: number; tpotSeconds: ReturnType<typeof percentiles> };
  longestPauseSeconds: ReturnType<typeof percentiles>;
  totalSeconds: ReturnType<typeof percentiles>;
  undisturbed: { ttftSeconds: ReturnType<typeof percentiles>; longestPauseSeconds: ReturnType<typeof percentiles> };
  leakChecks: { quietSeconds: number[]; boundSeconds: number };
  residentMib: Record<string, number>;
  pointsSeen: Counts;
  storm: StormReport | null;
  violations: Violation[];
  logs: string | null;
  /** Ended by a signal, before its time. */
  interrupted: boolean;
  ok: boolean;
}

/** Shorter than the gateways' lease of 10 s, reconnection included. */
const maxOutageMs = 5_000;
const deadlineMs = 60_000;
const quietBoundMs = 30_000;
const settleBoundMs = 20_000;
const sampleMs = 2_000;
const progressMs = 5_000;
const undisturbedClients = 6;
/** Far above what cache, weights and buffers take here, far below what a leak of each request would reach. */
const residentBoundMib = 1_024;
const maxViolations = 20;
const anyNumber: RestartPolicy = { deaths: Number.MAX_SAFE_INTEGER, windowMs: 60_000, firstPauseMs: 10, longestPauseMs: 20 };

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const violations: Violation[] = [];
  const begunMs = performance.now();
  let striker: Striker | undefined;
  const stack = await startStack({
    ...(options.model === undefined ? {} : { model: options.model }),
    gateways: options.gateways,
    prefill: options.prefill,
    ...(options.decodeRanks === undefined
      ? { decode: options.decode }
      : {
          decodeRanks: options.decodeRanks,
          redundantExperts: options.redundantExperts ?? 0,
          ...(options.rebalanceSeconds === undefined ? {} : { rebalanceSeconds: options.rebalanceSeconds }),
        }),
    kvBlocks: options.kvBlocks,
    threads: 1,
    observer: true,
    restartPolicy: anyNumber,
    env: { PELAGIC_DEBUG: "1", PELAGIC_DEADLINE_MS: String(deadlineMs) },
    onEvent: (event) => striker?.onStackEvent(event),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  let stackFailed = false;
  const violation = (what: string, requestId?: string, sinceMs = performance.now() - 10_000) => {
    if (violations.length >= maxViolations) return;
    options.onProgress(`VIOLATION ${requestId ?? ""} ${what}`);
    violations.push({
      what,
      ...(requestId === undefined ? {} : { requestId }),
      atSeconds: round((performance.now() - begunMs) / 1000),
      strikes: striker?.strikesSince(sinceMs - 3_000) ?? [],
      log: requestId === undefined ? [] : logLinesOf(stack, requestId),
    });
  };
  void stack.failed.then((error) => {
    stackFailed = true;
    violation(`the stack gave up: ${error.message}`);
  });
  let observer: BusObserver | undefined;
  let rebalances: Rebalances | undefined;
  try {
    observer = await BusObserver.connect(stack);
    const vocabSize = configNumber(stack, "vocab_size");
    // At least two requests fit at once: one that waits for a whole cache in vain would say nothing about faults.
    const maxPositions = Math.min(configNumber(stack, "max_position_embeddings"), options.kvBlocks * 32);
    const random = new Random(options.seed);
    const pool = makePool(random, { count: options.requests, model: stack.modelName, vocabSize, maxPositions, maxTokens: 200 });
    const undisturbed = await undisturbedAnswers(stack, pool, options);
    const plan = planFor(options);
    const disconnecting = options.only === undefined || options.only === "disconnect";
    striker = new Striker(stack, observer, {
      ...plan,
      seed: options.seed + 1,
      meanGapMs: options.meanGapMs,
      maxOutageMs,
    });
    striker.onUnexpectedDeath = (name, how) => violation(`${name} ${how}, and nobody struck it`);
    const strikes = striker;
    const load = new Load(
      stack,
      pool,
      undisturbed.answers,
      {
        seed: options.seed,
        stayers: options.stayers,
        leavers: disconnecting ? options.leavers : 0,
        deadlineMs,
        strict: options.only === "nats",
      },
      {
        gatewayStruckSince: (gateway, sinceMs) => strikes.gatewayStruckSince(gateway, sinceMs),
        onViolation: violation,
        onRefusal: (what, sinceMs) => options.onProgress(`REFUSED ${what} ${JSON.stringify(strikes.strikesSince(sinceMs - 5_000))}`),
      },
    );
    observer.onResume = (requestId, how) => load.noteResume(requestId, how);
    const resident: Record<string, number> = {};
    const preemptions = new Map<number, number>();
    const sampleAll = async () => {
      for (const { name, pid, metricsPort } of stack.processes) {
        const mib = pid === undefined ? null : residentMib(pid);
        if (mib !== null) resident[name] = Math.max(resident[name] ?? 0, Math.round(mib));
        if (pid !== undefined && metricsPort !== undefined && /^(decode|prefill)-/.test(name)) {
          preemptions.set(pid, Math.max(preemptions.get(pid) ?? 0, await preemptionsOf(metricsPort)));
        }
      }
    };
    const sample = setInterval(() => void sampleAll(), sampleMs);
    const quietSeconds: number[] = [];
    const lookForLeaks = async () => {
      strikes.paused = true;
      load.paused = true;
      const restedMs = performance.now();
      while (load.inFlight > 0 && performance.now() - restedMs < deadlineMs + 10_000 && !stackFailed) await sleep(20);
      await Promise.race([strikes.settled(), sleep(settleBoundMs)]);
      const { leak, seconds } = await waitUntilQuiet(stack, quietBoundMs);
      if (leak !== null) violation(`not free again within ${quietBoundMs / 1000} s: ${leak}`, undefined, restedMs);
      quietSeconds.push(round(seconds));
      await sampleAll();
      load.paused = false;
      strikes.paused = false;
    };
    const endMs = performance.now() + options.minutes * 60_000;
    const killed = () => (options.only === undefined || options.only === "kill" ? strikes.workerKills : strikes.strikes);
    const enough = () =>
      (options.kills !== undefined || options.disconnects !== undefined) &&
      (options.kills === undefined || killed() >= options.kills) &&
      (options.disconnects === undefined || load.disconnects >= options.disconnects);
    const interrupted = () => options.signal?.aborted ?? false;
    const over = () =>
      stackFailed ||
      interrupted() ||
      violations.length >= maxViolations ||
      performance.now() >= endMs ||
      options.only === "storm" ||
      enough();
    const progress = setInterval(() => options.onProgress(progressLine(begunMs, strikes, load, violations)), progressMs);
    const checks = (async () => {
      for (let nextMs = performance.now() + options.checkEveryMs; !over(); await sleep(100)) {
        if (performance.now() < nextMs) continue;
        await lookForLeaks();
        nextMs = performance.now() + options.checkEveryMs;
      }
    })();
    const { decodeRanks, redundantExperts = 0, rebalanceEveryMs } = options;
    if (decodeRanks !== undefined && rebalanceEveryMs !== undefined)
      rebalances = await Rebalances.connect(stack, decodeRanks, redundantExperts, new Random(options.seed + 2));
    let calmTpotSeconds: number[] = [];
    const striking = (async () => {
      for (const untilMs = performance.now() + options.calmMs; performance.now() < untilMs && !over(); ) await sleep(100);
      calmTpotSeconds = load.tpotSeconds.splice(0);
      await Promise.all([strikes.run(over), rebalances?.run(rebalanceEveryMs as number, over)]);
    })();
    await load.run(over);
    await Promise.all([striking, checks]);
    strikes.continueAll();
    // Whoever interrupts wants the end; and undisturbed answers may be missing then.
    if (!stackFailed && !interrupted()) await lookForLeaks();
    let stormReport: StormReport | null = null;
    if (!stackFailed && !interrupted() && (options.only === undefined || options.only === "storm")) {
      stormReport = await storm(stack, observer, random, {
        vocabSize,
        answerBoundMs: options.stormAnswerBoundMs,
        probes: probesOf(pool, undisturbed.answers),
        waitUntilQuiet: () => waitUntilQuiet(stack, quietBoundMs),
      });
      for (const what of stormReport.violations) violation(what);
    }
    clearInterval(progress);
    clearInterval(sample);
    for (const [name, mib] of Object.entries(resident)) if (mib > residentBoundMib) violation(`${name} took ${mib} MiB`);
    const answered = (of: (answers: Load["answers"][number]) => number) => load.answers.filter((one) => of(one) > 0).length;
    return {
      seed: options.seed,
      seconds: round((performance.now() - begunMs) / 1000),
      stack: {
        gateways: options.gateways,
        prefill: options.prefill,
        decode: options.decodeRanks === undefined ? options.decode : 0,
        decodeRanks: options.decodeRanks ?? 0,
        redundantExperts: options.redundantExperts ?? 0,
        kvBlocks: options.kvBlocks,
      },
      pool: {
        requests: pool.length,
        answered: answered(({ right }) => right),
        resumedAfterLoss: answered(({ lost }) => lost),
        moved: answered(({ moved }) => moved),
        movedWithBlocks: answered(({ withBlocks }) => withBlocks),
        resumedEither: answered(({ lost, moved }) => lost + moved),
      },
      rebalances: { taken: rebalances?.taken ?? 0, refused: rebalances?.refused ?? 0 },
      strikes: {
        total: strikes.strikes,
        workerKills: strikes.workerKills,
        byFaultRolePoint: strikes.struck,
        pointsMissed: strikes.pointsMissed,
        drainsCutShort: strikes.drainsCutShort,
      },
      disconnects: load.disconnects,
      requests: { byEnding: load.endings, retries: load.retries },
      resumes: load.resumes,
      preemptions: [...preemptions.values()].reduce((sum, n) => sum + n, 0),
      ttftSeconds: percentiles(load.ttftSeconds),
      tpotSeconds: percentiles(load.tpotSeconds),
      calm: { seconds: options.calmMs / 1000, tpotSeconds: percentiles(calmTpotSeconds) },
      longestPauseSeconds: percentiles(load.pauseSeconds),
      totalSeconds: percentiles(load.totalSeconds),
      undisturbed: { ttftSeconds: percentiles(undisturbed.ttftSeconds), longestPauseSeconds: percentiles(undisturbed.pauseSeconds) },
      leakChecks: { quietSeconds, boundSeconds: quietBoundMs / 1000 },
      residentMib: resident,
      pointsSeen: observer.counts,
      storm: stormReport,
      violations,
      logs: violations.length > 0 ? stack.logsDir : null,
      interrupted: interrupted(),
      ok: violations.length === 0,
    };
  } finally {
    striker?.continueAll();
    await rebalances?.close();
    await observer?.close();
    await stack.stop({ keepLogs: violations.length > 0 });
  }
}

/** What the requests come to when nothing is struck and nobody leaves. */
async function undisturbedAnswers(stack: Stack, pool: PoolRequest[], options: ChaosOptions) {
  const answers: Answer[] = [];
  const ttftSeconds: number[] = [];
  const pauseSeconds: number[] = [];
  const left = [...pool];
  let done = 0;
  const progress = setInterval(() => options.onProgress(`undisturbed answers: ${done} of ${pool.length}`), progressMs);
  const client = async () => {
    for (let request = left.shift(); request !== undefined && !options.signal?.aborted; request = left.shift()) {
      const baseUrl = stack.baseUrls[request.index % stack.baseUrls.length] as string;
      const requestId = `undisturbed-${request.index}`;
      const outcome = await ask({ baseUrl, requestId, body: request.body, stream: true, boundMs: deadlineMs });
      if (outcome.ending.kind !== "answered")
        throw new CliError(`undisturbed, request ${request.index} ended with ${JSON.stringify(outcome.ending)}`);
      answers[request.index] = outcome.answer;
      ttftSeconds.push(outcome.ttftSeconds ?? 0);
      pauseSeconds.push(outcome.longestPauseSeconds);
      done++;
    }
  };
  try {
    await Promise.all(Array.from({ length: undisturbedClients }, client));
  } finally {
    clearInterval(progress);
  }
  return { answers, ttftSeconds, pauseSeconds };
}

function planFor({ only, decodeRanks }: ChaosOptions): PlanOptions {
  // Ranks are struck apart from the rest: what their loss costs is the question.
  if (decodeRanks !== undefined && only === "kill") return { faults: ["kill"], roles: ["decode"], drains: false };
  switch (only) {
    case undefined:
      return { faults, roles, drains: true };
    case "kill":
    case "stop":
    case "restart":
      return { faults: [only], roles: ["decode", "prefill", "gateway"], drains: true };
    case "nats":
      return { faults: ["kill", "restart"], roles: ["nats"], drains: false };
    case "disconnect":
    case "storm":
      return { faults: [], roles: [], drains: false };
  }
}

/** Short requests, whose answers the storm must not hold up. */
function probesOf(pool: PoolRequest[], answers: Answer[]): { request: PoolRequest; right: Answer }[] {
  return [...pool]
    .sort((a, b) => cost(a) - cost(b))
    .slice(0, 4)
    .map((request) => ({ request, right: answers[request.index] as Answer }));
}

function cost({ promptTokens, body }: PoolRequest): number {
  return promptTokens + 10 * (body.max_tokens as number);
}

/** 0 where the worker is down just now. */
async function preemptionsOf(metricsPort: number): Promise<number> {
  try {
    const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`, { signal: AbortSignal.timeout(sampleMs) });
    return parseMetrics(await response.text()).get("vllm:num_preemptions_total") ?? 0;
  } catch {
    return 0;
  }
}

function configNumber(stack: Stack, field: string): number {
  return (JSON.parse(readFileSync(join(stack.model, "config.json"), "utf8")) as Record<string, number>)[field] as number;
}

function progressLine(begunMs: number, strikes: Striker, load: Load, violations: Violation[]): string {
  const right = load.answers.reduce((sum, answers) => sum + answers.right, 0);
  const seconds = Math.round((performance.now() - begunMs) / 1000);
  return `${seconds} s: ${strikes.strikes} strikes (${strikes.workerKills} workers killed), ${right} right answers, ${load.resumes.lost}+${load.resumes.moved} resumes, ${load.disconnects} disconnects, ${violations.length} violations`;
}
