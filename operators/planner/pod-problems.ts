// Why a pool's workers are not ready, in words that tell a person what to do. The first that is found in the order below is told.
import type { ModelService, PoolName } from "../api/model-service.ts";
import { type ContainerState, isOver, type Pod, type Workload } from "./kubernetes.ts";
import { workerContainer } from "./pod-template.ts";

export interface Problem {
  reason: string;
  message: string;
  /** It is the model that cannot be had, not the worker. */
  ofModel?: boolean;
}

/** A process that refuses its configuration ends with it (lib/runtime/process.ts). */
const configurationExitCode = 2;
/** Restarts after which a worker that is not ready counts as crashing, also between two crashes. */
const manyRestarts = 3;

type Finder = (pod: Pod, service: ModelService, pool: PoolName) => Problem | undefined;

const finders: Finder[] = [pullProblem, creationProblem, memoryProblem, crashProblem, schedulingProblem];

export function problemOf(service: ModelService, pool: PoolName, workloads: Workload[], pods: Pod[]): Problem | undefined {
  const waiting = pods.filter((pod) => pod.metadata.deletionTimestamp === undefined && !isOver(pod) && !isReady(pod));
  for (const find of finders) {
    for (const pod of waiting) {
      const problem = find(pod, service, pool);
      if (problem !== undefined) return problem;
    }
  }
  for (const { kind, metadata, status } of workloads) {
    const name = `${kind} ${metadata.name}`;
    const failure = status?.conditions?.find(({ type, status }) => type === "ReplicaFailure" && status === "True");
    if (failure !== undefined)
      return {
        reason: "PodsForbidden",
        message: `${name} may not create pods: ${brief(failure.message)}. Look at the namespace's quota and Pod Security level (hostPath needs privileged).`,
      };
    const late = status?.conditions?.find(({ type, reason }) => type === "Progressing" && reason === "ProgressDeadlineExceeded");
    if (late !== undefined)
      return {
        reason: "NotReadyInTime",
        message: `${name}: workers do not become ready. See kubectl describe pod and kubectl logs of the pods with pelagic.dev/pool=${pool}; /ready on their port metrics says what a worker waits for.`,
      };
  }
  return undefined;
}

function isReady({ status }: Pod): boolean {
  return status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}

/** It has been ready since its worker started again: its crashes of before are not why it is not ready now. */
function hasRecovered(pod: Pod): boolean {
  const startedAt = workerOf(pod)?.state?.running?.startedAt;
  const unreadySince = pod.status?.conditions?.find(({ type }) => type === "Ready")?.lastTransitionTime;
  return Date.parse(unreadySince ?? "") > Date.parse(startedAt ?? "");
}

function workerOf(pod: Pod) {
  return pod.status?.containerStatuses?.find(({ name }) => name === workerContainer);
}

function waitingOf(pod: Pod): NonNullable<ContainerState["waiting"]> {
  return workerOf(pod)?.state?.waiting ?? {};
}

function pullProblem(pod: Pod, { spec }: ModelService): Problem | undefined {
  const { reason = "", message } = waitingOf(pod);
  if (!["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"].includes(reason))
    return undefined;
  const model = spec.model.image?.reference;
  if (model !== undefined && message?.includes(model))
    return {
      reason: "ModelImageNotPulled",
      message: `Pod ${pod.metadata.name} cannot pull the model: ${brief(message)}. Check spec.model.image.reference and the nodes' access to the registry.`,
      ofModel: true,
    };
  return {
    reason: "ImageNotPulled",
    message: `Pod ${pod.metadata.name} cannot pull the worker image: ${brief(message) || reason}. Check spec.image (or the operator's --worker-image), pull secrets and the nodes' access to the registry.`,
  };
}

function creationProblem(pod: Pod): Problem | undefined {
  const { reason = "", message } = waitingOf(pod);
  if (!["CreateContainerConfigError", "CreateContainerError", "RunContainerError"].includes(reason)) return undefined;
  return {
    reason: "ContainerNotCreated",
    message: `Pod ${pod.metadata.name}: ${brief(message) || reason}. See kubectl describe pod ${pod.metadata.name}.`,
  };
}

function memoryProblem(pod: Pod, _: ModelService, pool: PoolName): Problem | undefined {
  const worker = workerOf(pod);
  const killed = [worker?.state, worker?.lastState].some((state) => state?.terminated?.reason === "OOMKilled");
  if (!killed || hasRecovered(pod)) return undefined;
  return {
    reason: "OutOfMemory",
    message: `Pod ${pod.metadata.name} was killed for memory. Raise spec.pools.${pool}.resources.limits.memory, or lower cacheMemoryMib.`,
  };
}

function crashProblem(pod: Pod, _: ModelService, pool: PoolName): Problem | undefined {
  const worker = workerOf(pod);
  const isCrashing = (worker?.restartCount ?? 0) >= manyRestarts && !hasRecovered(pod);
  if (waitingOf(pod).reason !== "CrashLoopBackOff" && !isCrashing) return undefined;
  const exitCode = worker?.lastState?.terminated?.exitCode ?? worker?.state?.terminated?.exitCode;
  const why =
    exitCode === configurationExitCode
      ? `it refuses its configuration; look at spec.pools.${pool}.podTemplate.env`
      : `exit code ${exitCode ?? "unknown"}`;
  return {
    reason: "WorkerCrashes",
    message: `Pod ${pod.metadata.name} ends again and again (${why}). See kubectl logs ${pod.metadata.name} --previous.`,
  };
}

function schedulingProblem(pod: Pod, { spec }: ModelService, pool: PoolName): Problem | undefined {
  const scheduled = pod.status?.conditions?.find(({ type }) => type === "PodScheduled");
  if (scheduled?.status !== "False" || scheduled.reason !== "Unschedulable") return undefined;
  const claim = spec.model.pvc?.claimName;
  if (claim !== undefined && scheduled.message?.includes(`persistentvolumeclaim "${claim}" not found`))
    return { reason: "ClaimNotFound", message: claimNotFound(claim), ofModel: true };
  return {
    reason: "Unschedulable",
    message: `Pod ${pod.metadata.name} finds no node: ${brief(scheduled.message)}. Add nodes, or change spec.pools.${pool} (resources, gpus, nodeSelector, tolerations); a change of a running pool needs room for one worker more.`,
  };
}

export function claimNotFound(claim: string): string {
  return `PersistentVolumeClaim ${claim} does not exist in this namespace. Create it, or change spec.model.pvc.claimName.`;
}

/** What others say can be long; one sentence is enough here, and no full stop. */
function brief(message: string | undefined): string {
  const line = (message ?? "").split("\n", 1)[0] as string;
  return (line.length > 300 ? `${line.slice(0, 300)}…` : line).replace(/\.$/, "");
}
