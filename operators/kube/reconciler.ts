// One round for one ModelService: snapshot, plan, and what the plan says, in its order. A round that fails part-way is begun anew by the queue.
import type { Log } from "../../services/lib/contracts/bus.ts";
import { expertPlacementKind } from "../api/expert-placement.ts";
import { ModelService, servedNameOf } from "../api/model-service.ts";
import { ModelServiceStatus } from "../api/status.ts";
import type { PlannerConfig } from "../planner/config.ts";
import { difference, fingerprint } from "../planner/difference.ts";
import type { KubernetesObject } from "../planner/kubernetes.ts";
import { fieldManager, hashAnnotation } from "../planner/names.ts";
import { type Observed, type Overruled, servedNameOwner } from "../planner/observed.ts";
import { plan, planUnreadable } from "../planner/plan.ts";
import type { Application, Plan } from "../planner/planned.ts";
import { type ApiClient, ApiError } from "./api-client.ts";
import type { Autoscaler } from "./autoscaler.ts";
import type { EventSender } from "./events.ts";
import type { ApiObject } from "./object-store.ts";
import type { RankWatcher } from "./rank-watcher.ts";
import { parseService } from "./read-service.ts";
import { expertPlacementResource, modelServiceResource, objectPath, pluralOf } from "./resources.ts";
import type { RawModelService, WatchedCluster } from "./watched.ts";
import { NotLeadingError, type Writer } from "./writer.ts";
import type { Outcome } from "./work-queue.ts";

export type RoundResult = "settled" | "changed" | "refused" | "failed" | "not_leading";

export interface ReconcilerOptions {
  client: ApiClient;
  watched: WatchedCluster;
  writer: Writer;
  events: EventSender;
  autoscaler: Pick<Autoscaler, "decisionsOf">;
  ranks: Pick<RankWatcher, "reportsOf">;
  config: PlannerConfig;
  log: Log;
  ended: (result: RoundResult, seconds: number) => void;
}

/** A bound claim is looked at again after so long. */
const claimMs = 5 * 60_000;

const unsaidMs = 1_000;

/** Of an apply: it will not do as it is, however often it is tried. */
const refusals = [400, 403, 422];
/** Of events that tell of a plan's writes. */
const doneReasons = ["Created", "Changed", "Pruned"];

class RefusedError extends Error {
  override name = "RefusedError";
}

export class Reconciler {
  /** Of ModelServices of which an apply was refused. */
  private readonly refused = new Map<string, NonNullable<Observed["refused"]>>();
  /** By ModelService; of objects by kind and name. */
  private readonly overruled = new Map<string, Map<string, Overruled>>();
  private readonly claims = new Map<string, { claim: string; phase: string; atMs: number }>();

  constructor(private readonly options: ReconcilerOptions) {}

  /** Never rejects. */
  async round(key: string): Promise<Outcome> {
    const begunMs = performance.now();
    let result: RoundResult = "failed";
    try {
      const { requeueAfterMs, wrote } = await this.attempt(key);
      result = wrote ? "changed" : "settled";
      return { ok: true, requeueAfterMs };
    } catch (error) {
      // Who leads next begins with every ModelService.
      if (error instanceof NotLeadingError) {
        result = "not_leading";
        return { ok: true };
      }
      if (error instanceof RefusedError) result = "refused";
      const { status = undefined, retryAfterMs = undefined } = error instanceof ApiError ? error : {};
      this.options.log.warn({ modelService: key, status, error: describe(error) }, "a round failed, and is begun anew later");
      return { ok: false, retryAfterMs };
    } finally {
      this.options.ended(result, (performance.now() - begunMs) / 1000);
    }
  }

