// How the drain of one worker ends, told from what the worker says of itself. Pure.
import type { WorkerState } from "../lib/contracts/messages.ts";

export type DrainEnd = "drained" | "replaced" | "silent" | "timeout";

export class DrainWatch {
  /** The process that drains, once it says so; until then the one that spoke last. */
  instanceId: string | null = null;
  private draining = false;

  /** null: not yet. */
  see(state: Pick<WorkerState, "instanceId" | "state" | "requests">): DrainEnd | null {
    if (this.draining && state.instanceId !== this.instanceId) return "replaced";
    this.instanceId = state.instanceId;
    // One that stopped has nothing left.
    if (state.state === "stopped") return "drained";
    if (state.state !== "draining") return null;
    this.draining = true;
    return state.requests.running + state.requests.waiting === 0 ? "drained" : null;
  }
}
