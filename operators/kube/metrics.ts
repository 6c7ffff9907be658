// What the operator counts. Names are in docs/observability.md.
import { Counter, Gauge, Histogram, latencyBucketsSeconds, type Registry } from "../../services/lib/runtime/metrics.ts";
import type { ApiObserver } from "./api-client.ts";
import type { InformerObserver } from "./informer.ts";
import type { QueueObserver } from "./queue-runner.ts";
import type { DesiredReplicas } from "./autoscaler.ts";
import type { ScraperObserver } from "./scraper.ts";
import type { RoundResult } from "./reconciler.ts";

/** Read when they are asked for. */
export interface OperatorState {
  leads(): boolean;
  queued(): number;
  failing(): number;
  modelServices(): number;
  desiredReplicas(): DesiredReplicas[];
  informers(): { resource: string; objects: number; silentSeconds: number }[];
}

export interface OperatorMetrics {
  api: ApiObserver;
  informers: InformerObserver;
  queue: QueueObserver;
  scrapes: ScraperObserver;
  roundEnded(result: RoundResult, seconds: number): void;
  eventDropped(): void;
}

export function operatorMetrics(registry: Registry): OperatorMetrics {
  const registers = [registry];
  const calls = new Counter({
    name: "pelagic_operator_api_requests_total",
    help: "Calls to the API server; code 0: no answer",
    labelNames: ["verb", "resource", "code"],
    registers,
  });
  const callSeconds = new Histogram({
    name: "pelagic_operator_api_request_seconds",
    help: "How long calls to the API server took; of a watch, until its first byte",
    labelNames: ["verb"],
    buckets: latencyBucketsSeconds,
    registers,
  });
  const lists = new Counter({
    name: "pelagic_operator_informer_lists_total",
    help: "Whole lists taken by informers",
    labelNames: ["resource"],
    registers,
  });
  const ends = new Counter({
    name: "pelagic_operator_informer_ends_total",
    help: "Lists and watches that ended, but for lists that succeeded: closed by the server, cut, silent, gone (410), refused or failed",
    labelNames: ["resource", "why"],
    registers,
  });
  const rounds = new Counter({
    name: "pelagic_operator_reconciles_total",
    help: "Rounds of reconciling: settled (nothing to do), changed, refused by the API server, failed, not_leading",
    labelNames: ["result"],
    registers,
  });
  const roundSeconds = new Histogram({
    name: "pelagic_operator_reconcile_seconds",
    help: "How long rounds took",
    buckets: latencyBucketsSeconds,
    registers,
  });
  const waitSeconds = new Histogram({
    name: "pelagic_operator_queue_wait_seconds",
    help: "How long due ModelServices waited for their round",
    buckets: latencyBucketsSeconds,
    registers,
  });
  const scrapes = new Counter({
    name: "pelagic_operator_scrapes_total",
    help: "Gateways and workers asked for their metrics, for autoscaling: ok, failed",
    labelNames: ["result"],
    registers,
  });
  const scrapeSeconds = new Histogram({
    name: "pelagic_operator_scrape_seconds",
    help: "How long one of them took to answer",
    buckets: latencyBucketsSeconds,
    registers,
  });
  const dropped = new Counter({
    name: "pelagic_operator_events_dropped_total",
    help: "Events that could not be sent",
    registers,
  });
  return {
    api: {
      called(verb, resource, code, seconds) {
        calls.inc({ verb, resource, code });
        callSeconds.observe({ verb }, seconds);
      },
    },
    informers: {
      listed: (resource) => lists.inc({ resource }),
      ended: (resource, why) => ends.inc({ resource, why }),
    },
    scrapes: {
      scraped(result, seconds) {
        scrapes.inc({ result });
        scrapeSeconds.observe(seconds);
      },
    },
    queue: { waited: (seconds) => waitSeconds.observe(seconds) },
    roundEnded(result, seconds) {
      rounds.inc({ result });
      roundSeconds.observe(seconds);
    },
    eventDropped: () => dropped.inc(),
  };
}

export function observeOperator(registry: Registry, state: OperatorState): void {
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name: `pelagic_operator_${name}`,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  gauge("leader", "1: this replica leads", () => (state.leads() ? 1 : 0));
  gauge("queue_depth", "ModelServices that wait for a round", () => state.queued());
  gauge("queue_failing", "ModelServices whose last round failed", () => state.failing());
  gauge("modelservices", "ModelServices known", () => state.modelServices());
  new Gauge({
    name: "pelagic_operator_desired_replicas",
    help: "What autoscaling wants, within bounds; shown by the replica that leads",
    // Not "namespace", which is the scraped process's own.
    labelNames: ["modelservice_namespace", "modelservice", "pool"],
    registers: [registry],
    collect() {
      this.reset();
      for (const { namespace, replicas, ...labels } of state.desiredReplicas())
        this.set({ modelservice_namespace: namespace, ...labels }, replicas);
    },
  });
  const perResource = (name: string, help: string, read: (informer: ReturnType<OperatorState["informers"]>[number]) => number) =>
    new Gauge({
      name: `pelagic_operator_informer_${name}`,
      help,
      labelNames: ["resource"],
      registers: [registry],
      collect() {
        this.reset();
        for (const informer of state.informers()) this.set({ resource: informer.resource }, read(informer));
      },
    });
  perResource("objects", "Objects that an informer holds", ({ objects }) => objects);
  perResource("silent_seconds", "Since an informer last heard of the API server", ({ silentSeconds }) => silentSeconds);
}
