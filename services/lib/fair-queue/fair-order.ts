// Fair shares of tenants: start-time fair queueing (Goyal, Vin, Cheng 1996) over tokens.
//
//   start(request) = max(virtual time, the finish of the tenant's request before it)
//   finish         = start + its tokens
//   virtual time   = start of the request that was last admitted
//
// A tenant that floods the queue pushes its own requests back, one behind the other; another tenant's next request starts at the virtual
// time, before nearly all of them. With one tenant this is first come, first served. Pure.

export interface Place {
  /** Virtual start, in tokens. */
  start: number;
  /** Order of arrival: equal starts are served in it. */
  serial: number;
}

/** So many tenants are remembered, those that came last: users are named by clients, and who comes back much later is like a new one. */
const rememberedTenants = 1_024;

export class FairOrder {
  private virtualTime = 0;
  private serial = 0;
  private readonly lastFinish = new Map<string, number>();

  /** The place of a tenant's new request of so many tokens. */
  place(tenant: string, tokens: number): Place {
    const start = Math.max(this.virtualTime, this.lastFinish.get(tenant) ?? 0);
    this.lastFinish.delete(tenant);
    this.lastFinish.set(tenant, start + tokens);
    if (this.lastFinish.size > rememberedTenants) this.lastFinish.delete(this.lastFinish.keys().next().value as string);
    return { start, serial: this.serial++ };
  }

  /** The request in this place begins to be served. */
  admitted({ start }: Place): void {
    this.virtualTime = Math.max(this.virtualTime, start);
  }
}

/** A tenant may take this multiple of the places that are left. */
const shareOfRest = 4;

/**
 * Whether a tenant with `own` requests waiting may add one to a queue of `waiting`, bounded by `maxWaiting`: dynamic thresholds (Choudhury,
 * Hahne 1998). One tenant alone gets four fifths of the queue, and whoever comes then still finds a place.
 */
export function mayWait(own: number, waiting: number, maxWaiting: number): boolean {
  return waiting < maxWaiting && (own === 0 || own < shareOfRest * (maxWaiting - waiting));
}
