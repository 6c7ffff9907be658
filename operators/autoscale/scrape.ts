// Two successive scrapes of a model's gateways and workers as one snapshot: counters to rates, histograms to quantiles and means. Pure.
import { errorCatalogue } from "../../services/lib/contracts/errors.ts";
import { parseMetrics, type Sample, type Series } from "./metrics-text.ts";
import type { DecodeSample, PoolSnapshot, PrefillSample, Replica, Snapshot } from "./snapshot.ts";

/** What /metrics of each process said, by pod name; who did not answer is not in it. */
export interface Scrape {
  atSeconds: number;
  gateways: ReadonlyMap<string, Series>;
  prefill: ReadonlyMap<string, Series>;
  decode: ReadonlyMap<string, Series>;
}

/** A replica as the cluster's objects show it; `processes`: its pods, several where it spans nodes. */
export interface ReplicaPods extends Omit<Replica<never>, "sample"> {
  processes: readonly string[];
}

export interface PoolPods {
  wanted: number;
  replicas: readonly ReplicaPods[];
}

export interface Observed {
  modelName: string;
  /** null: this is the first. */
  before: Scrape | null;
  now: Scrape;
  gateways: readonly ReplicaPods[];
  prefill: PoolPods;
  decode: PoolPods;
}

/** Of a process's metrics, those that are read here. */
const gauges = [
  "pelagic_gateway_requests_waiting",
  "vllm:num_requests_running",
  "vllm:num_requests_waiting",
  "vllm:kv_cache_usage_perc",
  "pelagic_queued_prefill_tokens",
  "pelagic_prefill_tokens_per_second",
  "pelagic_decode_step_seconds",
] as const;
const counters = ["pelagic_gateway_requests_total", "pelagic_gateway_tokens_total", "pelagic_prefilled_tokens_total"] as const;
const histograms = [
  "vllm:e2e_request_latency_seconds",
  "gen_ai_server_time_to_first_token_seconds",
  "gen_ai_server_time_per_output_token_seconds",
  "pelagic_gateway_phase_seconds",
  "vllm:request_queue_time_seconds",
  "pelagic_prefill_queue_seconds",
  "pelagic_prefill_compute_seconds",
  "pelagic_step_sequences",
] as const;
type GaugeName = (typeof gauges)[number];
type HistogramName = (typeof histograms)[number];
type CounterName = (typeof counters)[number] | `${HistogramName}_${"count" | "sum" | "bucket"}`;

const read = new Set<string>([...gauges, ...counters, ...histograms.flatMap((name) => [`${name}_count`, `${name}_sum`, `${name}_bucket`])]);

/** /metrics of a process, as far as it is read here. */
export function readMetrics(text: string): Series {
  return parseMetrics(text, (name) => read.has(name));
}

/** The part of requests whose times the SLOs are held to. */
const sloQuantile = 0.9;

