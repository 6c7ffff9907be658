// Records -> figures. Pure. The denominator of every share is all requests that were offered, but for those that we left ourselves.
import type { LoadRun } from "./generator.ts";
import { outcomes, type Outcome, type RequestRecord } from "./record.ts";

export interface Percentiles {
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
}

/** What makes a request good: both, where given. */
export interface Slo {
  ttftSeconds: number;
  /** After the first token, in the mean of a request. */
  tpotSeconds: number;
}

export interface Summary {
  /** While requests were sent: what was offered and what of it was good is of this time. */
  sendingSeconds: number;
  /** From then on to the last answer's end; 0 in a closed loop, whose clients send until then. */
  drainSeconds: number;
  /** Both: what was completed, and tokens, are of all of it. */
  durationSeconds: number;
  offered: number;
  byOutcome: Record<Outcome, number>;
  /** Why requests failed, the most frequent first: those whose errors differ in numbers alone together, by one of them. */
  failures: { outcome: Outcome; error: string; requests: number }[];
  offeredPerSecond: number;
  completedPerSecond: number;
  outputTokensPerSecond: number;
  promptTokensPerSecond: number;
  cachedPromptShare: number;
  /** From the scheduled time to the first token; to the first that is no reasoning. */
  ttftSeconds: Percentiles | null;
  ttfatSeconds: Percentiles | null;
  /** (last token - first token) / (tokens - 1), of each request with at least two. */
  tpotSeconds: Percentiles | null;
  /** Between two events with text, of all requests together. */
  interTokenSeconds: Percentiles | null;
  /** Mean of a request's longest tenth of gaps (Mooncake's TBT). */
  tbtSeconds: Percentiles | null;
  endToEndSeconds: Percentiles | null;
  goodput: { slo: Slo; good: number; share: number; goodPerSecond: number; attains90: boolean; attains99: boolean };
  /** How late the generator sent, beside its plan; a client of a closed loop has none. */
  lagSeconds: Percentiles | null;
  /** How late it noticed what happened, in every mode: times of tokens are as late. */
  noticeLagSeconds: Percentiles | null;
  /** Why these figures are not to be used; null where they are. */
  refused: string | null;
}

/** A generator this late at p99 measures itself. */
const lagBoundSeconds = 0.01;
/** Or later than this share of what is asked of TTFT, where that is more. */
const lagShareOfSlo = 0.02;

export function percentiles(values: readonly number[]): Percentiles | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const at = (share: number) => nearestRank(sorted, share);
  return { mean: sorted.reduce((sum, value) => sum + value, 0) / sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}

/** NaN of none. */
export function quantile(values: readonly number[], share: number): number {
  return nearestRank(Float64Array.from(values).sort(), share);
}

