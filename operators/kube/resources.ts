// The API server's paths of what the operator reads and writes.
import { expertPlacementKind } from "../api/expert-placement.ts";
import { apiVersion, kind } from "../api/model-service.ts";
import type { ObjectReference } from "../planner/kubernetes.ts";

export const plurals: Record<string, string> = {
  [kind]: "modelservices",
  [expertPlacementKind]: "expertplacements",
  Deployment: "deployments",
  StatefulSet: "statefulsets",
  LeaderWorkerSet: "leaderworkersets",
  PodDisruptionBudget: "poddisruptionbudgets",
  Pod: "pods",
  PersistentVolumeClaim: "persistentvolumeclaims",
  Lease: "leases",
  CustomResourceDefinition: "customresourcedefinitions",
  Event: "events",
};

export const modelServiceResource = { apiVersion, kind };
export const leaseApi = { apiVersion: "coordination.k8s.io/v1", kind: "Lease" };
export const expertPlacementResource = { apiVersion, kind: expertPlacementKind };

export function pluralOf(kind: string): string {
  const plural = plurals[kind];
  if (plural === undefined) throw new Error(`no plural of ${kind}`);
  return plural;
}

/** Of all objects of a kind: in a namespace, or in all of them. */
export function collectionPath(resource: { apiVersion: string; kind: string }, namespace?: string): string {
  const root = resource.apiVersion.includes("/") ? `/apis/${resource.apiVersion}` : `/api/${resource.apiVersion}`;
  return `${root}${namespace === undefined ? "" : `/namespaces/${encodeURIComponent(namespace)}`}/${pluralOf(resource.kind)}`;
}

export function objectPath(reference: Omit<ObjectReference, "uid">): string {
  return `${collectionPath(reference, reference.namespace)}/${encodeURIComponent(reference.name)}`;
}
