// How many more requests a model's decode workers take, and of whom, as far as this gateway knows: by what they said last, what was sent since, and
// what was let in and is not yet sent.
import { mayWait } from "../../lib/fair-queue/fair-order.ts";
import { isReadyDecodeOf, type ModelBuild } from "../model-workers.ts";
import type { RoutingSnapshot, WorkerView } from "../state-view.ts";
import type { WorkerDirectory } from "../worker-directory.ts";

export class Room {
  private readonly directory: Pick<WorkerDirectory, "snapshot">;
  private readonly build: ModelBuild;
  /** Let in, and not yet sent to a worker. */
  private pending = 0;
  /** Let in, and not over. */
  private readonly heldBy = new Map<string, number>();

  constructor(directory: Pick<WorkerDirectory, "snapshot">, build: ModelBuild) {
    this.directory = directory;
    this.build = build;
  }

  get places(): number {
    return placesLeft(this.directory.snapshot(), this.build) - this.pending;
  }

  /** Of so many places, the last of so many answers. A worker leaves places to tenants that have none (mayWait): whom it would refuse waits here. */
  takes(tenant: string, places: number, answers = 1): boolean {
    const held = this.heldBy.get(tenant) ?? 0;
    const fits = (own: number) => mayWait(own + answers - 1, answers - 1, places);
    if (fits(held)) return true;
    // Many of those run, perhaps, and only what waits takes places: no more of this tenant's than of all.
    return places >= answers && fits(Math.min(held, this.capacity - places));
  }

  private get capacity(): number {
    return places(this.directory.snapshot(), this.build, ({ requests }) => requests.maxWaiting);
  }

  /** Whether workers with empty queues would take so many answers of one tenant. */
  couldTake(answers: number): boolean {
    return answers === 1 || mayWait(answers - 1, answers - 1, this.capacity);
  }

  /** Returns what to call when one of its answers is asked for, and when the request is over. */
  enter(tenant: string, answers = 1): { dispatched(): void; leave(): void } {
    let pending = answers;
    let held = answers;
    this.pending += answers;
    this.hold(tenant, answers);
    return {
      dispatched: () => {
        if (pending === 0) return;
        pending--;
        this.pending--;
      },
      leave: () => {
        this.pending -= pending;
        this.hold(tenant, -held);
        pending = held = 0;
      },
    };
  }

  private hold(tenant: string, amount: number): void {
    const count = (this.heldBy.get(tenant) ?? 0) + amount;
    if (count === 0) this.heldBy.delete(tenant);
    else this.heldBy.set(tenant, count);
  }
}

export function placesLeft(snapshot: RoutingSnapshot, build: ModelBuild): number {
  return places(snapshot, build, ({ requests, unreported }) => Math.max(0, requests.maxWaiting - requests.waiting - unreported.requests));
}

/** In the queues of ready workers. Infinite where there is none: nobody waits for a worker that may never come, but is told. */
function places({ workers }: RoutingSnapshot, build: ModelBuild, of: (worker: WorkerView) => number): number {
  const ready = workers.filter((worker) => isReadyDecodeOf(worker, build));
  return ready.length === 0 ? Number.POSITIVE_INFINITY : ready.reduce((sum, worker) => sum + of(worker), 0);
}