function nearestRank(sorted: Float64Array, share: number): number {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** However many there are; Math.max takes no more than a stack of them. */
export function largest(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
}

export function ttftOf({ firstTokenMs, scheduledMs }: RequestRecord): number | null {
  return firstTokenMs === null ? null : (firstTokenMs - scheduledMs) / 1000;
}

export function tpotOf({ firstTokenMs, lastTokenMs, outputTokens }: RequestRecord): number | null {
  return firstTokenMs === null || lastTokenMs === null || outputTokens < 2
    ? null
    : (lastTokenMs - firstTokenMs) / 1000 / (outputTokens - 1);
}

export function isGood(record: RequestRecord, slo: Slo): boolean {
  if (record.outcome !== "ok") return false;
  return (ttftOf(record) ?? Number.POSITIVE_INFINITY) <= slo.ttftSeconds && (tpotOf(record) ?? 0) <= slo.tpotSeconds;
}

export function summarise({ records, noticeLagsMs, sendingMs }: LoadRun, slo: Slo): Summary {
  const asked = records.filter(({ outcome }) => outcome !== "cancelled");
  const ok = records.filter(({ outcome }) => outcome === "ok");
  const endMs = largest(records.map((record) => record.endMs));
  // Further turns of conversations are sent later. A trace of one moment has no time of sending: then all of the run is.
  const lastSentMs = largest(records.map(({ scheduledMs }) => scheduledMs));
  const sentUntilMs = sendingMs === null ? endMs : Math.max(sendingMs, lastSentMs) || endMs;
  const sending = Math.max(1e-9, sentUntilMs / 1000);
  const seconds = Math.max(1e-9, Math.max(endMs, sentUntilMs) / 1000);
  const sum = (of: readonly RequestRecord[], what: "promptTokens" | "outputTokens" | "cachedTokens") =>
    of.reduce((total, record) => total + record[what], 0);
  const each = (of: (record: RequestRecord) => number | null) => percentiles(ok.map(of).filter((value) => value !== null));
  const good = asked.filter((record) => isGood(record, slo)).length;
  const share = asked.length === 0 ? 0 : good / asked.length;
  const sent = records.filter(({ outcome }) => outcome !== "unsent");
  const lag = percentiles(sent.map(({ sentMs, scheduledMs }) => Math.max(0, sentMs - scheduledMs) / 1000));
  const noticeLag = percentiles(noticeLagsMs.map((lag) => lag / 1000));
  return {
    sendingSeconds: sending,
    drainSeconds: seconds - sending,
    durationSeconds: seconds,
    offered: records.length,
    byOutcome: Object.fromEntries(
      outcomes.map((one) => [one, records.filter(({ outcome }) => outcome === one).length]),
    ) as Summary["byOutcome"],
    failures: failuresOf(records),
    offeredPerSecond: records.length / sending,
    completedPerSecond: ok.length / seconds,
    outputTokensPerSecond: sum(records, "outputTokens") / seconds,
    promptTokensPerSecond: sum(records, "promptTokens") / seconds,
    cachedPromptShare: sum(records, "cachedTokens") / Math.max(1, sum(records, "promptTokens")),
    ttftSeconds: each(ttftOf),
    ttfatSeconds: each((record) => (record.firstAnswerMs === null ? null : (record.firstAnswerMs - record.scheduledMs) / 1000)),
    tpotSeconds: each(tpotOf),
    interTokenSeconds: percentiles(ok.flatMap(({ gapsMs }) => gapsMs).map((gap) => gap / 1000)),
    tbtSeconds: each(({ gapsMs }) => longestTenth(gapsMs)),
    endToEndSeconds: each(({ endMs, scheduledMs }) => (endMs - scheduledMs) / 1000),
    goodput: { slo, good, share, goodPerSecond: good / sending, attains90: share >= 0.9, attains99: share >= 0.99 },
    lagSeconds: lag,
    noticeLagSeconds: noticeLag,
    refused: records.length === 0 ? "no request was sent" : lateness({ "sent requests": lag, "noticed answers": noticeLag }, slo),
  };
}

const maxFailures = 10;

function failuresOf(records: readonly RequestRecord[]): Summary["failures"] {
  const found = new Map<string, Summary["failures"][number]>();
  for (const { outcome, error } of records) {
    if (error === null || outcome === "ok" || outcome === "cancelled") continue;
    const kind = `${outcome} ${error.replace(/\d+/g, "0")}`;
    const known = found.get(kind);
    if (known === undefined) found.set(kind, { outcome, error, requests: 1 });
    else known.requests++;
  }
  return [...found.values()].sort((a, b) => b.requests - a.requests).slice(0, maxFailures);
}

function lateness(lags: Record<string, Percentiles | null>, slo: Slo): string | null {
  const bound = Math.max(lagBoundSeconds, Number.isFinite(slo.ttftSeconds) ? lagShareOfSlo * slo.ttftSeconds : 0);
  const ms = (seconds: number) => `${(seconds * 1000).toFixed(0)} ms`;
  const late = Object.entries(lags).flatMap(([what, lag]) =>
    lag !== null && lag.p99 > bound ? [`the generator ${what} ${ms(lag.p99)} late at p99`] : [],
  );
  return late.length === 0 ? null : `${late.join(", and ")}, more than ${ms(bound)}: use fewer requests, or a machine of its own`;
}

function longestTenth(gapsMs: readonly number[]): number | null {
  if (gapsMs.length === 0) return null;
  const longest = Float64Array.from(gapsMs)
    .sort()
    .subarray(-Math.max(1, Math.round(gapsMs.length / 10)));
  return longest.reduce((total, gap) => total + gap, 0) / longest.length / 1000;
}
