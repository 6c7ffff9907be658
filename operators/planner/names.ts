// Names, labels and annotations of what the operator makes.
import { apiVersion, kind, type ModelService, type PoolName } from "../api/model-service.ts";
import type { ObjectMeta, OwnerReference } from "./kubernetes.ts";

/** Writes everything but what it has given away. */
export const fieldManager = "pelagic-operator";
/** Writes spec.replicas where the first no longer does, so that the number stays as it is until someone else writes it. */
export const replicasFieldManager = "pelagic-operator-replicas";

export const finalizer = "pelagic.dev/drain";

/** Of the object as it was applied: what was taken out of it since is a difference too. */
export const hashAnnotation = "pelagic.dev/applied-hash";
/** Who writes spec.replicas: "operator" or "external". */
export const replicasAnnotation = "pelagic.dev/replicas-by";

export const serviceLabel = "pelagic.dev/modelservice";
export const poolLabel = "pelagic.dev/pool";

export function poolObjectName(service: ModelService, pool: PoolName): string {
  return `${service.metadata.name}-${pool}`;
}

/** What selects a pool's pods; never changes, since selectors cannot. */
export function poolSelector(service: ModelService, pool: PoolName): Record<string, string> {
  return { [serviceLabel]: service.metadata.name, [poolLabel]: pool };
}

export function poolLabels(service: ModelService, pool: PoolName): Record<string, string> {
  return {
    "app.kubernetes.io/name": "pelagic",
    "app.kubernetes.io/instance": service.metadata.name,
    "app.kubernetes.io/component": pool,
    "app.kubernetes.io/managed-by": "pelagic-operator",
    ...poolSelector(service, pool),
  };
}

export function ownerReference(service: ModelService): OwnerReference {
  const { name, uid } = service.metadata;
  return { apiVersion, kind, name, uid, controller: true, blockOwnerDeletion: true };
}

export function controllerOf(metadata: ObjectMeta): OwnerReference | undefined {
  return metadata.ownerReferences?.find(({ controller }) => controller === true);
}

export function isOwnedBy(metadata: ObjectMeta, service: ModelService): boolean {
  return controllerOf(metadata)?.uid === service.metadata.uid;
}
