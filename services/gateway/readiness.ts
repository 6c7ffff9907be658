// Which models the gateway can answer for now, as their workers say.
import type { ErrorCode } from "../lib/contracts/errors.ts";
import type { Gateway, HostedModel } from "./gateway.ts";
import { isOf, isReadyDecodeOf, type ModelBuild } from "./model-workers.ts";
import type { WorkerView } from "./state-view.ts";
import type { Pool } from "./vllm-metrics.ts";
import type { WakeQueue } from "./wake-queue.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

type Directory = Pick<WorkerDirectory, "snapshot">;

export function readyDecodeWorkers(directory: Directory, build: ModelBuild): WorkerView[] {
  return directory.snapshot().workers.filter((worker) => isReadyDecodeOf(worker, build));
}

/** Of each name its ready decode workers, of all builds, and what waits for them. */
export function poolsOf(builds: readonly HostedModel[], directory: Directory, waitingFor: (one: HostedModel) => number): Pool[] {
  return [...new Set(builds.map(({ model }) => model.name))].map((name) => ({
    modelName: name,
    waiting: builds.reduce((sum, one) => sum + (one.model.name === name ? waitingFor(one) : 0), 0),
    workers: readyDecodeWorkers(directory, { name, filesDigest: null }),
  }));
}

/** With those of which nothing is known but that requests wait for a worker of theirs. */
export function withSleeping(pools: Pool[], queue: WakeQueue | null): Pool[] {
  if (queue === null) return pools;
  const unknown = [...queue.wanted].filter((name) => !pools.some(({ modelName }) => modelName === name));
  return [...pools, ...unknown.map((modelName) => ({ modelName, waiting: 0, workers: [] }))].map((pool) => ({
    ...pool,
    waiting: pool.waiting + queue.waitingFor(pool.modelName),
  }));
}

/** The context that some ready decode worker has (the router asks nobody for more than it has); null where none is ready. */
export function servedContext(directory: Directory, build: ModelBuild): number | null {
  const ready = readyDecodeWorkers(directory, build);
  return ready.length === 0 ? null : Math.max(...ready.map((worker) => worker.maxPositions));
}

/** null: it has a decode worker. */
export function whyModelNotReady(directory: Directory, build: ModelBuild): string | null {
  const decode = decodeWorkers(directory);
  const own = decode.filter((worker) => isOf(worker, build));
  if (own.some(({ state }) => state === "ready")) return null;
  if (own.length > 0) {
    const states = own.map(({ workerId, state, reason }) => `${workerId} is ${state}${reason ? ` (${reason})` : ""}`);
    return `no decode worker of ${build.name} is ready: ${states.join("; ")}`;
  }
  const others = decode.map((worker) => `${worker.workerId} serves ${worker.modelName}`);
  return `no decode worker of ${build.name} has reported${others.length === 0 ? "" : `: ${others.join("; ")}`}`;
}

/** Why the gateway answers nobody now; null where it can for one model at least: those that have no worker must not keep requests from the others. */
export function whyNotReady(gateway: Gateway): { code: ErrorCode; message: string } | null {
  if (gateway.admission.isClosed) return { code: "shutting_down", message: "the gateway is shutting down" };
  if (!gateway.client.options.bus.connected) return { code: "bus_unavailable", message: "not connected to NATS" };
  // Where models come and go with their workers, having none is no reason to be asked nothing: whoever asks is told.
  if (gateway.learned !== null) {
    const { waitsFor } = gateway.learned;
    return waitsFor === null ? null : { code: "no_workers", message: waitsFor };
  }
  const reasons = Array.from(gateway.models.values(), ({ model }) => whyModelNotReady(gateway.directory, model));
  return reasons.includes(null) ? null : { code: "no_workers", message: reasons.join("; ") };
}

function decodeWorkers(directory: Directory): WorkerView[] {
  return directory.snapshot().workers.filter((worker) => worker.role === "decode");
}