export function snapshotOf(observed: Observed): Snapshot {
  const { modelName, before, now, prefill, decode } = observed;
  const seconds = before === null ? 0 : now.atSeconds - before.atSeconds;
  const pairs = (group: "gateways" | "prefill" | "decode") => pairsOf(before?.[group], now[group]);
  const gateways = pairs("gateways");
  const prefillWorkers = pairs("prefill");
  const decodeWorkers = pairs("decode");
  const ofModel = { model_name: modelName };
  const perSecond = (value: number) => (seconds > 0 ? value / seconds : 0);
  const grown = (workers: Pair[], name: CounterName, labels: Labels = {}) => sumOf(workers, (pair) => growth(pair, name, labels));
  const inSystem = (side: keyof Pair) =>
    sumOf(decodeWorkers, (pair) => gauge(pair[side], "vllm:num_requests_running") + gauge(pair[side], "vllm:num_requests_waiting")) +
    sumOf(gateways, (pair) => gauge(pair[side], "pelagic_gateway_requests_waiting", ofModel));
  const ended = sumOf(gateways, (pair) => growth(pair, "pelagic_gateway_requests_total", ofModel, isDemand));
  const queuedTokens = (side: keyof Pair) => sumOf(prefillWorkers, (pair) => gauge(pair[side], "pelagic_queued_prefill_tokens"));
  const prefilled = grown(prefillWorkers, "pelagic_prefilled_tokens_total");
  const decodeNow = [...now.decode.values()];
  const gatewayWaiting = [...now.gateways.values()].reduce((sum, s) => sum + gauge(s, "pelagic_gateway_requests_waiting", ofModel), 0);
  const inDecode = (name: GaugeName) => decodeNow.reduce((sum, series) => sum + gauge(series, name), 0);
  return {
    atSeconds: now.atSeconds,
    intervalSeconds: seconds,
    requestsPerSecond: seconds > 0 && gateways.length > 0 ? Math.max(0, perSecond(ended + inSystem("now") - inSystem("before"))) : null,
    answersPerSecond: perSecond(grown(gateways, "vllm:e2e_request_latency_seconds_count", ofModel)),
    outputTokensPerSecond: perSecond(grown(gateways, "pelagic_gateway_tokens_total", { ...ofModel, kind: "completion" })),
    inputTokensPerSecond: perSecond(prefilled + queuedTokens("now") - queuedTokens("before")),
    runningRequests: inDecode("vllm:num_requests_running"),
    waitingRequests: gatewayWaiting + inDecode("vllm:num_requests_waiting"),
    ttftSeconds: quantile(gateways, "gen_ai_server_time_to_first_token_seconds", ofModel, sloQuantile),
    tpotSeconds: quantile(gateways, "gen_ai_server_time_per_output_token_seconds", ofModel, sloQuantile),
    prefillQueueSeconds: prefillWait(prefillWorkers, prefilled),
    admissionSeconds: together(
      meanGrowth(gateways, "pelagic_gateway_phase_seconds", { ...ofModel, phase: "queue" }),
      meanGrowth(decodeWorkers, "vllm:request_queue_time_seconds"),
    ),
    gatewaysHeard: now.gateways.size,
    unheard: unheard(observed, seconds),
    prefill: poolOf(prefill, now.prefill, (all): PrefillSample => {
      const paces = all.map(({ series }) => known(series, "pelagic_prefill_tokens_per_second"));
      return {
        tokensPerSecond: total(paces),
        queuedTokens: all.reduce((sum, { series }) => sum + gauge(series, "pelagic_queued_prefill_tokens"), 0),
      };
    }),
    decode: poolOf(decode, now.decode, (all): DecodeSample => {
      const batches = all.map(({ name, series }) => {
        const earlier = before?.decode.get(name);
        return earlier === undefined ? null : meanGrowth([{ before: earlier, now: series }], "pelagic_step_sequences");
      });
      // A replica of several processes is one that takes more at once, in steps as long.
      return {
        batch: total(batches),
        stepSeconds: mean(all.map(({ series }) => known(series, "pelagic_decode_step_seconds"))),
        cacheOfRequest: over(mean(all.map(({ series }) => cacheOfRequest(series))), all.length),
      };
    }),
  };
}

interface Heard {
  name: string;
  series: Series;
}

function poolOf<S>(
  { wanted, replicas }: PoolPods,
  series: ReadonlyMap<string, Series>,
  sampleOf: (processes: readonly Heard[]) => S,
): PoolSnapshot<S> {
  return {
    wanted,
    replicas: replicas.map(({ processes, ...replica }) => {
      const heard = processes.flatMap((name): Heard[] => {
        const its = series.get(name);
        return its === undefined ? [] : [{ name, series: its }];
      });
      return { ...replica, sample: heard.length < Math.max(1, processes.length) ? null : sampleOf(heard) };
    }),
  };
}

/** Those that were ready all the time and did not answer at its end, or not at its beginning. */
function unheard({ before, now, gateways, prefill, decode }: Observed, seconds: number): string[] {
  const groups = [
    [gateways, "gateways"],
    [prefill.replicas, "prefill"],
    [decode.replicas, "decode"],
  ] as const;
  return groups.flatMap(([replicas, group]) =>
    replicas
      .filter(({ state }) => state === "ready")
      .flatMap(({ processes, stateSeconds }) =>
        processes.filter((name) => !now[group].has(name) || (before !== null && stateSeconds > seconds && !before[group].has(name))),
      ),
  );
}

function total(values: readonly (number | null)[]): number | null {
  return values.includes(null) ? null : values.reduce<number>((sum, value) => sum + (value as number), 0);
}

function mean(values: readonly (number | null)[]): number | null {
  return over(total(values), values.length);
}

function over(value: number | null, count: number): number | null {
  return value === null || count === 0 ? null : value / count;
}

type Labels = Record<string, string>;
/** A process that answered both times: only such a one has grown by something. */
interface Pair {
  before: Series;
  now: Series;
}

function pairsOf(before: ReadonlyMap<string, Series> | undefined, now: ReadonlyMap<string, Series>): Pair[] {
  return [...now].flatMap(([name, series]) => {
    const earlier = before?.get(name);
    return earlier === undefined ? [] : [{ before: earlier, now: series }];
  });
}

const sumOf = (pairs: readonly Pair[], read: (pair: Pair) => number) => pairs.reduce((sum, pair) => sum + read(pair), 0);