  private async attempt(key: string): Promise<{ requeueAfterMs: number | undefined; wrote: boolean }> {
    const { watched, writer } = this.options;
    if (!writer.leads) {
      this.forget(key);
      throw new NotLeadingError("another one leads");
    }
    // Called again when everything is listed.
    if (!watched.synced) return { requeueAfterMs: undefined, wrote: false };
    const raw = watched.services.store.get(key);
    // Called again when the other one is gone.
    if (raw === undefined || watched.isOthers(raw.metadata.namespace)) {
      this.forget(key);
      return { requeueAfterMs: undefined, wrote: false };
    }
    let planned = await this.plan(key, raw, []);
    const unseen = await this.unseen(key, planned);
    const others = unseen.filter(({ metadata }) => !watched.isWatched(metadata, key));
    if (unseen.length > 0) planned = await this.plan(key, raw, others);
    // What was refused is no longer wanted.
    if (planned.apply.length === 0 && this.refused.delete(key)) planned = await this.plan(key, raw, others);
    try {
      await this.carryOut(key, raw, planned);
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      // It is said in the status, and tried again later.
      const { placement, status, events } = await this.plan(key, raw, others);
      await this.finish(key, {
        ...(placement && { placement }),
        status,
        events: events.filter(({ reason }) => !doneReasons.includes(reason)),
      });
      throw error;
    }
    const wrote =
      planned.apply.length + planned.prune.length + planned.events.length > 0 ||
      planned.status !== undefined ||
      planned.placement !== undefined ||
      planned.finalizer !== "keep";
    // An apply that changed nothing is not told of by a watch, and the status still calls it a change.
    const unsaid = planned.apply.length > 0 && this.overruled.has(key);
    return { requeueAfterMs: unsaid ? unsaidMs : planned.requeueAfterMs, wrote };
  }

  private forget(key: string): void {
    this.refused.delete(key);
    this.overruled.delete(key);
    this.claims.delete(key);
  }

  private async plan(key: string, raw: RawModelService, found: KubernetesObject[]): Promise<Plan> {
    const { watched, config } = this.options;
    const parsed = parseService(raw);
    if (!parsed.success) return planUnreadable(unreadable(raw), problemOf(parsed.error.issues), Date.now());
    const service = parsed.data;
    const refused = this.refused.get(key);
    const claim = await this.claimOf(key, service);
    const owner = servedNameOwner(
      service,
      watched.sameName(servedNameOf(service)).map(({ metadata, spec }) => ({ metadata, spec: spec ?? {} })),
    );
    const scaling = this.options.autoscaler.decisionsOf(service);
    const ranks = this.options.ranks.reportsOf(service);
    const observed: Observed = {
      ...watched.observe(key, found),
      ...(scaling !== undefined && { scaling }),
      ...(ranks !== undefined && { ranks }),
      ...(claim !== undefined && { claim }),
      ...(owner !== undefined && { servedNameOwner: owner }),
      ...(refused !== undefined && { refused }),
      ...(this.overruled.has(key) && { overruled: [...(this.overruled.get(key)?.values() ?? [])] }),
    };
    return plan(service, observed, config, Date.now());
  }

  private async carryOut(key: string, raw: RawModelService, planned: Plan): Promise<void> {
    const { watched, writer } = this.options;
    if (planned.finalizer === "add") watched.learn(await writer.finalizer(raw, "add"));
    for (const application of planned.apply) {
      try {
        const answer = await writer.apply(application);
        watched.learn(answer);
        this.compare(key, application, answer);
      } catch (error) {
        if (!(error instanceof ApiError) || !refusals.includes(error.status)) throw error;
        const { kind, metadata } = application.object;
        this.refused.set(key, { object: `${kind} ${metadata.name}`, message: error.message });
        throw new RefusedError(error.message);
      }
    }
    if (planned.apply.length > 0) this.refused.delete(key);
    for (const reference of planned.prune) await writer.prune(reference);
    await this.finish(key, planned);
    if (planned.finalizer === "remove") await this.letGo(key);
  }

  private compare(key: string, { object, fieldManager: manager }: Application, answer: ApiObject): void {
    if (manager !== fieldManager) return;
    const { kind, metadata } = object;
    const field = difference(object, answer as KubernetesObject);
    const known = this.overruled.get(key) ?? new Map<string, Overruled>();
    known.delete(`${kind} ${metadata.name}`);
    if (field !== undefined) {
      const written = metadata.annotations?.[hashAnnotation] ?? "";
      known.set(`${kind} ${metadata.name}`, { kind, name: metadata.name, written, left: fingerprint(answer as KubernetesObject), field });
    }
    if (known.size > 0) this.overruled.set(key, known);
    else this.overruled.delete(key);
  }

