// Candidates with clocks of their own, an API server that orders writes, and a network that delays and loses: never two that may act.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Election, type ElectionAnswer, type ElectionRequest, electionTimes, type LeaseRecord } from "./election.ts";

/** Half of what leaseMs / renewDeadlineMs allows: 1.2 against 1.5. */
const rates = { slow: 0.91, fast: 1.09 };

class Server {
  lease: LeaseRecord | undefined;
  private versions = 0;

  answer(request: ElectionRequest): ElectionAnswer {
    if (request.kind === "get") return this.lease === undefined ? { kind: "absent" } : { kind: "lease", record: this.lease };
    if (request.kind === "create" && this.lease !== undefined) return { kind: "conflict" };
    if (request.kind === "update" && this.lease?.version !== request.version) return { kind: "conflict" };
    this.lease = { ...request.record, version: String(++this.versions) };
    return { kind: "lease", record: this.lease };
  }

  /** As helm upgrade --force writes it; `wiped` false: as it is made anew after somebody deleted it. */
  wipe(wiped = true): void {
    if (this.lease !== undefined) this.lease = { holder: "", leaseMs: 0, transitions: 0, wiped, version: String(++this.versions) };
  }
}

/** Of one call, in real ms. `lost`: on its way there, or back. */
const call = fc.record({
  thereMs: fc.oneof({ weight: 8, arbitrary: fc.nat(200) }, { weight: 1, arbitrary: fc.nat(20_000) }),
  backMs: fc.nat(200),
  lost: fc.oneof({ weight: 8, arbitrary: fc.constant("no") }, { weight: 1, arbitrary: fc.constantFrom("there", "back") }),
});
const candidate = fc.record({
  rate: fc.double({ min: rates.slow, max: rates.fast, noNaN: true }),
  offsetMs: fc.nat(1_000_000),
  startMs: fc.nat(5_000),
  /** From then on the process stands still for so long, as under a debugger or a full machine. */
  pauses: fc.array(fc.record({ atMs: fc.nat(90_000), ms: fc.nat(30_000) }), { maxLength: 2 }),
  calls: fc.array(call, { minLength: 1, maxLength: 40 }),
  /** Killed, in real ms; it comes back as another one. */
  killedMs: fc.option(fc.nat(80_000)),
});
const callTimeoutMs = 2_500;

interface Pending {
  request: ElectionRequest;
  begunMs: number;
  arrivesMs: number;
  returnsMs: number;
  answer: ElectionAnswer | undefined;
}

class Process {
  readonly election: Election;
  private pending: Pending | undefined;
  /** Calls that it gave up, and that may still arrive. */
  private orphans: Pending[] = [];
  private made = 0;

  constructor(
    readonly spec: {
      rate: number;
      offsetMs: number;
      startMs: number;
      pauses: { atMs: number; ms: number }[];
      calls: { thereMs: number; backMs: number; lost: string }[];
    },
    identity: string,
    private readonly server: Server,
  ) {
    this.election = new Election(identity, electionTimes);
  }

  clock(realMs: number): number {
    return this.spec.offsetMs + realMs * this.spec.rate;
  }

  /** The network's part of a real instant: what arrives. */
  deliver(realMs: number): void {
    for (const pending of [...this.orphans, ...(this.pending === undefined ? [] : [this.pending])])
      if (pending.answer === undefined && pending.arrivesMs <= realMs) pending.answer = this.server.answer(pending.request);
    this.orphans = this.orphans.filter(({ answer }) => answer === undefined);
  }

  step(realMs: number): void {
    if (realMs < this.spec.startMs || this.spec.pauses.some(({ atMs, ms }) => realMs >= atMs && realMs < atMs + ms)) return;
    const now = this.clock(realMs);
    if (this.pending !== undefined) {
      const { request, begunMs, returnsMs, answer } = this.pending;
      if (answer !== undefined && returnsMs <= realMs) this.election.answered(request, answer, begunMs, now);
      else if (now >= begunMs + callTimeoutMs) {
        this.election.answered(request, { kind: "failed" }, begunMs, now);
        if (answer === undefined) this.orphans.push(this.pending);
      } else return;
      this.pending = undefined;
    }
    const next = this.election.next(now);
    if (next.kind === "wait") return;
    const { thereMs, backMs, lost } = this.spec.calls[this.made++ % this.spec.calls.length] as {
      thereMs: number;
      backMs: number;
      lost: string;
    };
    const arrivesMs = lost === "there" ? Number.POSITIVE_INFINITY : realMs + thereMs;
    const returnsMs = lost === "no" ? arrivesMs + backMs : Number.POSITIVE_INFINITY;
    this.pending = { request: next, begunMs: now, arrivesMs, returnsMs, answer: undefined };
  }

