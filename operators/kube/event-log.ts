// Which events are told, and how: the same one again counts up in the one that is there, and an object that has too many to tell is cut short.
// Pure; events.ts sends what it says.
import type { PlannedEvent } from "../planner/events.ts";

export interface EventLogBounds {
  /** Events remembered, over all objects; the oldest are forgotten first. */
  remembered: number;
  /** The same again after so long is a new one. */
  seriesMs: number;
  /** Not counted up in one that was written last so long ago: the API server forgets it (--event-ttl, an hour unless told otherwise). */
  keptMs: number;
  /** New ones an object may have at once, and how long until there is room for another one. */
  burst: number;
  refillMs: number;
}

export const eventLogBounds: EventLogBounds = { remembered: 2000, seriesMs: 10 * 60_000, keptMs: 30 * 60_000, burst: 25, refillMs: 60_000 };

export type EventAction = { do: "create"; name: string } | { do: "count"; name: string; count: number } | { do: "drop" };

interface Told {
  name: string;
  count: number;
  lastMs: number;
  /** When the API server was told of it last. */
  writtenMs: number;
}

export class EventLog {
  /** In the order of their last use. */
  private readonly told = new Map<string, Told>();
  /** When an object's room is full again. */
  private readonly spent = new Map<string, number>();

  constructor(
    private readonly bounds: EventLogBounds,
    private readonly newName: (object: string) => string,
  ) {}

  decide(object: { name: string; uid: string }, event: PlannedEvent, nowMs: number): EventAction {
    const key = JSON.stringify([object.uid, event.type, event.reason, event.message]);
    const before = this.told.get(key);
    this.told.delete(key);
    const { seriesMs, keptMs } = this.bounds;
    if (before !== undefined && nowMs - before.lastMs < seriesMs && nowMs - before.writtenMs < keptMs) {
      const count = before.count + 1;
      // Each power of two: what happens again and again must not cost a call each time.
      const isWritten = (count & (count - 1)) === 0;
      this.told.set(key, { ...before, count, lastMs: nowMs, ...(isWritten && { writtenMs: nowMs }) });
      return isWritten ? { do: "count", name: before.name, count } : { do: "drop" };
    }
    if (!this.hasRoom(object.uid, nowMs)) return { do: "drop" };
    const name = this.newName(object.name);
    this.told.set(key, { name, count: 1, lastMs: nowMs, writtenMs: nowMs });
    trim(this.told, this.bounds.remembered);
    return { do: "create", name };
  }

  get size(): number {
    return this.told.size;
  }

  private hasRoom(uid: string, nowMs: number): boolean {
    const { burst, refillMs, remembered } = this.bounds;
    const fullMs = Math.max(this.spent.get(uid) ?? nowMs, nowMs) + refillMs;
    if (fullMs - nowMs > burst * refillMs) return false;
    this.spent.delete(uid);
    this.spent.set(uid, fullMs);
    trim(this.spent, remembered);
    return true;
  }
}

function trim(map: Map<string, unknown>, most: number): void {
  for (const key of map.keys()) {
    if (map.size <= most) return;
    map.delete(key);
  }
}
