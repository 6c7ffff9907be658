// Looks at gateways and workers every few seconds, and keeps for each ModelService with an autoscaling policy what ../autoscale remembers and
// decided last. It writes nothing: the reconciler asks it (decisionsOf), and is called where a decision is another one than before.
//
// Only the leader looks. A new one begins with what is there: pools keep their numbers until two scrapes have been compared, nothing is taken away
// before stabilizationSeconds have passed, and the words of the last decision stay in the status until there is another one.
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../../services/lib/contracts/bus.ts";
import { type ModelService, type PoolName, poolNames, servedNameOf } from "../api/model-service.ts";
import { type AutoscaleConfig, autoscaleConfigOf } from "../autoscale/config.ts";
import { type GatewaysHeard, told } from "../autoscale/decision.ts";
import type { Series } from "../autoscale/metrics-text.ts";
import { type AutoscaleState, planAutoscale } from "../autoscale/plan.ts";
import { podKey, replicasOf, scrapeTargets } from "../autoscale/pool-pods.ts";
import { type PoolPods, type Scrape, snapshotOf } from "../autoscale/scrape.ts";
import type { Pod, Workload } from "../planner/kubernetes.ts";
import { poolLabel } from "../planner/names.ts";
import type { Observed, ScalingDecision } from "../planner/observed.ts";
import { currentWorkload, ownObjects } from "../planner/own-objects.ts";
import { within } from "../planner/replicas.ts";
import { keyOf } from "./object-store.ts";
import { readService } from "./read-service.ts";
import type { Scraped, Scraper } from "./scraper.ts";
import type { WatchedCluster } from "./watched.ts";

export interface AutoscalerOptions {
  watched: Pick<WatchedCluster, "synced" | "observe" | "gatewayPods" | "gatewaysWhere" | "ownServices">;
  scraper: Scraper;
  leads: () => boolean;
  /** There is another decision about this one. */
  changed: (key: string) => void;
  intervalMs: number;
  log: Log;
}

export interface DesiredReplicas {
  namespace: string;
  modelservice: string;
  pool: PoolName;
  replicas: number;
}

type Decisions = Record<PoolName, ScalingDecision>;

interface Kept {
  /** A namesake made later is another one. */
  uid: string;
  /** For a ModelService of this spec. */
  config: AutoscaleConfig;
  service: ModelService;
  before: Scrape | null;
  state: AutoscaleState | null;
  decisions: Decisions | null;
}

/** One that sleeps is woken sooner than the others are looked at. */
const wakeMs = 3_000;
/** Looked at apart: who sleeps has no workers, and must not wait until all of the others' have answered. */
type Who = "awake" | "asleep";

export class Autoscaler {
  private readonly kept = new Map<string, Kept>();
  private readonly stopper = new AbortController();
  private running: Promise<void>[] = [];
  private lookedMs = Number.NEGATIVE_INFINITY;

  constructor(private readonly options: AutoscalerOptions) {}

  start(): void {
    this.running = (["awake", "asleep"] as const).map((who) => this.lookAgainAndAgain(who));
  }

  async stop(): Promise<void> {
    this.stopper.abort();
    await Promise.all(this.running);
    this.forget();
  }

