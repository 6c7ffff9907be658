// A model served in simulated time: a gateway that queues, workers that start, work, drain and go, and a policy that is asked every 15 s.
import { latencyBucketsSeconds, tokenBucketsSeconds } from "../../../services/lib/runtime/metrics.ts";
import type { Series } from "../metrics-text.ts";
import type { Observed, PoolPods, Scrape } from "../scrape.ts";
import { Events } from "./events.ts";
import { objectives, type Rates } from "./rates.ts";
import { Distribution, gaugeSeries } from "./series.ts";
import type { TraceRequest } from "./trace.ts";
import { DecodeWorker, PrefillWorker } from "./workers.ts";

export interface Replicas {
  prefill: number;
  decode: number;
}

/** Chooses both pools' replicas; what it does not get to see it cannot use. */
export type Policy = (observed: Observed) => Replicas;

export interface Outcome {
  requests: number;
  /** Shares of requests: both objectives, and each. */
  attained: number;
  attainedTtft: number;
  attainedTpot: number;
  replicaHours: number;
  ttftP90Seconds: number;
  /** Changes of a pool's number. */
  changes: number;
  /** What was wanted, by time, for drawing. */
  course: { atSeconds: number; prefill: number; decode: number }[];
}

export const modelName = "model";
const labels = { model_name: modelName };
const scrapeSeconds = 15;

interface Waiting {
  request: TraceRequest;
  arrivedMs: number;
}

export class World {
  private readonly events = new Events();
  private readonly rates: Rates;
  private readonly random: () => number;
  private readonly prefill: PrefillWorker[] = [];
  private readonly decode: DecodeWorker[] = [];
  private wanted: Replicas;
  private names = 0;
  private readonly queue: Waiting[] = [];
  private readonly gateway = {
    answers: 0,
    outputTokens: 0,
    ttft: new Distribution(latencyBucketsSeconds),
    tpot: new Distribution(tokenBucketsSeconds),
    queued: new Distribution(latencyBucketsSeconds),
  };
  private readonly ttfts: number[] = [];
  private attained = { both: 0, ttft: 0, tpot: 0 };
  private changes = 0;
  private readonly course: Outcome["course"] = [];

  /** `first`: ready at the beginning. */
  constructor(rates: Rates, first: Replicas, random: () => number) {
    this.rates = rates;
    this.random = random;
    this.wanted = first;
    for (let i = 0; i < first.prefill; i++) this.add("prefill", true);
    for (let i = 0; i < first.decode; i++) this.add("decode", true);
  }

  run(trace: readonly TraceRequest[], policy: Policy): Outcome {
    const { events } = this;
    const lastMs = trace.at(-1)?.atMs ?? 0;
    let left = trace.length;
    const arrive = (i: number) => {
      const request = trace[i];
      if (request === undefined) return;
      events.at(request.atMs, () => {
        this.queue.push({ request, arrivedMs: events.nowMs });
        this.dispatch(() => left--);
        arrive(i + 1);
      });
    };
    arrive(0);
    this.ended = () => left--;
    let before: Scrape | null = null;
    const look = () => {
      const now = this.scrape();
      const wanted = policy({ modelName, before, now, gateways: [], prefill: this.podsOf("prefill"), decode: this.podsOf("decode") });
      before = now;
      this.scale(wanted);
      if (left > 0) events.at(events.nowMs + scrapeSeconds * 1000, look);
    };
    events.at(0, look);
    while (left > 0 && events.next());
    if (left > 0) throw new Error(`${left} requests wait for ever`);
    const pods = [...this.prefill, ...this.decode];
    const seconds = pods.reduce((sum, pod) => sum + Math.max(0, Math.min(pod.goneAtMs ?? lastMs, lastMs) - pod.askedAtMs) / 1000, 0);
    const sorted = this.ttfts.sort((a, b) => a - b);
    return {
      requests: trace.length,
      attained: this.attained.both / trace.length,
      attainedTtft: this.attained.ttft / trace.length,
      attainedTpot: this.attained.tpot / trace.length,
      replicaHours: seconds / 3600,
      ttftP90Seconds: sorted[Math.floor(0.9 * (sorted.length - 1))] ?? 0,
      changes: this.changes,
      course: this.course,
    };
  }

  private ended: () => void = () => {};

