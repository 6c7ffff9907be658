// What happens next in simulated time: a heap by time, then by order of entry.

interface Event {
  atMs: number;
  serial: number;
  run: () => void;
}

export class Events {
  nowMs = 0;
  private readonly heap: Event[] = [];
  private serial = 0;

  at(atMs: number, run: () => void): void {
    const event = { atMs: Math.max(atMs, this.nowMs), serial: this.serial++, run };
    const { heap } = this;
    let i = heap.push(event) - 1;
    for (let parent = (i - 1) >> 1; i > 0 && sooner(event, heap[parent] as Event); parent = (i - 1) >> 1) {
      heap[i] = heap[parent] as Event;
      i = parent;
    }
    heap[i] = event;
  }

  /** False: nothing is left. */
  next(): boolean {
    const { heap } = this;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return false;
    if (heap.length > 0) {
      let i = 0;
      for (let child = 1; child < heap.length; child = 2 * i + 1) {
        if (child + 1 < heap.length && sooner(heap[child + 1] as Event, heap[child] as Event)) child++;
        if (!sooner(heap[child] as Event, last)) break;
        heap[i] = heap[child] as Event;
        i = child;
      }
      heap[i] = last;
    }
    this.nowMs = first.atMs;
    first.run();
    return true;
  }
}

function sooner(left: Event, right: Event): boolean {
  return left.atMs < right.atMs || (left.atMs === right.atMs && left.serial < right.serial);
}
