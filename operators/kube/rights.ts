// What the operator may do, as RBAC rules: the chart's roles are made from these, and tests run the operator under them and no others.
export interface Rule {
  apiGroups: string[];
  resources: string[];
  resourceNames?: string[];
  verbs: string[];
}

/** The Lease of the leader election. One name for all: two operators that look after the same namespace take turns. */
export const leaseName = "pelagic-operator";

const watch = ["list", "watch"];
const read = ["get", ...watch];
const write = ["patch", "create", "delete"];

/** Where ModelServices are: in one namespace, or in all. */
export const modelServiceRules: Rule[] = [
  { apiGroups: ["pelagic.dev"], resources: ["modelservices"], verbs: [...watch, "patch"] },
  { apiGroups: ["pelagic.dev"], resources: ["modelservices/status"], verbs: ["patch"] },
  // An owner reference that blocks the owner's deletion needs it, where OwnerReferencesPermissionEnforcement is on (OpenShift).
  { apiGroups: ["pelagic.dev"], resources: ["modelservices/finalizers"], verbs: ["update"] },
  { apiGroups: ["pelagic.dev"], resources: ["expertplacements"], verbs: [...read, ...write] },
  { apiGroups: ["pelagic.dev"], resources: ["expertplacements/status"], verbs: ["patch"] },
  { apiGroups: ["apps"], resources: ["deployments", "statefulsets"], verbs: [...read, ...write] },
  { apiGroups: ["leaderworkerset.x-k8s.io"], resources: ["leaderworkersets"], verbs: [...read, ...write] },
  { apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: [...read, ...write] },
  { apiGroups: [""], resources: ["pods"], verbs: watch },
  { apiGroups: [""], resources: ["persistentvolumeclaims"], verbs: ["get"] },
  { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"] },
];

/** Whether the cluster knows LeaderWorkerSets. */
export const clusterRules: Rule[] = [
  {
    apiGroups: ["apiextensions.k8s.io"],
    resources: ["customresourcedefinitions"],
    resourceNames: ["leaderworkersets.leaderworkerset.x-k8s.io"],
    verbs: watch,
  },
];

/** Where all namespaces are looked after: which of them have an operator of their own. */
export const everywhereRules: Rule[] = [
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], resourceNames: [leaseName], verbs: watch },
];

/** In the operator's own namespace. The Lease is made beforehand: a right to create has no name, and would be one to make any. */
export const leaseRules: Rule[] = [
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], resourceNames: [leaseName], verbs: ["get", "update"] },
];
