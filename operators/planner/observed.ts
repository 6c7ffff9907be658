// What the planner is told of the cluster: a snapshot from the informers' caches, never asked for while planning.
import type { PoolName } from "../api/model-service.ts";
import type { RankStatus } from "../../services/lib/contracts/rank-status.ts";
import type { KubernetesObject, Pod, Workload } from "./kubernetes.ts";

/** What autoscaling wants of a pool; bounds are the planner's to keep. */
export interface ScalingDecision {
  replicas: number;
  /** For a person: shown in status and events. */
  reason: string;
  /** The number is what it was, since there are no figures to decide by. */
  blind: boolean;
}

export interface RankReport {
  pod: string;
  status: RankStatus;
  /** When it said so. */
  atMs: number;
  /** Mean over largest load of the group's ranks; undefined: too little was computed to say. */
  balancedness: number | undefined;
}

export interface Overruled {
  kind: string;
  name: string;
  /** The hash of what was written. */
  written: string;
  /** The fingerprint of what came of it. */
  left: string;
  /** The first field that is otherwise. */
  field: string;
}

export interface Observed {
  /** Of the namespace, by label pelagic.dev/modelservice or by name: also such as belong to someone else. */
  deployments: Workload[];
  statefulSets: Workload[];
  leaderWorkerSets: Workload[];
  podDisruptionBudgets: KubernetesObject[];
  expertPlacements: KubernetesObject[];
  /** By label pelagic.dev/modelservice. */
  pods: Pod[];
  /** Whether the API server knows LeaderWorkerSets. */
  leaderWorkerSetApi: boolean;
  /** The claim of spec.model.pvc: its phase, or "missing"; undefined: not looked at. */
  claim?: string;
  /** The ModelService that had this one's served name first, as servedNameOwner() finds it. */
  servedNameOwner?: string;
  /** What decode pods that share experts said of their groups, when they were asked last; undefined: they were not. */
  ranks?: RankReport[];
  /** What autoscaling decided last. */
  scaling?: Partial<Record<PoolName, ScalingDecision>>;
  /** What came of applies and was not as it was written: an admission webhook of the cluster changes it, and would again. */
  overruled?: Overruled[];
  /** The last apply that the API server refused, until one succeeds. */
  refused?: { object: string; message: string };
}

interface Named {
  metadata: { name: string; namespace: string; creationTimestamp?: string };
  spec: { servedName?: string };
}

/**
 * The other ModelService with the same served name, where it is the older one (by name where both are equally old). In any namespace: all
 * workers of an operator are on one bus, where a gateway tells models apart by name.
 */
export function servedNameOwner(service: Named, all: Named[]): string | undefined {
  const servedName = ({ metadata, spec }: Named) => spec.servedName ?? metadata.name;
  const fullName = ({ metadata }: Named) => `${metadata.namespace}/${metadata.name}`;
  const age = (each: Named) => `${each.metadata.creationTimestamp ?? ""} ${fullName(each)}`;
  const older = all
    .filter((other) => fullName(other) !== fullName(service) && servedName(other) === servedName(service) && age(other) < age(service))
    .sort((a, b) => (age(a) < age(b) ? -1 : 1))[0];
  return older && fullName(older);
}
