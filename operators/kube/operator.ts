// The parts of the operator put together: watches fill a queue, the leader works it off.
import type { Readiness } from "../../services/lib/runtime/admin-server.ts";
import type { SleepingModels } from "../../services/lib/contracts/sleeping-models.ts";
import type { ProcessLog } from "../../services/lib/runtime/log.ts";
import type { Registry } from "../../services/lib/runtime/metrics.ts";
import type { KubeConfig } from "@kubernetes/client-node";
import type { PlannerConfig } from "../planner/config.ts";
import { ApiClient } from "./api-client.ts";
import { Autoscaler } from "./autoscaler.ts";
import { Elector } from "./elector.ts";
import { EventSender } from "./events.ts";
import type { InformerTimes } from "./informer.ts";
import { observeOperator, operatorMetrics } from "./metrics.ts";
import { QueueRunner } from "./queue-runner.ts";
import { RankWatcher } from "./rank-watcher.ts";
import { Reconciler } from "./reconciler.ts";
import { Scraper } from "./scraper.ts";
import { WatchedCluster } from "./watched.ts";
import { WorkQueue } from "./work-queue.ts";
import { Writer } from "./writer.ts";

export interface OperatorOptions {
  kubeConfig: KubeConfig;
  planner: PlannerConfig;
  /** Whose ModelServices are looked after; undefined: of all namespaces. */
  namespace: string | undefined;
  lease: { namespace: string; name: string };
  identity: string;
  concurrency: number;
  informerTimes: InformerTimes;
  gateways: { namespace: string; selector: string };
  /** Between two looks at gateways and workers. */
  scrapeMs: number;
  log: ProcessLog;
  metrics: Registry;
}

/** A failing ModelService is tried again after about a second, then less and less often. */
const retryBounds = { baseMs: 1_000, maxMs: 60_000 };
const eventsStopMs = 2_000;
/** Between two looks at ranks that share experts; what happens in between they remember. */
const ranksMs = 5_000;

export class Operator {
  private readonly client: ApiClient;
  private readonly watched: WatchedCluster;
  private readonly elector: Elector;
  private readonly runner: QueueRunner;
  private readonly autoscaler: Autoscaler;
  private readonly ranks: RankWatcher;
  private readonly events: EventSender;
  private stopping = false;

  constructor(options: OperatorOptions) {
    const { log, identity } = options;
    const metrics = operatorMetrics(options.metrics);
    const queue = new WorkQueue(retryBounds);
    this.client = new ApiClient(options.kubeConfig, metrics.api);
    this.elector = new Elector({
      client: this.client,
      ...options.lease,
      identity,
      log,
      onChange: (leads) => {
        this.autoscaler.forget();
        this.ranks.forget();
        if (leads) this.watched.everyService();
      },
    });
    // Who stops begins no more writes: a round ends with the one that is under way.
    const leftMs = () => (this.stopping ? 0 : this.elector.leftMs());
    this.events = new EventSender(this.client, identity, () => this.elector.leads, log, metrics.eventDropped);
    this.watched = new WatchedCluster({
      client: this.client,
      namespace: options.namespace,
      gateways: options.gateways,
      lease: options.lease,
      times: options.informerTimes,
      log,
      observer: metrics.informers,
      changed: (key, fresh) => this.runner.add(key, fresh),
      listed: () => this.watched.everyService(),
    });
    const looking = {
      watched: this.watched,
      scraper: new Scraper(metrics.scrapes),
      leads: () => !this.stopping && this.elector.leads,
      changed: (key: string) => this.runner.add(key),
      log,
    };
    this.autoscaler = new Autoscaler({ ...looking, intervalMs: options.scrapeMs });
    this.ranks = new RankWatcher({ ...looking, intervalMs: Math.min(ranksMs, options.scrapeMs) });
    const reconciler = new Reconciler({
      client: this.client,
      watched: this.watched,
      writer: new Writer(this.client, leftMs),
      events: this.events,
      autoscaler: this.autoscaler,
      ranks: this.ranks,
      config: options.planner,
      log,
      ended: metrics.roundEnded,
    });
    this.runner = new QueueRunner(queue, options.concurrency, (key) => reconciler.round(key), metrics.queue);
    observeOperator(options.metrics, {
      leads: () => this.elector.leads,
      queued: () => queue.depth(performance.now()),
      failing: () => queue.failing,
      modelServices: () => this.watched.services.store.size,
      desiredReplicas: () => this.autoscaler.desired(),
      informers: () =>
        this.watched.informers().map((informer) => ({
          resource: informer.resource,
          objects: informer.store.size,
          silentSeconds: informer.silentMs(performance.now()) / 1000,
        })),
    });
  }

  start(): void {
    this.watched.start();
    this.elector.start();
    this.autoscaler.start();
    this.ranks.start();
  }

  /** Lets the rounds that run end, then gives the Lease back: the next leader finds nothing half written by us still under way. */
  async stop(): Promise<void> {
    this.stopping = true;
    await this.autoscaler.stop();
    await this.ranks.stop();
    await this.runner.stop();
    await this.events.stop(eventsStopMs);
    await this.elector.stop();
    await this.watched.stop();
    this.client.close();
  }

  /** Whoever does not lead is ready as well: to take over. */
  readiness(): Readiness {
    const informers = this.watched.needed();
    const missing = informers.filter(({ synced }) => !synced).map(({ resource }) => resource);
    if (missing.length > 0) return { ready: false, reason: `not listed yet: ${missing.join(", ")}` };
    const stale = informers.filter((informer) => informer.isStale(performance.now()));
    if (stale.length === 0) return { ready: true };
    const said = stale.map((informer) => `${informer.resource} for ${Math.round(informer.silentMs(performance.now()) / 1000)} s`);
    return { ready: false, reason: `the API server says nothing about ${said.join(", ")}` };
  }

  /** For GET /models; whoever leads. */
  sleepingModels(): SleepingModels {
    // A gateway keeps what it was told last.
    if (!this.watched.services.synced) throw new Error("ModelServices are not listed yet");
    return { models: this.watched.sleepers().map((name) => ({ name })) };
  }

  /** For GET /leader. */
  leadership(): { leads: boolean; holder: string | undefined } {
    return { leads: this.elector.leads, holder: this.elector.holder };
  }
}
