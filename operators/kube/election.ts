// Who leads, by a Lease: decisions only. What to ask the API server next, and what an answer means; the elector (elector.ts) asks and waits.
//
// Clocks are never compared. A follower takes over when it has seen the same version of the Lease for leaseMs by its own clock. A leader acts
// until renewDeadlineMs after it *began* its last renewal that was answered. The Lease was written after that, and seen by others later still; so
// with clocks that run alike within leaseMs / renewDeadlineMs nobody acts while another does.
//
// A Lease that nobody holds is free at once only where it was released, or never held. helm upgrade --force writes it anew without its holder, who
// may act yet: where one was seen to hold it, or it was changed since it was made, others wait for leaseMs as if it were held.

export interface ElectionTimes {
  leaseMs: number;
  renewDeadlineMs: number;
  retryMs: number;
}

/** A leader that dies is followed within leaseMs + retryMs and two answers: below 15 s. */
export const electionTimes: ElectionTimes = { leaseMs: 12_000, renewDeadlineMs: 8_000, retryMs: 2_000 };

/** Of a Lease what matters here. */
export interface LeaseRecord {
  version: string;
  /** Empty: released, or never held, or wiped. */
  holder: string;
  leaseMs: number;
  transitions: number;
  /** Nobody holds it and nobody says to have released it, and it is not as it was made. */
  wiped?: boolean;
}

const isReleased = ({ holder, leaseMs }: LeaseRecord) => holder === "" && leaseMs > 0;

export type ElectionRequest =
  | { kind: "get" }
  | { kind: "create"; record: Omit<LeaseRecord, "version"> }
  /** Fails where the Lease is no longer of this version. `taken`: from someone else, or after a release. */
  | { kind: "update"; version: string; record: Omit<LeaseRecord, "version">; taken: boolean };

/** conflict: someone else was first. failed: no answer, or an error. */
export type ElectionAnswer = { kind: "lease"; record: LeaseRecord } | { kind: "absent" | "conflict" | "failed" };

export type ElectionStep = { kind: "wait"; untilMs: number } | ElectionRequest;

export class Election {
  private seen: { record: LeaseRecord | undefined; sinceMs: number } | undefined;
  /** When the last renewal that was answered began. */
  private renewedMs: number | undefined;
  /** When somebody, whoever, was last seen to hold it. */
  private heldMs: number | undefined;
  private nextMs = Number.NEGATIVE_INFINITY;
  /** What is known may be old: look before writing. */
  private mustLook = true;

  constructor(
    private readonly self: string,
    private readonly times: ElectionTimes,
  ) {}

  /** How long this one may still act without another renewal; 0: not at all. */
  leftMs(nowMs: number): number {
    if (this.renewedMs === undefined) return 0;
    return Math.max(0, this.renewedMs + this.times.renewDeadlineMs - nowMs);
  }

  get holder(): string | undefined {
    return this.seen?.record?.holder;
  }

  next(nowMs: number): ElectionStep {
    if (nowMs < this.nextMs) return { kind: "wait", untilMs: this.nextMs };
    if (this.mustLook || this.seen === undefined) return { kind: "get" };
    const { record } = this.seen;
    const mine = { holder: this.self, leaseMs: this.times.leaseMs, transitions: 0 };
    if (nowMs < this.freeAtMs(nowMs)) return { kind: "get" };
    if (record === undefined) return { kind: "create", record: mine };
    const { version, holder, transitions } = record;
    const taken = holder !== this.self;
    return { kind: "update", version, record: { ...mine, transitions: transitions + (taken ? 1 : 0) }, taken };
  }

  /** When what was seen last may be written by this one. */
  private freeAtMs(nowMs: number): number {
    if (this.seen === undefined) return Number.POSITIVE_INFINITY;
    const { record, sinceMs } = this.seen;
    if (record?.holder === this.self || (record !== undefined && isReleased(record))) return nowMs;
    if (record !== undefined && record.holder !== "") return sinceMs + record.leaseMs;
    // Who leads puts it right at once.
    if (this.leftMs(nowMs) > 0) return nowMs;
    const wipedMs = record?.wiped ? sinceMs : undefined;
    return Math.max(nowMs, ...[this.heldMs, wipedMs].map((ms) => (ms ?? Number.NEGATIVE_INFINITY) + this.times.leaseMs));
  }

  answered(request: ElectionRequest, answer: ElectionAnswer, begunMs: number, nowMs: number): void {
    this.nextMs = begunMs + this.times.retryMs;
    this.mustLook = answer.kind === "conflict" || answer.kind === "failed";
    if (answer.kind === "conflict" || answer.kind === "failed") {
      // A conflict is worth a look at once; what failed, another try a little later.
      if (answer.kind === "conflict") this.nextMs = nowMs;
      return;
    }
    const record = answer.kind === "lease" ? answer.record : undefined;
    if (this.seen === undefined || this.seen.record?.version !== record?.version) this.seen = { record, sinceMs: nowMs };
    if (record !== undefined && record.holder !== "") this.heldMs = nowMs;
    if (request.kind === "get") {
      // Taken or renewed at once where that may be; otherwise looked at again when it would have run out, if that is sooner.
      if (record !== undefined && record.holder !== "" && record.holder !== this.self) this.renewedMs = undefined;
      this.nextMs = Math.max(nowMs, Math.min(this.nextMs, this.freeAtMs(nowMs)));
    } else if (record?.holder === this.self) {
      this.renewedMs = begunMs;
    }
  }

  /** The last write of one who stops: acts no more, and names what frees the Lease at once; undefined where it is not ours. */
  release(nowMs: number): ElectionRequest | undefined {
    const leads = this.leftMs(nowMs) > 0;
    this.renewedMs = undefined;
    const record = this.seen?.record;
    if (!leads || record === undefined || record.holder !== this.self) return undefined;
    const { version, transitions } = record;
    return { kind: "update", version, record: { holder: "", leaseMs: 1000, transitions }, taken: false };
  }
}
