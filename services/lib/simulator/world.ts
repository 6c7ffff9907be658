// Simulated time. Events run one after another in the order of their time; between two of them all promises settle, so a run depends on its
// seed and nothing else. A node is a process: it has a clock of its own, and can stand still, die and see its clock jump.
import type { Clock } from "../contracts/bus.ts";

interface Event {
  atMs: number;
  serial: number;
  run: () => void;
}

export class World {
  nowMs = 0;
  private serial = 0;
  /** A binary heap by time and order of scheduling. */
  private readonly heap: Event[] = [];

  at(atMs: number, run: () => void): void {
    const event = { atMs: Math.max(atMs, this.nowMs), serial: this.serial++, run };
    let i = this.heap.length;
    this.heap.push(event);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(event, this.heap[parent] as Event)) break;
      this.heap[i] = this.heap[parent] as Event;
      i = parent;
    }
    this.heap[i] = event;
  }

  after(delayMs: number, run: () => void): void {
    this.at(this.nowMs + delayMs, run);
  }

  /** Runs all that is due until then, or until the condition holds after an event. */
  async run(untilMs: number, done: () => boolean = () => false): Promise<void> {
    await settle();
    while (!done()) {
      const next = this.heap[0];
      if (next === undefined || next.atMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return;
      }
      this.pop();
      this.nowMs = next.atMs;
      next.run();
      await settle();
    }
  }

  private pop(): void {
    const last = this.heap.pop() as Event;
    const { heap } = this;
    if (heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!before(heap[child] as Event, last)) break;
      heap[i] = heap[child] as Event;
      i = child;
    }
    heap[i] = last;
  }
}

function before(left: Event, right: Event): boolean {
  return left.atMs < right.atMs || (left.atMs === right.atMs && left.serial < right.serial);
}

/** Until no promise is left that could go on without time passing. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

interface Timer {
  /** By the node's own clock. */
  dueMs: number;
  run: () => void;
}

/** One life of a process: a restart is another node. */
export class Node implements Clock {
  readonly id: string;
  readonly world: World;
  private readonly timers = new Set<Timer>();
  private jumpedMs = 0;
  private backlog: (() => void)[] | null = null;
  alive = true;
  /** World time since when nothing has been wrong with it; in the future while something is. */
  wellSinceMs: number;

  constructor(world: World, id: string) {
    this.world = world;
    this.id = id;
    this.wellSinceMs = world.nowMs;
  }

  get timerCount(): number {
    return this.timers.size;
  }

  /** Something is wrong with it for so long. */
  unwell(durationMs: number): void {
    this.wellSinceMs = Math.max(this.wellSinceMs, this.world.nowMs + durationMs);
  }

  nowMs(): number {
    return this.world.nowMs + this.jumpedMs;
  }

  setTimer(delayMs: number, run: () => void): () => void {
    const timer = { dueMs: this.nowMs() + Math.max(0, delayMs), run };
    this.timers.add(timer);
    this.schedule(timer);
    return () => this.timers.delete(timer);
  }

  /** Something reaches the process: at once, when it goes on, or never. */
  deliver(run: () => void): void {
    if (!this.alive) return;
    if (this.backlog === null) run();
    else this.backlog.push(run);
  }

  /** SIGKILL. */
  crash(): void {
    this.alive = false;
    this.timers.clear();
    this.backlog = null;
  }

  /** SIGSTOP, and SIGCONT after so long. Until then all that reaches it waits. */
  pause(durationMs: number): void {
    if (!this.alive || this.backlog !== null) return;
    this.backlog = [];
    this.world.after(durationMs, () => {
      const waiting = this.backlog ?? [];
      this.backlog = null;
      for (const run of waiting) this.world.after(0, () => this.deliver(run));
    });
  }

  /** Its clock goes forward: timers that lie in what was skipped are due. */
  jump(byMs: number): void {
    if (!this.alive) return;
    this.jumpedMs += byMs;
    for (const timer of this.timers) this.schedule(timer);
  }

  private schedule(timer: Timer): void {
    this.world.at(timer.dueMs - this.jumpedMs, () => {
      if (!this.timers.has(timer)) return;
      // One that is due in a pause can still be cancelled after it.
      this.deliver(() => {
        if (this.timers.delete(timer)) timer.run();
      });
    });
  }
}
