// Every write about a ModelService: only while this process leads, never longer under way than it may act, and never about a namesake.
import type { ExpertPlacementStatus } from "../api/expert-placement.ts";
import type { ModelServiceStatus } from "../api/status.ts";
import type { ObjectReference } from "../planner/kubernetes.ts";
import { fieldManager, finalizer } from "../planner/names.ts";
import type { Application } from "../planner/planned.ts";
import { type ApiClient, ApiError } from "./api-client.ts";
import type { ApiObject } from "./object-store.ts";
import { modelServiceResource, objectPath, pluralOf } from "./resources.ts";

/** Another one leads, or may soon: nothing more may be written. */
export class NotLeadingError extends Error {
  override name = "NotLeadingError";
}

const writeTimeoutMs = 5_000;

export class Writer {
  constructor(
    private readonly client: ApiClient,
    /** How long this process may still act. */
    private readonly leftMs: () => number,
  ) {}

  get leads(): boolean {
    return this.leftMs() > 0;
  }

  apply({ object, fieldManager: manager }: Application): Promise<ApiObject> {
    const { apiVersion, kind, metadata } = object;
    return this.write<ApiObject>("PATCH", objectPath({ apiVersion, kind, ...metadata }), {
      kind,
      query: { fieldManager: manager, force: true, fieldValidation: "Strict" },
      body: object,
      contentType: "application/apply-patch+yaml",
    });
  }

  /** What is gone, or another by now, needs no pruning. */
  async prune(reference: ObjectReference): Promise<void> {
    const { uid, ...rest } = reference;
    const body = { propagationPolicy: "Background", ...(uid && { preconditions: { uid } }) };
    await this.write("DELETE", objectPath(rest), { kind: reference.kind, body }).catch((error: unknown) => {
      if (!(error instanceof ApiError) || (error.status !== 404 && error.status !== 409)) throw error;
    });
  }

  status(
    resource: { apiVersion: string; kind: string },
    object: ApiObject,
    status: ModelServiceStatus | ExpertPlacementStatus,
  ): Promise<ApiObject> {
    const { name, namespace, uid } = object.metadata;
    return this.write<ApiObject>("PATCH", `${objectPath({ ...resource, namespace, name })}/status`, {
      kind: resource.kind,
      query: { fieldManager, force: true, fieldValidation: "Strict" },
      // With the uid: never of a namesake.
      body: { ...resource, metadata: { name, namespace, uid }, status },
      contentType: "application/apply-patch+yaml",
    });
  }

  /** Fails where the object has changed since: someone else's finalizer must not be lost. */
  finalizer(service: ApiObject, change: "add" | "remove"): Promise<ApiObject> {
    const { name, namespace, uid, resourceVersion } = service.metadata;
    const others = ((service.metadata as { finalizers?: string[] }).finalizers ?? []).filter((each) => each !== finalizer);
    const finalizers = change === "add" ? [...others, finalizer] : others;
    return this.write<ApiObject>("PATCH", objectPath({ ...modelServiceResource, namespace, name }), {
      kind: modelServiceResource.kind,
      query: { fieldManager },
      body: { metadata: { uid, resourceVersion, finalizers } },
      contentType: "application/merge-patch+json",
    });
  }

  private async write<T>(
    method: string,
    path: string,
    { kind, ...call }: { kind: string; query?: Record<string, string | boolean>; body: unknown; contentType?: string },
  ): Promise<T> {
    // First the waiting, then the question whether it may be.
    await this.client.pace();
    const leftMs = this.leftMs();
    if (leftMs <= 0) throw new NotLeadingError("leads no longer");
    return await this.client.call<T>(method, path, {
      ...call,
      resource: pluralOf(kind),
      timeoutMs: Math.min(writeTimeoutMs, leftMs),
      paced: true,
    });
  }
}