  /** Never rejects. */
  private async lookAgainAndAgain(who: Who): Promise<void> {
    const { signal } = this.stopper;
    for (;;) {
      await sleep(Math.min(wakeMs, this.options.intervalMs), undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      await this.look(who);
    }
  }

  /** Another one leads, or this one begins to. */
  forget(): void {
    this.kept.clear();
    this.lookedMs = Number.NEGATIVE_INFINITY;
  }

  decisionsOf({ metadata }: ModelService): Decisions | undefined {
    const kept = this.kept.get(`${metadata.namespace}/${metadata.name}`);
    return kept?.uid === metadata.uid ? (kept.decisions ?? undefined) : undefined;
  }

  /** What was decided, within bounds, for who scales by a metric. */
  desired(): DesiredReplicas[] {
    return [...this.kept.values()].flatMap(({ service, decisions }) =>
      decisions === null
        ? []
        : poolNames.map((pool) => ({
            ...{ namespace: service.metadata.namespace, modelservice: service.metadata.name, pool },
            replicas: within(service, pool, decisions[pool]).replicas,
          })),
    );
  }

  /** Never rejects. */
  private async look(who: Who): Promise<void> {
    const { watched, leads, intervalMs, log } = this.options;
    try {
      if (!leads() || !watched.synced) return;
      if (who === "awake") {
        // A little early is not one look late.
        if (performance.now() - this.lookedMs < intervalMs - 100) return;
        this.lookedMs = performance.now();
      }
      const due = this.due(who);
      if (due.length > 0) await this.scrapeAndDecide(due);
    } catch (error) {
      log.error({ error: error instanceof Error ? error.stack : String(error) }, "autoscaling failed, and is tried again");
    }
  }

  private due(who: Who): Kept[] {
    const there = new Set<string>();
    const due: Kept[] = [];
    for (const raw of this.options.watched.ownServices()) {
      const key = keyOf(raw);
      const before = this.kept.get(key);
      const service = raw.metadata.deletionTimestamp === undefined ? readService(raw) : undefined;
      const config = service && autoscaleConfigOf(service.spec);
      if (!service || !config) continue;
      there.add(key);
      if (this.isAsleep(service) !== (who === "asleep")) continue;
      // Another object each time: a look that is still under way with the one before decides no more.
      const kept: Kept =
        before?.uid === service.metadata.uid
          ? { ...before, config, service }
          : { ...{ uid: service.metadata.uid, config, service }, before: null, state: null, decisions: null };
      this.kept.set(key, kept);
      due.push(kept);
    }
    for (const key of this.kept.keys()) if (!there.has(key)) this.kept.delete(key);
    return due;
  }

  private isAsleep(service: ModelService): boolean {
    const { prefill, decode } = workloadsOf(service, this.options.watched.observe(fullName(service), []));
    return prefill !== undefined && decode !== undefined && wantedOf(prefill) === 0 && wantedOf(decode) === 0;
  }

  private async scrapeAndDecide(due: Kept[]): Promise<void> {
    const { watched, scraper, leads, changed } = this.options;
    const gatewayPods = watched.gatewayPods();
    const targets = scrapeTargets([...gatewayPods, ...due.flatMap(({ service }) => watched.observe(fullName(service), []).pods)]);
    const scraped = await scraper.scrape(targets, this.stopper.signal);
    // What was seen by one that leads no longer is another one's to decide.
    if (!leads() || this.stopper.signal.aborted) return;
    const heard: GatewaysHeard = {
      where: watched.gatewaysWhere,
      gateways: replicasOf(gatewayPods, Date.now()),
      failures: failuresOf(gatewayPods, scraped),
    };
    for (const kept of due) {
      const key = fullName(kept.service);
      if (this.kept.get(key) === kept && this.decide(kept, scraped, gatewayPods, heard)) changed(key);
    }
  }

  /** Whether something is decided otherwise than before. */
  private decide(kept: Kept, scraped: Scraped, gatewayPods: Pod[], heard: GatewaysHeard): boolean {
    const { service, config, before, state, decisions } = kept;
    const observed = this.options.watched.observe(fullName(service), []);
    const workloads = workloadsOf(service, observed);
    // Not made yet: there is nothing to scale.
    if (workloads.prefill === undefined || workloads.decode === undefined) return false;
    const ofPool = (pool: PoolName) => observed.pods.filter(({ metadata }) => metadata.labels?.[poolLabel] === pool);
    const now: Scrape = {
      atSeconds: performance.now() / 1000,
      gateways: seriesOf(gatewayPods, scraped),
      prefill: seriesOf(ofPool("prefill"), scraped),
      decode: seriesOf(ofPool("decode"), scraped),
    };
    const poolOf = (pool: PoolName): PoolPods => ({ wanted: wantedOf(workloads[pool]), replicas: replicasOf(ofPool(pool), Date.now()) });
    const pools = { prefill: poolOf("prefill"), decode: poolOf("decode") };
    const snapshot = snapshotOf({ modelName: servedNameOf(service), before, now, gateways: heard.gateways, ...pools });
    const planned = planAutoscale(snapshot, config, state);
    kept.before = now;
    kept.state = planned.state;
    const made = { prefill: told(planned.prefill, heard), decode: told(planned.decode, heard) };
    // Rates need two scrapes: who has looked once does not yet complain, but wakes who is asked for.
    if (before === null && now.gateways.size > 0 && (made.prefill.blind || made.decode.blind)) return false;
    kept.decisions = made;
    return poolNames.some((pool) => !isSame(decisions?.[pool], made[pool]));
  }
}

const fullName = ({ metadata }: ModelService) => `${metadata.namespace}/${metadata.name}`;

function workloadsOf(service: ModelService, observed: Observed) {
  const own = ownObjects(service, observed);
  return { prefill: currentWorkload(service, "prefill", own), decode: currentWorkload(service, "decode", own) };
}

const wantedOf = (workload: Workload | undefined) => workload?.spec?.replicas ?? 1;

function isSame(a: ScalingDecision | undefined, b: ScalingDecision): boolean {
  return a !== undefined && a.replicas === b.replicas && a.reason === b.reason && a.blind === b.blind;
}

function seriesOf(pods: Pod[], { series }: Scraped): Map<string, Series> {
  return new Map(
    pods.flatMap((pod): [string, Series][] => {
      const its = series.get(podKey(pod));
      return its === undefined ? [] : [[pod.metadata.name, its]];
    }),
  );
}

function failuresOf(pods: Pod[], { failures }: Scraped): Map<string, string> {
  return new Map(
    pods.flatMap((pod): [string, string][] => {
      const failure = failures.get(podKey(pod));
      return failure === undefined ? [] : [[pod.metadata.name, failure]];
    }),
  );
}
