// Asks the decode pods of ModelServices with shared experts what group of ranks they are in, every few seconds, and keeps what they said last. It writes
// nothing: the reconciler asks it (reportsOf), and is called where something is said that was not before.
import { RankStatus, rankStatusPath } from "../../services/lib/contracts/rank-status.ts";
import type { Log } from "../../services/lib/contracts/bus.ts";
import type { ModelService } from "../api/model-service.ts";
import { podKey, scrapeTargets } from "../autoscale/pool-pods.ts";
import { isOver, type Pod } from "../planner/kubernetes.ts";
import { poolLabel } from "../planner/names.ts";
import type { RankReport } from "../planner/observed.ts";
import { keyOf } from "./object-store.ts";
import { readService } from "./read-service.ts";
import type { Scraper } from "./scraper.ts";
import type { WatchedCluster } from "./watched.ts";

export interface RankWatcherOptions {
  watched: WatchedCluster;
  scraper: Scraper;
  leads: () => boolean;
  /** Its ranks say something new. */
  changed: (key: string) => void;
  intervalMs: number;
  log: Log;
}

interface Kept {
  /** A namesake made later is another one. */
  uid: string;
  reports: RankReport[];
  /** All that is said but for times. */
  said: string;
}

export class RankWatcher {
  private readonly kept = new Map<string, Kept>();
  private readonly stopper = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();

  constructor(private readonly options: RankWatcherOptions) {}

  start(): void {
    const next = () => {
      if (this.stopper.signal.aborted) return;
      this.timer = setTimeout(() => {
        this.running = this.look().then(next);
      }, this.options.intervalMs);
    };
    next();
  }

  async stop(): Promise<void> {
    this.stopper.abort();
    clearTimeout(this.timer);
    await this.running;
    this.forget();
  }

  /** Another one leads, or this one begins to. */
  forget(): void {
    this.kept.clear();
  }

  /** undefined: they were not asked yet. */
  reportsOf({ metadata }: ModelService): RankReport[] | undefined {
    const kept = this.kept.get(`${metadata.namespace}/${metadata.name}`);
    return kept?.uid === metadata.uid ? kept.reports : undefined;
  }

  /** Never rejects. */
  private async look(): Promise<void> {
    const { watched, scraper, leads, log } = this.options;
    try {
      if (!leads() || !watched.synced) return;
      const due = this.due();
      const pods = new Map(due.map(({ key }) => [key, watched.observe(key, []).pods.filter(isDecode)]));
      const targets = scrapeTargets([...pods.values()].flat());
      const { answers } = await scraper.ask(targets, rankStatusPath, readStatus, this.stopper.signal);
      if (!leads() || this.stopper.signal.aborted) return;
      for (const { key, uid } of due) this.hear(key, uid, pods.get(key) ?? [], answers);
    } catch (error) {
      log.error({ error: error instanceof Error ? error.stack : String(error) }, "asking the ranks failed, and is tried again");
    }
  }

  private due(): { key: string; uid: string }[] {
    const due = this.options.watched.ownServices().flatMap((raw) => {
      const service = raw.metadata.deletionTimestamp === undefined ? readService(raw) : undefined;
      return service?.spec.experts === undefined ? [] : [{ key: keyOf(raw), uid: service.metadata.uid }];
    });
    const there = new Set(due.map(({ key }) => key));
    for (const key of this.kept.keys()) if (!there.has(key)) this.kept.delete(key);
    return due;
  }

  private hear(key: string, uid: string, pods: Pod[], answers: ReadonlyMap<string, RankStatus>): void {
    const before = this.kept.get(key);
    const atMs = Date.now();
    const reports = pods.flatMap((pod): RankReport[] => {
      const status = answers.get(podKey(pod));
      return status === undefined ? [] : [{ pod: pod.metadata.name, status, atMs }];
    });
    const said = JSON.stringify(reports.map(({ pod, status }) => [pod, withoutTimes(status)]));
    this.kept.set(key, { uid, reports, said });
    if (said !== before?.said) this.options.changed(key);
  }
}

function readStatus(text: string): RankStatus {
  return RankStatus.parse(JSON.parse(text));
}

function isDecode(pod: Pod): boolean {
  return pod.metadata.labels?.[poolLabel] === "decode" && !isOver(pod);
}

function withoutTimes({ history, ...rest }: RankStatus): object {
  return { ...rest, rounds: history.map(({ round }) => round) };
}
