// How the drain of one worker ends, told from what the worker says of itself. Pure.
import type { WorkerState } from "../lib/contracts/messages.ts";

export type DrainEnd = "drained" | "replaced" | "silent" | "timeout";

export class DrainWatch {
  /** The process that drains, once it says so or takes the order; until then the one that spoke last. And its pid. */
  instanceId: string | null = null;
  pid: number | null = null;
  private draining = false;

  /** It took the order: whoever speaks under its id from here on has to be the one that was there. */
  acknowledged(): void {
    this.draining = true;
  }

  /** null: not yet. */
  see(state: Pick<WorkerState, "instanceId" | "pid" | "state" | "requests">): DrainEnd | null {
    if (this.draining && this.instanceId !== null && state.instanceId !== this.instanceId) return "replaced";
    this.instanceId = state.instanceId;
    this.pid = state.pid;
    // One that stopped has nothing left.
    if (state.state === "stopped") return "drained";
    if (state.state !== "draining") return null;
    this.draining = true;
    return state.requests.running + state.requests.waiting === 0 ? "drained" : null;
  }
}