const fits = ({ labels }: Sample, wanted: Labels) => Object.entries(wanted).every(([name, value]) => labels[name] === value);

/** Requests that were refused for what they asked or who asked are no load; those refused for want of a worker are. */
function isDemand({ labels }: Sample): boolean {
  const error = Object.entries(errorCatalogue).find(([code]) => code === labels.outcome)?.[1];
  return error === undefined || error.status >= 499;
}

/** What no counter, gauge or time of ours comes to is no figure: of infinities, and of what overflows, sums and quotients are no numbers. */
const isFigure = (value: number) => value === 0 || (value >= 1e-6 && value <= 1e15);

function matching(series: Series, name: string, labels: Labels): Sample[] {
  return (series.get(name) ?? []).filter((sample) => fits(sample, labels) && isFigure(sample.value));
}

function gauge(series: Series, name: GaugeName, labels: Labels = {}): number {
  return matching(series, name, labels).reduce((sum, { value }) => sum + value, 0);
}

/** null: absent, or zero as long as nothing was measured. */
function known(series: Series, name: GaugeName): number | null {
  return gauge(series, name) || null;
}

function cacheOfRequest(series: Series): number | null {
  const running = gauge(series, "vllm:num_requests_running");
  return running > 0 ? gauge(series, "vllm:kv_cache_usage_perc") / running : null;
}

const sameLabels = (a: Sample, b: Sample) => fits(a, b.labels) && Object.keys(a.labels).length === Object.keys(b.labels).length;

/** Of counters; one that is smaller than before began anew, as its process did. */
function growth({ before, now }: Pair, name: CounterName, labels: Labels, counts: (sample: Sample) => boolean = () => true): number {
  const earlier = matching(before, name, labels);
  return matching(now, name, labels)
    .filter(counts)
    .reduce((sum, sample) => {
      const was = earlier.find((other) => sameLabels(other, sample))?.value ?? 0;
      return sum + (sample.value < was ? sample.value : sample.value - was);
    }, 0);
}

function meanGrowth(pairs: readonly Pair[], name: HistogramName, labels: Labels = {}): number | null {
  const count = sumOf(pairs, (pair) => growth(pair, `${name}_count`, labels));
  return count > 0 ? sumOf(pairs, (pair) => growth(pair, `${name}_sum`, labels)) / count : null;
}

/** As Prometheus's histogram_quantile, over the interval's observations: linear within a bucket, the last bound beyond all. */
function quantile(pairs: readonly Pair[], name: HistogramName, labels: Labels, q: number): number | null {
  const bounds = new Map<number, number>();
  for (const pair of pairs) {
    for (const le of new Set(matching(pair.now, `${name}_bucket`, labels).map((sample) => sample.labels.le ?? ""))) {
      const bound = le === "+Inf" ? Number.POSITIVE_INFINITY : Number(le);
      if (le === "" || Number.isNaN(bound)) continue;
      bounds.set(bound, (bounds.get(bound) ?? 0) + growth(pair, `${name}_bucket`, { ...labels, le }));
    }
  }
  const cumulative = [...bounds].sort(([a], [b]) => a - b);
  const total = cumulative.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return null;
  let lower = 0;
  let below = 0;
  for (const [bound, count] of cumulative) {
    if (count >= q * total && count > below) {
      return Number.isFinite(bound) ? lower + ((bound - lower) * (q * total - below)) / (count - below) : lower;
    }
    if (Number.isFinite(bound)) lower = bound;
    below = Math.max(below, count);
  }
  return lower;
}

/**
 * What prompts waited in prefill: their time there less what their computing alone takes. The engine computes several at once, so that
 * most of a wait lies in what it calls computing.
 */
function prefillWait(pairs: readonly Pair[], prefilledTokens: number): number | null {
  const there = together(meanGrowth(pairs, "pelagic_prefill_queue_seconds"), meanGrowth(pairs, "pelagic_prefill_compute_seconds"));
  const prompts = sumOf(pairs, (pair) => growth(pair, "pelagic_prefill_compute_seconds_count", {}));
  const paces = pairs.map(({ now }) => gauge(now, "pelagic_prefill_tokens_per_second")).filter((pace) => pace > 0);
  if (there === null || prompts === 0 || paces.length === 0) return there;
  const pace = paces.reduce((sum, value) => sum + value, 0) / paces.length;
  return Math.max(0, there - prefilledTokens / prompts / pace);
}

function together(a: number | null, b: number | null): number | null {
  return a === null && b === null ? null : (a ?? 0) + (b ?? 0);
}
