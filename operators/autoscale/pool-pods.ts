// Pods as the autoscaler sees them: replicas, each with the state that it is in and since when, and where their figures are asked for. Pure.
import { isOver, type Pod } from "../planner/kubernetes.ts";
import type { ReplicaPods } from "./scrape.ts";

/** The name of the port with /metrics, of gateways and workers. */
const portName = "metrics";
/** Of LeaderWorkerSets: pods with the same one are one replica. */
const groupLabel = "leaderworkerset.sigs.k8s.io/group-key";

export interface ScrapeTarget {
  /** namespace/name of its pod. */
  key: string;
  host: string;
  port: number;
}

export function podKey({ metadata }: Pod): string {
  return `${metadata.namespace}/${metadata.name}`;
}

/** Also of pods that are being stopped: their requests are load until they end. */
export function scrapeTargets(pods: readonly Pod[]): ScrapeTarget[] {
  return pods.flatMap((pod): ScrapeTarget[] => {
    const { spec, status } = pod;
    const ports = spec?.containers?.flatMap((container) => container.ports ?? []) ?? [];
    const port = ports.find(({ name }) => name === portName)?.containerPort;
    if (status?.phase !== "Running" || status.podIP === undefined || port === undefined) return [];
    return [{ key: podKey(pod), host: status.podIP, port }];
  });
}

/** Pods that are being stopped, or have ended, left out. */
export function replicasOf(pods: readonly Pod[], nowMs: number): ReplicaPods[] {
  const groups = new Map<string, Pod[]>();
  for (const pod of pods) {
    if (pod.metadata.deletionTimestamp !== undefined || isOver(pod)) continue;
    const group = pod.metadata.labels?.[groupLabel] ?? pod.metadata.name;
    groups.set(group, [...(groups.get(group) ?? []), pod]);
  }
  return [...groups].map(([name, members]) => {
    const states = members.map((pod) => stateOf(pod, nowMs));
    // It is as good as the worst of its pods, and since that one is.
    const worst = (["unschedulable", "starting", "ready"] as const).find((state) => states.some((each) => each.state === state)) ?? "ready";
    const since = states.filter(({ state }) => state === worst).map(({ stateSeconds }) => stateSeconds);
    const stateSeconds = worst === "unschedulable" ? Math.max(...since) : Math.min(...since);
    return { name, state: worst, stateSeconds, processes: members.map(({ metadata }) => metadata.name) };
  });
}

function stateOf({ metadata, status }: Pod, nowMs: number): Pick<ReplicaPods, "state" | "stateSeconds"> {
  const condition = (type: string) => status?.conditions?.find((each) => each.type === type);
  // The cluster's clock and ours may differ.
  const since = (time: string | undefined) => {
    const seconds = (nowMs - Date.parse(time ?? metadata.creationTimestamp ?? "")) / 1000;
    return Number.isFinite(seconds) ? Math.max(0, seconds) : 0;
  };
  const ready = condition("Ready");
  if (ready?.status === "True") return { state: "ready", stateSeconds: since(ready.lastTransitionTime) };
  const scheduled = condition("PodScheduled");
  if (scheduled?.status === "False" && scheduled.reason === "Unschedulable")
    return { state: "unschedulable", stateSeconds: since(scheduled.lastTransitionTime) };
  return { state: "starting", stateSeconds: since(ready?.lastTransitionTime) };
}
