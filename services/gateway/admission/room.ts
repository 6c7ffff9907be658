// How many more requests a model's decode workers take, and of whom, as far as this gateway knows: by what they said last, what was sent since, and
// what was let in and is not yet sent.
import { mayWait } from "../../lib/fair-queue/fair-order.ts";
import type { RoutingSnapshot } from "../state-view.ts";
import type { WorkerDirectory } from "../worker-directory.ts";

export class Room {
  private readonly directory: Pick<WorkerDirectory, "snapshot">;
  private readonly modelName: string;
  /** Let in, and not yet sent to a worker. */
  private pending = 0;
  /** Let in, and not over. */
  private readonly heldBy = new Map<string, number>();

  constructor(directory: Pick<WorkerDirectory, "snapshot">, modelName: string) {
    this.directory = directory;
    this.modelName = modelName;
  }

  get places(): number {
    return placesLeft(this.directory.snapshot(), this.modelName) - this.pending;
  }

  /** Of so many places. A worker leaves places to tenants that have none (mayWait): whom it would refuse waits here. */
  takes(tenant: string, places: number): boolean {
    return mayWait(this.heldBy.get(tenant) ?? 0, 0, places);
  }

  /** Returns what to call when the request is sent, and when it is over; each counts once. */
  enter(tenant: string): { dispatched(): void; leave(): void } {
    let isPending = true;
    let isHeld = true;
    this.pending++;
    this.hold(tenant, 1);
    const dispatched = () => {
      if (isPending) this.pending--;
      isPending = false;
    };
    return {
      dispatched,
      leave: () => {
        dispatched();
        if (isHeld) this.hold(tenant, -1);
        isHeld = false;
      },
    };
  }

  private hold(tenant: string, amount: number): void {
    const count = (this.heldBy.get(tenant) ?? 0) + amount;
    if (count === 0) this.heldBy.delete(tenant);
    else this.heldBy.set(tenant, count);
  }
}

/** In the queues of ready workers. Infinite where there is none: nobody waits for a worker that may never come, but is told. */
export function placesLeft({ workers }: RoutingSnapshot, modelName: string): number {
  const ready = workers.filter((worker) => worker.role === "decode" && worker.state === "ready" && worker.modelName === modelName);
  if (ready.length === 0) return Number.POSITIVE_INFINITY;
  return ready.reduce(
    (sum, { requests, unreported }) => sum + Math.max(0, requests.maxWaiting - requests.waiting - unreported.requests),
    0,
  );
}
