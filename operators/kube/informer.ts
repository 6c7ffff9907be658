// A copy of what the API server has of one kind, kept up to date by a watch: through versions that are too old (410), watches that end, hang or
// are cut, and an API server that is away. When to list and when to watch is decided in watch-steps.ts.
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../../services/lib/contracts/bus.ts";
import { type ApiClient, ApiError } from "./api-client.ts";
import { type ApiObject, ObjectStore } from "./object-store.ts";
import { collectionPath, pluralOf } from "./resources.ts";
import { afterStep, neverListed, type StepEnd, type WatchState, type WatchTimes } from "./watch-steps.ts";

export interface InformerOptions<T extends ApiObject> {
  client: ApiClient;
  resource: { apiVersion: string; kind: string };
  /** For metrics and messages, where there is another informer of this kind; the plural of the kind unless given. */
  name?: string;
  /** undefined: all of them. */
  namespace?: string | undefined;
  labelSelector?: string;
  fieldSelector?: string;
  /** What group() of the store finds an object by. */
  groupOf?: (object: T) => string | undefined;
  changed: (before: T | undefined, after: T | undefined) => void;
  /** Everything is there for the first time; or was asked for in vain, for the first time. */
  listed?: () => void;
  times: InformerTimes;
  log: Log;
  observer: InformerObserver;
}

export interface InformerTimes extends WatchTimes {
  /** A watch that says nothing for so long hangs: the API server sends a bookmark each minute. */
  inactivityMs: number;
  /** The server ends a watch after a time between the two, so that watches do not end together. */
  watchSeconds: [number, number];
}

export const informerTimes: InformerTimes = {
  baseMs: 500,
  maxMs: 30_000,
  healthyMs: 10_000,
  relistMs: 30 * 60_000,
  inactivityMs: 90_000,
  watchSeconds: [240, 300],
};

export interface InformerObserver {
  listed(resource: string): void;
  /** Why a list or watch is over. */
  ended(resource: string, why: "closed" | "cut" | "silent" | "gone" | "refused" | "failed"): void;
}

interface WatchEvent<T> {
  type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR";
  object: T & { code?: number; message?: string; details?: { retryAfterSeconds?: number } };
}

const pageSize = 500;

export class Informer<T extends ApiObject> {
  readonly resource: string;
  readonly store: ObjectStore<T>;
  private readonly stopper = new AbortController();
  private state: WatchState = neverListed;
  private heardMs = performance.now();
  private hasListed = false;
  private hasTried = false;
  private running: Promise<void> | undefined;

  constructor(private readonly options: InformerOptions<T>) {
    this.resource = options.name ?? pluralOf(options.resource.kind);
    this.store = new ObjectStore(options.groupOf ?? (() => undefined), options.changed);
  }

  start(): void {
    this.running = this.run();
  }

  async stop(): Promise<void> {
    this.stopper.abort();
    await this.running;
  }

  get synced(): boolean {
    return this.hasListed;
  }

  /** It has listed, or could not. */
  get tried(): boolean {
    return this.hasTried;
  }

  /** Since when nothing was heard of the API server; what it shows is at least so old where it is wrong. */
  silentMs(nowMs: number): number {
    return nowMs - this.heardMs;
  }

  /** Longer than a watch may be silent, and another try took. */
  isStale(nowMs: number): boolean {
    return this.silentMs(nowMs) > 2 * this.options.times.inactivityMs;
  }

  /** What the API server answered to a write. */
  learn(object: T): void {
    this.store.learn(object, this.state.version);
  }

  private async run(): Promise<void> {
    const { times } = this.options;
    let kind: "list" | "watch" = "list";
    while (!this.stopper.signal.aborted) {
      const end = kind === "list" ? await this.list() : await this.watch(this.state.version as string);
      if (this.stopper.signal.aborted) return;
      const { state, next } = afterStep(this.state, end, performance.now(), times, Math.random());
      this.state = state;
      kind = next.kind;
      if (next.afterMs > 0) await sleep(next.afterMs, undefined, { signal: this.stopper.signal }).catch(() => undefined);
    }
  }