  /** Status and events. */
  private async finish(key: string, planned: Pick<Plan, "status" | "events" | "placement">): Promise<void> {
    const { watched, writer, events } = this.options;
    const raw = watched.services.store.get(key);
    if (raw === undefined) return;
    const placement = planned.placement && watched.lookup(expertPlacementKind, raw.metadata);
    if (planned.placement !== undefined && placement !== undefined)
      watched.learn(await writer.status(expertPlacementResource, placement, planned.placement));
    if (planned.status !== undefined) watched.learn(await writer.status(modelServiceResource, raw, planned.status));
    for (const event of planned.events)
      events.tell(raw.metadata as Required<Pick<typeof raw.metadata, "name" | "namespace" | "uid">>, event);
  }

  private async letGo(key: string): Promise<void> {
    const { watched, writer } = this.options;
    const raw = watched.services.store.get(key);
    if (raw === undefined) return;
    await writer.finalizer(raw, "remove").catch((error: unknown) => {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
    });
  }

  /**
   * What is to be made and is there already: someone else's without our label, which a forced apply would take over, or ours and newer than
   * the watch. Watched is only what has the label, since a cluster has many Deployments.
   */
  private async unseen(key: string, { apply }: Plan): Promise<KubernetesObject[]> {
    const { client, watched } = this.options;
    const answers = apply.map(async ({ object: { apiVersion, kind, metadata }, fieldManager: manager }) => {
      const known = watched.lookup(kind, metadata);
      if (manager !== fieldManager || (known !== undefined && watched.isWatched(known.metadata, key))) return [];
      const found = known ?? (await getOrUndefined<ApiObject>(client, { apiVersion, kind, ...metadata }));
      if (found === undefined) return [];
      if (watched.isWatched(found.metadata, key)) watched.learn({ ...found, kind });
      return [{ ...found, apiVersion, kind } as KubernetesObject];
    });
    return (await Promise.all(answers)).flat();
  }

  private async claimOf(key: string, { spec, metadata }: ModelService): Promise<string | undefined> {
    const claim = spec.model.pvc?.claimName;
    if (claim === undefined || metadata.deletionTimestamp !== undefined) return undefined;
    const known = this.claims.get(key);
    const nowMs = performance.now();
    if (known?.claim === claim && known.phase === "Bound" && nowMs - known.atMs < claimMs) return known.phase;
    const reference = { apiVersion: "v1", kind: "PersistentVolumeClaim", namespace: metadata.namespace, name: claim };
    const found = await getOrUndefined<ApiObject & { status?: { phase?: string } }>(this.options.client, reference);
    const phase = found === undefined ? "missing" : (found.status?.phase ?? "Pending");
    this.claims.set(key, { claim, phase, atMs: nowMs });
    return phase;
  }
}

/** The parts of an object that cannot be read as a whole: metadata is the API server's own, the status ours where it is sound. */
function unreadable(raw: RawModelService): Pick<ModelService, "metadata" | "status"> {
  const status = ModelServiceStatus.safeParse(raw.status);
  return {
    metadata: ModelService.shape.metadata.parse(raw.metadata),
    status: status.success ? status.data : undefined,
  };
}

function problemOf(issues: { path: PropertyKey[]; message: string }[]): string {
  return issues
    .slice(0, 5)
    .map(({ path, message }) => `${path.join(".")}: ${message}`)
    .join("; ");
}

async function getOrUndefined<T>(
  client: ApiClient,
  reference: { apiVersion: string; kind: string; namespace: string; name: string },
): Promise<T | undefined> {
  try {
    return await client.call<T>("GET", objectPath(reference), { resource: pluralOf(reference.kind) });
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}

function describe(error: unknown): string {
  if (error instanceof ApiError || error instanceof RefusedError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
