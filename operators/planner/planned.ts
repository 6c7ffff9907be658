// What a round of planning says is to be done.
import type { ExpertPlacementStatus } from "../api/expert-placement.ts";
import type { ModelServiceStatus } from "../api/status.ts";
import type { PlannedEvent } from "./events.ts";
import type { KubernetesObject, ObjectReference } from "./kubernetes.ts";

/** One server-side apply, forced, by this field manager. */
export interface Application {
  object: KubernetesObject;
  fieldManager: string;
}

export interface Plan {
  /** add: before everything else. remove: after everything else. */
  finalizer: "add" | "remove" | "keep";
  /** In this order. */
  apply: Application[];
  prune: ObjectReference[];
  /** undefined: as it is. */
  status: ModelServiceStatus | undefined;
  /** Of its ExpertPlacement; undefined: as it is, or there is none. */
  placement?: ExpertPlacementStatus;
  events: PlannedEvent[];
  /** undefined: nothing to wait for but what watches tell. */
  requeueAfterMs: number | undefined;
}