  private async list(): Promise<StepEnd> {
    const { client, resource, namespace } = this.options;
    const items: T[] = [];
    try {
      let version = "";
      let next = "";
      do {
        const query = { ...this.selectors(), limit: pageSize, ...(next !== "" && { continue: next }) };
        const list = await client.call<{ items: T[]; metadata: { resourceVersion: string; continue?: string } }>(
          "GET",
          collectionPath(resource, namespace),
          { resource: this.resource, query, signal: this.stopper.signal },
        );
        items.push(...list.items);
        version = list.metadata.resourceVersion;
        next = list.metadata.continue ?? "";
        this.heardMs = performance.now();
      } while (next !== "");
      this.store.replace(items, version);
      const isFirst = !this.hasListed;
      this.hasListed = this.hasTried = true;
      if (isFirst) this.options.listed?.();
      this.options.observer.listed(this.resource);
      return { kind: "listed", version };
    } catch (error) {
      const isFirst = !this.hasTried;
      this.hasTried = true;
      if (isFirst && !this.stopper.signal.aborted) this.options.listed?.();
      return this.failed(error, "list");
    }
  }

  private async watch(from: string): Promise<StepEnd> {
    const { client, resource, namespace, times } = this.options;
    const begunMs = performance.now();
    const silence = new AbortController();
    const watchdog = setTimeout(() => silence.abort(), times.inactivityMs);
    const [least, most] = times.watchSeconds;
    const query = {
      ...this.selectors(),
      watch: true,
      allowWatchBookmarks: true,
      resourceVersion: from,
      timeoutSeconds: Math.round(least + Math.random() * (most - least)),
    };
    let version = from;
    let heard = false;
    try {
      const { lines } = await client.stream(collectionPath(resource, namespace), {
        resource: this.resource,
        query,
        signal: AbortSignal.any([this.stopper.signal, silence.signal]),
      });
      this.heardMs = performance.now();
      for await (const line of lines) {
        watchdog.refresh();
        this.heardMs = performance.now();
        const event = JSON.parse(line) as WatchEvent<T>;
        if (event.type === "ERROR") {
          const { code = 0, message = "", details } = event.object;
          throw new ApiError(code, "", message, details?.retryAfterSeconds && details.retryAfterSeconds * 1000);
        }
        version = event.object.metadata.resourceVersion;
        heard = true;
        if (event.type === "DELETED") this.store.delete(event.object);
        else if (event.type !== "BOOKMARK") this.store.put(event.object);
        // For learn(): how far this watch is.
        this.state = { ...this.state, version };
      }
      this.options.observer.ended(this.resource, "closed");
      return { kind: "closed", version, livedMs: performance.now() - begunMs, heard };
    } catch (error) {
      // What a watch brought before it was cut is known: it goes on from there.
      if (silence.signal.aborted) {
        this.options.log.warn({ resource: this.resource, silentMs: times.inactivityMs }, "a watch was silent too long, and is begun anew");
        this.options.observer.ended(this.resource, "silent");
        return { kind: "closed", version, livedMs: performance.now() - begunMs, heard };
      }
      const cut = heard && !(error instanceof ApiError);
      if (!cut) return this.failed(error, "watch");
      this.options.observer.ended(this.resource, "cut");
      return { kind: "closed", version, livedMs: performance.now() - begunMs, heard };
    } finally {
      clearTimeout(watchdog);
    }
  }

  private failed(error: unknown, doing: "list" | "watch"): StepEnd {
    if (this.stopper.signal.aborted) return { kind: "failed" };
    const { status = 0, retryAfterMs = undefined } = error instanceof ApiError ? error : {};
    const reason = error instanceof Error ? error.message : String(error);
    const gone = status === 410 || (doing === "watch" && status === 400);
    this.options.observer.ended(this.resource, gone ? "gone" : status === 403 || status === 404 ? "refused" : "failed");
    this.options.log.warn(
      { resource: this.resource, doing, status, error: reason },
      gone ? "listing anew" : "the API server did not answer",
    );
    return gone ? { kind: "gone" } : { kind: "failed", retryAfterMs };
  }

  private selectors(): Record<string, string> {
    const { labelSelector, fieldSelector } = this.options;
    return { ...(labelSelector && { labelSelector }), ...(fieldSelector && { fieldSelector }) };
  }
}
