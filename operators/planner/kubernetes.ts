// What the planner reads and writes of Kubernetes' own objects, as JSON has them (times are strings).

export interface ObjectMeta {
  name: string;
  namespace: string;
  uid?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
}

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface KubernetesObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
  spec?: object;
}

export interface ObjectCondition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

/** A Deployment, a StatefulSet or a LeaderWorkerSet. */
export interface Workload extends KubernetesObject {
  spec?: { replicas?: number };
  status?: {
    observedGeneration?: number;
    replicas?: number;
    readyReplicas?: number;
    updatedReplicas?: number;
    conditions?: ObjectCondition[];
  };
}

export interface ContainerStatus {
  name: string;
  ready?: boolean;
  restartCount?: number;
  state?: ContainerState;
  lastState?: ContainerState;
}

export interface ContainerState {
  waiting?: { reason?: string; message?: string };
  running?: { startedAt?: string };
  terminated?: { reason?: string; exitCode?: number; message?: string };
}

export interface Pod {
  metadata: ObjectMeta;
  spec?: { containers?: { image?: string; ports?: { name?: string; containerPort: number }[] }[] };
  status?: { phase?: string; podIP?: string; conditions?: ObjectCondition[]; containerStatuses?: ContainerStatus[] };
}

/** A pod that has ended holds nothing and nobody; one that was evicted stays to be looked at. */
export function isOver({ status }: Pod): boolean {
  return status?.phase === "Succeeded" || status?.phase === "Failed";
}

export interface ObjectReference {
  apiVersion: string;
  kind: string;
  namespace: string;
  name: string;
  /** Delete this one only: a namesake made since is another. */
  uid?: string;
}

export const workloadKinds = {
  Deployment: "apps/v1",
  StatefulSet: "apps/v1",
  LeaderWorkerSet: "leaderworkerset.x-k8s.io/v1",
} as const;
export type WorkloadKind = keyof typeof workloadKinds;

export const podDisruptionBudgetApi = "policy/v1";
