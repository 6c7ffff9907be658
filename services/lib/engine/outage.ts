// While the bus is away nobody can renew a lease, so an outage shorter than the lease must end none. A longer one must: whoever held the
// lease has given up by then.
import type { Bus, Clock } from "../contracts/bus.ts";

export class Outage {
  private readonly bus: Bus;
  private readonly clock: Clock;
  private sinceMs: number | null = null;
  private lengthMs = 0;

  constructor(bus: Bus, clock: Clock) {
    this.bus = bus;
    this.clock = clock;
  }

  /** To be called with every tick of who asks. */
  look(): void {
    if (this.bus.connected) this.sinceMs = null;
    else this.sinceMs ??= this.clock.nowMs();
    this.lengthMs = this.sinceMs === null ? 0 : this.clock.nowMs() - this.sinceMs;
  }

  /** The bus is away, and not yet for longer than the lease. */
  excuses(leaseMs: number): boolean {
    return this.sinceMs !== null && this.lengthMs <= leaseMs;
  }
}