  get idle(): boolean {
    return this.pending === undefined;
  }

  mayAct(realMs: number): boolean {
    return realMs >= this.spec.startMs && this.election.leftMs(this.clock(realMs)) > 0;
  }
}

const tickMs = 100;

describe("the election", () => {
  it("never lets two act at once", () => {
    fc.assert(
      fc.property(fc.array(candidate, { minLength: 2, maxLength: 3 }), fc.array(fc.nat(900), { maxLength: 3 }), (specs, wipes) => {
        const server = new Server();
        const processes = specs.map((spec, i) => new Process(spec, `candidate-${i}`, server));
        const dead = new Set<Process>();
        for (let realMs = 0; realMs < 90_000; realMs += tickMs) {
          if (wipes.includes(realMs / tickMs)) server.wipe();
          for (const [i, process] of [...processes].entries()) {
            process.deliver(realMs);
            const killedMs = specs[i]?.killedMs;
            if (killedMs !== undefined && killedMs !== null && realMs >= killedMs) dead.add(process);
            if (!dead.has(process)) process.step(realMs);
          }
          const acting = processes.filter((process) => !dead.has(process) && process.mayAct(realMs));
          expect(acting.length).toBeLessThanOrEqual(1);
        }
      }),
      { numRuns: 200 },
    );
  });

  it("stays with who leads where the Lease is wiped, or made anew", () => {
    const server = new Server();
    const good = { rate: 1, offsetMs: 7, pauses: [], calls: [{ thereMs: 20, backMs: 20, lost: "no" }] };
    const processes = [0, 500].map((startMs, i) => new Process({ ...good, startMs }, `candidate-${i}`, server));
    for (let realMs = 0; realMs < 60_000; realMs += tickMs) {
      if (realMs > 3_000 && realMs % 7_300 === 0) server.wipe(realMs % 14_600 === 0);
      for (const process of processes) {
        process.deliver(realMs);
        process.step(realMs);
      }
      if (realMs > 2_500) expect(processes.map((process) => process.mayAct(realMs))).toEqual([true, false]);
    }
  });

  it("would let two act if clocks differed fourfold", () => {
    // So the simulation can see what it is there to see.
    const server = new Server();
    const still = { pauses: [], calls: [{ thereMs: 0, backMs: 0, lost: "no" }], startMs: 0, offsetMs: 0 };
    const slow = new Process({ ...still, rate: 0.5, pauses: [] }, "slow", server);
    const fast = new Process({ ...still, rate: 2 }, "fast", server);
    let both = false;
    for (let realMs = 0; realMs < 60_000; realMs += tickMs) {
      slow.deliver(realMs);
      // Cut off after a while, and not aware of it.
      if (realMs < 10_000) slow.step(realMs);
      fast.deliver(realMs);
      fast.step(realMs);
      both ||= slow.mayAct(realMs) && fast.mayAct(realMs);
    }
    expect(both).toBe(true);
  });

  it("has a new leader within 16 s of the old one's death, also where the Lease is wiped then, and at once after a release", () => {
    fc.assert(
      fc.property(fc.nat(1999), fc.nat(30_000), fc.constantFrom("dies", "wiped", "releases"), (startMs, aliveMs, how) => {
        const releases = how === "releases";
        const server = new Server();
        const good = { rate: 1, offsetMs: 7, pauses: [], calls: [{ thereMs: 20, backMs: 20, lost: "no" }] };
        const first = new Process({ ...good, startMs: 0 }, "first", server);
        const second = new Process({ ...good, startMs: 500 + startMs }, "second", server);
        const endMs = 3_000 + aliveMs;
        let released = false;
        for (let realMs = 0; ; realMs += tickMs) {
          expect(realMs).toBeLessThan(endMs + (releases ? 3_000 : 16_000));
          if (how === "wiped" && realMs >= endMs && realMs < endMs + tickMs) server.wipe();
          first.deliver(realMs);
          second.deliver(realMs);
          if (realMs < endMs) first.step(realMs);
          // The elector lets the call that is under way end first.
          else if (releases && !released && !first.idle) first.step(realMs);
          else if (releases && !released) {
            const request = first.election.release(first.clock(realMs));
            if (request !== undefined) server.answer(request);
            expect(first.mayAct(realMs)).toBe(false);
            released = true;
          }
          second.step(realMs);
          if (realMs > 2_500 && realMs < endMs) expect([first.mayAct(realMs), second.mayAct(realMs)]).toEqual([true, false]);
          if (realMs >= endMs && second.mayAct(realMs)) break;
        }
      }),
      { numRuns: 50 },
    );
  });
});