  /** In the order of arrival, to the decode worker with the fewest requests. */
  private dispatch(ended: () => void): void {
    for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
      const { request, arrivedMs } = first;
      const tokens = request.promptTokens + request.outputTokens;
      const prefill = least(
        this.prefill.filter(({ takes }) => takes),
        ({ queuedTokens }) => queuedTokens,
      );
      const decode = least(
        this.decode.filter((worker) => worker.hasRoom(tokens)),
        ({ requests }) => requests,
      );
      if (prefill === undefined || decode === undefined) return;
      this.queue.shift();
      decode.admit(tokens);
      this.gateway.queued.observe((this.events.nowMs - arrivedMs) / 1000);
      prefill.take(request.promptTokens, () => {
        let firstMs = 0;
        const untilFirst = decode.start(tokens, request.outputTokens, () => {
          this.count(request, firstMs - arrivedMs, this.events.nowMs - firstMs);
          ended();
          this.dispatch(ended);
        });
        firstMs = this.events.nowMs + untilFirst;
      });
    }
  }

  private count({ outputTokens }: TraceRequest, ttftMs: number, decodingMs: number): void {
    const ttft = ttftMs / 1000;
    const tpot = Math.max(0, decodingMs) / 1000 / Math.max(1, outputTokens - 1);
    this.ttfts.push(ttft);
    this.gateway.ttft.observe(ttft);
    if (outputTokens > 1) this.gateway.tpot.observe(tpot);
    this.gateway.answers++;
    this.gateway.outputTokens += outputTokens;
    const first = ttft <= objectives.ttftSeconds;
    const others = tpot <= objectives.tpotSeconds;
    if (first) this.attained.ttft++;
    if (others) this.attained.tpot++;
    if (first && others) this.attained.both++;
  }

  private scrape(): Scrape {
    const { answers, outputTokens, ttft, tpot, queued } = this.gateway;
    const gateway: Series = new Map([
      ...gaugeSeries("pelagic_gateway_requests_waiting", this.queue.length, labels),
      ...gaugeSeries("pelagic_gateway_requests_total", answers, { ...labels, outcome: "stop" }),
      ...gaugeSeries("vllm:e2e_request_latency_seconds_count", answers, labels),
      ...gaugeSeries("pelagic_gateway_tokens_total", outputTokens, { ...labels, kind: "completion" }),
      ...ttft.series("gen_ai_server_time_to_first_token_seconds", labels),
      ...tpot.series("gen_ai_server_time_per_output_token_seconds", labels),
      ...queued.series("pelagic_gateway_phase_seconds", { ...labels, phase: "queue" }),
    ]);
    // Stopping ones still answer: what they have is part of the load.
    const answering = <W extends PrefillWorker | DecodeWorker>(workers: W[]) =>
      new Map(workers.filter(({ readyAtMs, goneAtMs }) => readyAtMs !== null && goneAtMs === null).map((w) => [w.name, w.series()]));
    return {
      atSeconds: this.events.nowMs / 1000,
      gateways: new Map([["gateway", gateway]]),
      prefill: answering(this.prefill),
      decode: answering(this.decode),
    };
  }

  private podsOf(pool: keyof Replicas): PoolPods {
    const replicas = this[pool]
      .filter(({ stopping }) => !stopping)
      .map(({ name, readyAtMs, askedAtMs }) => ({
        name,
        state: readyAtMs === null ? ("starting" as const) : ("ready" as const),
        stateSeconds: (this.events.nowMs - (readyAtMs ?? askedAtMs)) / 1000,
        processes: [name],
      }));
    return { wanted: this.wanted[pool], replicas };
  }

  private scale(wanted: Replicas): void {
    if (this.course.length === 0 || wanted.prefill !== this.wanted.prefill || wanted.decode !== this.wanted.decode)
      this.course.push({ atSeconds: this.events.nowMs / 1000, ...wanted });
    for (const pool of ["prefill", "decode"] as const) {
      if (wanted[pool] !== this.wanted[pool]) this.changes++;
      const there: (PrefillWorker | DecodeWorker)[] = this[pool].filter(({ stopping }) => !stopping);
      for (let i = there.length; i < wanted[pool]; i++) this.add(pool, false);
      // As a ReplicaSet does: those that are not ready first, then the youngest.
      const first = [...there].sort((a, b) => (b.readyAtMs ?? Number.POSITIVE_INFINITY) - (a.readyAtMs ?? Number.POSITIVE_INFINITY) || 0);
      for (const worker of first.slice(0, Math.max(0, there.length - wanted[pool]))) worker.stop();
    }
    this.wanted = wanted;
  }

  private add(pool: keyof Replicas, ready: boolean): void {
    const name = `${pool}-${this.names++}`;
    const { startSeconds, startSpreadSeconds } = this.rates;
    const worker = pool === "prefill" ? new PrefillWorker(name, this.events, this.rates) : new DecodeWorker(name, this.events, this.rates);
    (this[pool] as (PrefillWorker | DecodeWorker)[]).push(worker);
    if (ready) {
      worker.readyAtMs = Number.NEGATIVE_INFINITY;
      return;
    }
    this.events.at(this.events.nowMs + (startSeconds + this.random() * startSpreadSeconds) * 1000, () => {
      if (worker.stopping) return;
      worker.readyAtMs = this.events.nowMs;
      this.dispatch(this.ended);
    });
  }
}

function least<T>(items: readonly T[], of: (item: T) => number): T | undefined {
  let best: T | undefined;
  for (const item of items) if (best === undefined || of(item) < of(best)) best = item;
  return best;
}
