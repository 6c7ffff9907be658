// Which models the gateway can answer for now, as their workers say.
import type { ErrorCode } from "../lib/contracts/errors.ts";
import type { Gateway } from "./gateway.ts";
import type { WorkerView } from "./state-view.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

type Directory = Pick<WorkerDirectory, "snapshot">;

export function readyDecodeWorkers(directory: Directory, modelName: string): WorkerView[] {
  return decodeWorkers(directory).filter((worker) => worker.state === "ready" && worker.modelName === modelName);
}

/** The context that some ready decode worker has (the router asks nobody for more than it has); null where none is ready. */
export function servedContext(directory: Directory, modelName: string): number | null {
  const ready = readyDecodeWorkers(directory, modelName);
  return ready.length === 0 ? null : Math.max(...ready.map((worker) => worker.maxPositions));
}

/** null: it has a decode worker. */
export function whyModelNotReady(directory: Directory, modelName: string): string | null {
  const decode = decodeWorkers(directory);
  const own = decode.filter((worker) => worker.modelName === modelName);
  if (own.some(({ state }) => state === "ready")) return null;
  if (own.length > 0) {
    const states = own.map(({ workerId, state, reason }) => `${workerId} is ${state}${reason ? ` (${reason})` : ""}`);
    return `no decode worker of ${modelName} is ready: ${states.join("; ")}`;
  }
  const others = decode.map((worker) => `${worker.workerId} serves ${worker.modelName}`);
  return `no decode worker of ${modelName} has reported${others.length === 0 ? "" : `: ${others.join("; ")}`}`;
}

/** Why the gateway answers nobody now; null where it can for one model at least: those that have no worker must not keep requests from the others. */
export function whyNotReady(gateway: Gateway): { code: ErrorCode; message: string } | null {
  if (gateway.admission.isClosed) return { code: "shutting_down", message: "the gateway is shutting down" };
  if (!gateway.client.options.bus.connected) return { code: "bus_unavailable", message: "not connected to NATS" };
  const reasons = [...gateway.models.keys()].map((name) => whyModelNotReady(gateway.directory, name));
  return reasons.includes(null) ? null : { code: "no_workers", message: reasons.join("; ") };
}

function decodeWorkers(directory: Directory): WorkerView[] {
  return directory.snapshot().workers.filter((worker) => worker.role === "decode");
}
