// The decode pool of a model whose experts are shared: a StatefulSet, since a rank is a pod's number and a pod made anew is the same rank. It is never
// changed in place: ranks of different settings do not meet, and a rolling change would lose each rank in turn. Another form has another name, and the
// old group stays until the new one is ready.
import { createHash } from "node:crypto";
import type { Experts } from "../api/model-service.ts";
import { canonicalJson } from "./difference.ts";

/** Which group a rank's pod belongs to: the StatefulSet's name. */
export const rankGroupLabel = "pelagic.dev/rank-group";
export const ranksPort = 9200;

/** The pods' labels are made from it, and what may come behind it leaves a pool's name four characters more. */
const suffixLength = 4;

/** The same for the same form of all that its pods are made from. */
export function groupSuffix(form: unknown): string {
  const bytes = createHash("sha256").update(canonicalJson(form)).digest();
  return bytes.readUInt32BE(0).toString(36).padStart(suffixLength, "0").slice(-suffixLength);
}

/** Of services on one bus the group's name is one: the namespace is in it. */
export function rankEnv({ ranks, redundancy, policy, rebalanceSeconds }: Experts, namespace: string, group: string): object[] {
  const field = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });
  return [
    field("PELAGIC_RANK", "metadata.labels['apps.kubernetes.io/pod-index']"),
    { name: "PELAGIC_RANK_COUNT", value: String(ranks) },
    { name: "PELAGIC_RANK_GROUP", value: `${namespace}/${group}` },
    { name: "PELAGIC_REDUNDANT_EXPERTS", value: String(redundancy) },
    { name: "PELAGIC_EXPERT_POLICY", value: policy },
    { name: "PELAGIC_REBALANCE_SECONDS", value: String(rebalanceSeconds) },
    field("PELAGIC_RANK_HOST", "status.podIP"),
    { name: "PELAGIC_RANK_PORT", value: String(ranksPort) },
  ];
}
