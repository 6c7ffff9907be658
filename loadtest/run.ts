// One load test: measures how many tokens a word takes, sends the load, sums up; or searches the knee, one run after another.
import { closeConnections, send, type Target } from "./client.ts";
import { generate, type LoadPlan, type Progress } from "./generator.ts";
import { kneeOf, type KneePoint, maxPoints, nextRate } from "./knee.ts";
import { wordsOf, type WordCost } from "./prompts.ts";
import type { RequestRecord } from "./record.ts";
import type { LoadReport } from "./report.ts";
import { type Slo, summarise, type Summary } from "./summary.ts";

export class LoadError extends Error {}

export interface LoadRunOptions {
  target: Target;
  slo: Slo;
  options: Record<string, unknown>;
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
  onNote: (text: string) => void;
}

const probeWords = [20, 220] as const;

/** Throws a LoadError where the server does not answer as an OpenAI-compatible one. */
export async function measureWordCost(target: Target, signal: AbortSignal): Promise<WordCost> {
  const tokens: number[] = [];
  for (const words of probeWords) {
    const beganMs = performance.now();
    const planned = {
      ...{ index: 0, session: 0, turn: 0, scheduledMs: 0, maxTokens: 1, cancelAfter: null },
      messages: [{ role: "user" as const, content: wordsOf(words, words) }],
    };
    const record = await send(target, planned, () => performance.now() - beganMs, signal);
    if (record.outcome !== "ok") throw new LoadError(`${target.baseUrl} does not serve ${target.model}: ${record.error ?? record.outcome}`);
    if (record.promptTokens === 0)
      throw new LoadError(`${target.baseUrl} reports no usage in its streams: prompts of a given length need it`);
    tokens.push(record.promptTokens);
  }
  const perWord = ((tokens[1] as number) - (tokens[0] as number)) / (probeWords[1] - probeWords[0]);
  if (!(perWord > 0)) throw new LoadError(`${target.baseUrl} counts ${tokens.join(" and ")} tokens for ${probeWords.join(" and ")} words`);
  return { perWord, base: Math.max(0, (tokens[0] as number) - perWord * probeWords[0]) };
}

export async function runLoad(plan: LoadPlan, run: LoadRunOptions): Promise<LoadReport> {
  const startedAt = new Date().toISOString();
  const { records, summary } = await once(plan, await measureWordCost(run.target, run.signal), run);
  closeConnections();
  return reportOf(run, startedAt, summary, records, null);
}

/** `planAt` makes the load of one rate. The report is of the run at the first attainment's knee, or of the first run where there is none. */
export async function runKnee(
  planAt: (ratePerSecond: number) => LoadPlan,
  firstRate: number,
  attainments: readonly number[],
  run: LoadRunOptions,
): Promise<LoadReport> {
  const startedAt = new Date().toISOString();
  const wordCost = await measureWordCost(run.target, run.signal);
  const points: KneePoint[] = [];
  const runs = new Map<number, { records: RequestRecord[]; summary: Summary }>();
  const measure = async (rate: number) => {
    const result = await once(planAt(rate), wordCost, run);
    // A late generator says nothing about the server, and would only be later at higher rates.
    if (result.summary.refused !== null) throw new LoadError(`at ${rate.toFixed(2)} requests/s ${result.summary.refused}`);
    const { share } = result.summary.goodput;
    points.push({ ratePerSecond: rate, share });
    runs.set(rate, result);
    run.onNote(`${rate.toFixed(2)} requests/s: ${(100 * share).toFixed(1)}% good`);
  };
  for (const attainment of attainments) {
    for (let tries = 0; tries < maxPoints && !run.signal.aborted; tries++) {
      const rate = nextRate(points, attainment, firstRate);
      if (rate === null) break;
      await measure(rate);
    }
  }
  closeConnections();
  const found = attainments.map((attainment) => ({ attainment, ratePerSecond: kneeOf(points, attainment) }));
  const shown = runs.get(found[0]?.ratePerSecond ?? firstRate);
  if (shown === undefined) throw new LoadError("stopped before the first rate was measured");
  return reportOf(run, startedAt, shown.summary, shown.records, { found, points });
}

async function once(plan: LoadPlan, wordCost: WordCost, { target, slo, signal, onProgress }: LoadRunOptions) {
  if (plan.sessions.length === 0) throw new LoadError("the load has no requests: a higher rate or a longer time");
  const made = await generate(plan, { target, wordCost, signal, onProgress });
  if (made.records.length === 0) throw new LoadError("stopped before the first request");
  return { records: made.records, summary: summarise(made, slo) };
}

function reportOf(
  run: LoadRunOptions,
  startedAt: string,
  summary: Summary,
  records: RequestRecord[],
  knee: LoadReport["knee"],
): LoadReport {
  const { baseUrl, model, endpoint } = run.target;
  return {
    kind: "pelagic-load",
    version: 3,
    startedAt,
    target: { baseUrl, model, endpoint },
    options: run.options,
    summary,
    records,
    knee,
  };
}
