// The order in which waiting requests are served. The first of these that tells two apart decides:
//
//   class      high before normal before low
//   share      start-time fair queueing over the tokens of tenants (fair-order.ts)
//   deadline   whose first token is due sooner, as long as it can be met
//   arrival
//
// A tenant's own requests stand in its share by their deadlines, whenever they came; those without one by fair shares of the tenant's users.
//
// Every ageMs each tenant's longest waiting request of a class moves up one, and from the highest to where nobody overtakes it: however much
// others send, a tenant's only request waits no longer than three times ageMs and what stands before it then, and one behind others of its tenant
// ageMs more for each. One at a time, or a tenant would age its way past the others' shares by sending too much.
//
// Only waiting requests are moved. One that was served, and waits again because its blocks were taken, keeps its place or moves up. Pure; times
// come in.
import { type PriorityClass, priorityClasses } from "../contracts/messages.ts";
import { FairOrder } from "./fair-order.ts";

export interface Standing {
  /** Whose share it counts against. */
  tenant: string;
  /** Who among the tenant's. */
  user: string;
  priority: PriorityClass;
  /** When its first token should be there; infinite: no hurry. */
  dueAtMs: number;
}

interface Entry<T> {
  item: T;
  standing: Standing;
  tokens: number;
  /** 0: nobody overtakes it; then the classes. */
  rank: number;
  /** Since when it waits in this rank. */
  sinceMs: number;
  /** Its place in the tenant's share. */
  start: number;
  /** Its place among the tenant's users. */
  userStart: number;
  /** Its deadline; infinite where that cannot be met any more. Counts between tenants too. */
  dueAtMs: number;
  serial: number;
  waiting: boolean;
  served: boolean;
}

const firstInLine = 0;
/** Whose turn it is to move up is looked at so often in that time. */
const looksInAge = 32;
/** How often a tenant's request moves up a class. */
export const defaultAgeMs = 30_000;

export class RequestQueue<T> {
  private readonly ageMs: number;
  private readonly entries = new Map<T, Entry<T>>();
  private order: Entry<T>[] = [];
  private serial = 0;
  private agedAtMs = Number.NEGATIVE_INFINITY;
  /** When the last one of a tenant's class moved up. */
  private readonly movedAtMs = new Map<string, number>();
  /** Of the tenants in each class. */
  private readonly shares = priorityClasses.map(() => new FairOrder());
  /** Of the users of each tenant that is here. */
  private readonly userShares = new Map<string, { order: FairOrder; requests: number }>();

  constructor(ageMs = defaultAgeMs) {
    this.ageMs = ageMs;
  }

  get size(): number {
    return this.order.length;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const { item } of this.order) yield item;
  }

  /** `tokens`: what it counts for in its tenant's share. */
  add(item: T, standing: Standing, tokens: number, nowMs: number): void {
    const rank = priorityClasses.indexOf(standing.priority) + 1;
    const users = this.userShares.get(standing.tenant) ?? { order: new FairOrder(), requests: 0 };
    users.requests++;
    this.userShares.set(standing.tenant, users);
    const entry: Entry<T> = {
      item,
      standing,
      tokens,
      rank,
      sinceMs: nowMs,
      start: this.share(rank).place(standing.tenant, tokens).start,
      userStart: users.order.place(standing.user, tokens).start,
      dueAtMs: standing.dueAtMs,
      serial: this.serial++,
      waiting: true,
      served: false,
    };
    this.entries.set(item, entry);
    this.order.push(entry);
    this.arrange(nowMs);
  }

  /** It begins to be served. */
  serve(item: T): void {
    const entry = this.mustGet(item);
    entry.waiting = false;
    entry.served = true;
    if (entry.rank !== firstInLine) this.share(entry.rank).admitted(entry);
    this.userShares.get(entry.standing.tenant)?.order.admitted({ start: entry.userStart, serial: entry.serial });
  }

  /** It waits again. */
  suspend(item: T, nowMs: number): void {
    const entry = this.mustGet(item);
    entry.waiting = true;
    entry.sinceMs = nowMs;
  }

  remove(item: T): void {
    const entry = this.mustGet(item);
    this.entries.delete(item);
    this.order.splice(this.order.indexOf(entry), 1);
    const users = this.userShares.get(entry.standing.tenant);
    if (users !== undefined && --users.requests === 0) this.userShares.delete(entry.standing.tenant);
  }

  /** Moves up whose turn it is. To be called before the order is used. */
  age(nowMs: number): void {
    if (nowMs - this.agedAtMs < this.ageMs / looksInAge) return;
    this.agedAtMs = nowMs;
    const oldest = new Map<string, Entry<T>>();
    for (const entry of this.order) {
      if (!entry.waiting || entry.rank === firstInLine) continue;
      // Whoever was served before is nobody's newcomer.
      const group = entry.served ? `served ${entry.serial}` : groupOf(entry);
      if (entry.serial < (oldest.get(group)?.serial ?? Number.POSITIVE_INFINITY)) oldest.set(group, entry);
    }
    for (const group of this.movedAtMs.keys()) if (!oldest.has(group)) this.movedAtMs.delete(group);
    let moved = false;
    for (const [group, entry] of oldest) {
      if (nowMs - Math.max(entry.sinceMs, this.movedAtMs.get(group) ?? Number.NEGATIVE_INFINITY) < this.ageMs) continue;
      this.movedAtMs.set(group, nowMs);
      entry.rank--;
      entry.sinceMs = nowMs;
      entry.start = entry.rank === firstInLine ? this.serial++ : this.share(entry.rank).place(entry.standing.tenant, entry.tokens).start;
      moved = true;
    }
    if (moved) this.arrange(nowMs);
  }

  private arrange(nowMs: number): void {
    const groups = new Map<string, Entry<T>[]>();
    for (const entry of this.order) {
      if (entry.served || entry.rank === firstInLine) continue;
      // To be early for one that is late already would only make others late.
      entry.dueAtMs = entry.standing.dueAtMs < nowMs ? Number.POSITIVE_INFINITY : entry.standing.dueAtMs;
      const own = groups.get(groupOf(entry));
      if (own === undefined) groups.set(groupOf(entry), [entry]);
      else own.push(entry);
    }
    for (const own of groups.values()) {
      if (own.length === 1) continue;
      let start = Math.min(...own.map((entry) => entry.start));
      own.sort((left, right) => compare(left.dueAtMs, right.dueAtMs) || left.userStart - right.userStart || left.serial - right.serial);
      for (const entry of own) {
        entry.start = start;
        start += entry.tokens;
      }
    }
    this.order.sort(
      (left, right) =>
        left.rank - right.rank || left.start - right.start || compare(left.dueAtMs, right.dueAtMs) || left.serial - right.serial,
    );
  }

  private share(rank: number): FairOrder {
    return this.shares[rank - 1] as FairOrder;
  }

  private mustGet(item: T): Entry<T> {
    const entry = this.entries.get(item);
    if (entry === undefined) throw new Error("not in this queue");
    return entry;
  }
}

/** A tenant's requests of one class. */
function groupOf<T>({ rank, standing }: Entry<T>): string {
  return `${rank} ${standing.tenant}`;
}

/** Of numbers that may be infinite. */
function compare(left: number, right: number): number {
  return left === right ? 0 : left < right ? -1 : 1;
}
