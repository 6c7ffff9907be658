// Strikes the processes of a stack: waits for the planned point on the bus, then kills, stops for seconds, or ends with SIGTERM. One decode
// worker and one gateway are always left in peace, since a stack without any can only refuse.
import { Random } from "../../lib/simulator/random.ts";
import type { Stack, StackEvent, StackProcess } from "../stack/stack.ts";
import type { BusObserver, Sighting } from "./observer.ts";
import { nextGap, nextStrike, type Fault, type PlanOptions, type Role, type Strike } from "./plan.ts";
import { countIn, type Tree } from "./tally.ts";

export interface StrikerOptions extends PlanOptions {
  seed: number;
  /** One strike in each, at a random moment of it: so much between two in the mean, and up to twice as much. */
  meanGapMs: number;
  /** An outage of NATS is at most so long before it starts again. */
  maxOutageMs: number;
}

interface DoneStrike {
  atMs: number;
  text: string;
}

/** A point that does not come within this time is left for a random moment. */
const pointBoundMs = 4_000;
/** So many strikes are prepared at once: each waits for its own point. */
const lanes = 4;
const stopRangeMs = [200, 4_000] as const;
const randomDelayMs = 300;
/** Within this time of a strike a gateway's clients may lose their connection or be sent away. */
const gatewayBackMs = 12_000;
const pollMs = 20;
/** Within it a long pause between strikes hears that the run is over. */
const longestSleepMs = 200;

export class Striker {
  /** By fault, role and point. */
  readonly struck: Tree = {};
  strikes = 0;
  workerKills = 0;
  pointsMissed = 0;
  drainsCutShort = 0;
  /** A process died that nobody struck. */
  onUnexpectedDeath: (process: string, how: string) => void = () => {};
  private readonly stack: Stack;
  private readonly observer: BusObserver;
  private readonly options: StrikerOptions;
  private readonly random: Random;
  /** Deaths of ours to come, by pid. */
  private readonly doomed = new Map<number, Fault>();
  private readonly stoppedPids = new Set<number>();
  private readonly gatewayStruckMs = new Map<string, number>();
  private readonly pids = new Map<string, number>();
  private readonly done: DoneStrike[] = [];
  private natsBusyUntilMs = 0;
  /** The end of an outage of NATS that is to be a death. */
  private natsDeath: NodeJS.Timeout | null = null;
  private readonly waiting = new Set<{ strike: Strike; who: string | null; resolve: (sighting: Sighting | null) => void }>();
  paused = false;

  constructor(stack: Stack, observer: BusObserver, options: StrikerOptions) {
    this.stack = stack;
    this.observer = observer;
    this.options = options;
    this.random = new Random(options.seed);
    observer.onSighting = (sighting) => this.onSighting(sighting);
    for (const { name, pid } of stack.processes) if (pid !== undefined) this.pids.set(name, pid);
  }

  /** To be told of every event of the stack. */
  onStackEvent(event: StackEvent): void {
    if (event.event === "started") this.pids.set(event.process, event.pid);
    if (event.event !== "died") return;
    const pid = this.pids.get(event.process) ?? -1;
    const fault = this.doomed.get(pid);
    this.doomed.delete(pid);
    if (fault === undefined) this.onUnexpectedDeath(event.process, event.how);
    else if (fault === "restart" && !inOrder(event.process, event.how)) {
      // Its drain took longer than it may, or a second SIGTERM cut it short.
      if (event.how === "exited with 1") this.drainsCutShort++;
      else this.onUnexpectedDeath(event.process, event.how);
    }
  }

  /** A client of this gateway may have been cut off or sent away since then. */
  gatewayStruckSince(gateway: string, sinceMs: number): boolean {
    const atMs = this.gatewayStruckMs.get(gateway);
    return atMs !== undefined && atMs > sinceMs - gatewayBackMs;
  }

  /** Strikes since then, oldest first. */
  strikesSince(sinceMs: number): string[] {
    const now = performance.now();
    return this.done.filter(({ atMs }) => atMs >= sinceMs).map(({ atMs, text }) => `${Math.round(now - atMs)} ms ago: ${text}`);
  }

  async run(until: () => boolean): Promise<void> {
    const { meanGapMs, faults } = this.options;
    const begunMs = performance.now();
    let taken = 0;
    const lane = async () => {
      while (!until()) {
        const gap = nextGap(taken, (performance.now() - begunMs) / meanGapMs, lanes);
        taken = gap + 1;
        const strikeMs = begunMs + (gap + this.random.real()) * meanGapMs;
        while (performance.now() < strikeMs && !until()) await sleep(Math.min(longestSleepMs, strikeMs - performance.now()));
        while (!until() && (this.paused || !(await this.strikeOnce(until)))) await sleep(pollMs);
      }
    };
    if (faults.length > 0) await Promise.all(Array.from({ length: lanes }, lane));
  }

  /** Everything that was stopped goes on. */
  continueAll(): void {
    if (this.natsDeath !== null) clearTimeout(this.natsDeath);
    this.natsDeath = null;
    for (const pid of this.stoppedPids) signal(pid, "SIGCONT");
    this.stoppedPids.clear();
  }

  /** Whether there was somebody to strike. */
  private async strikeOnce(until: () => boolean): Promise<boolean> {
    const strike = nextStrike(this.random, this.options, (one) => this.countOf(one));
    let { point } = strike;
    let sighting: Sighting | null = null;
    if (point === "random") {
      await sleep(this.random.real() * randomDelayMs);
    } else {
      let who: string | null = null;
      if (point === "drain") {
        // Nothing drains unless it is told to.
        const drained = this.target(strike.role === "prefill" ? "prefill" : "decode", null);
        if (drained === null) return false;
        who = drained.name;
        this.terminate(drained, "random");
      }
      sighting = await this.sighted(strike, who);
      if (until() || this.paused) return false;
      if (sighting === null) {
        // It has ended by itself: a strike of its own.
        if (point === "drain") return true;
        this.pointsMissed++;
        point = "random";
      } else if (point === "drain") {
        // Somewhere within the drain, which has only begun.
        await sleep(this.random.real() * randomDelayMs);
      }
    }
    const target = this.target(strike.role, sighting);
    if (target === null) return false;
    this.strike(target, strike.fault, strike.role, point);
    return true;
  }

  private sighted(strike: Strike, who: string | null): Promise<Sighting | null> {
    return new Promise((resolve) => {
      const wait = { strike: { ...strike }, who, resolve: (sighting: Sighting | null) => done(sighting) };
      const timer = setTimeout(() => done(null), pointBoundMs);
      const done = (sighting: Sighting | null) => {
        clearTimeout(timer);
        this.waiting.delete(wait);
        resolve(sighting);
      };
      this.waiting.add(wait);
    });
  }

  private onSighting(sighting: Sighting): void {
    for (const wait of this.waiting) {
      if (sighting.point !== wait.strike.point) continue;
      if (wait.who !== null && wait.who !== sighting.decode && wait.who !== sighting.sender) continue;
      if (wait.strike.skip-- <= 0) wait.resolve(sighting);
    }
  }

  /** The process of this role that takes part, or any; null where striking it would leave nobody to go on. */
  private target(role: Role, sighting: Sighting | null): StackProcess | null {
    const { processes } = this.stack;
    if (role === "nats") {
      // One outage at a time.
      if (performance.now() < this.natsBusyUntilMs) return null;
      return processes.find(({ name }) => name === "nats") ?? null;
    }
    const healthy = processes.filter(({ name, pid }) => name.startsWith(`${role}-`) && pid !== undefined && this.isHealthy(name, pid));
    const named = role === "decode" ? sighting?.decode : role === "gateway" ? sighting?.gateway : sighting?.sender;
    // At a drain the one that drains is meant, or a gateway while it does.
    if (sighting?.point === "drain" && role !== "gateway") {
      const draining = processes.find(({ name, pid }) => name === named && pid !== undefined && this.doomed.has(pid));
      return draining ?? null;
    }
    const target =
      named === undefined ? (healthy.length > 0 ? this.random.pick(healthy) : undefined) : healthy.find(({ name }) => name === named);
    const needed = role === "prefill" ? 1 : 2;
    return target !== undefined && healthy.length >= needed ? target : null;
  }

  private isHealthy(name: string, pid: number): boolean {
    if (this.doomed.has(pid) || this.stoppedPids.has(pid)) return false;
    if (name.startsWith("gateway-")) return !this.gatewayStruckSince(name, performance.now() + gatewayBackMs / 2);
    const seen = this.observer.workers.get(name);
    return seen !== undefined && seen.pid === pid && seen.state === "ready";
  }

  private strike(target: StackProcess, fault: Fault, role: Role, point: Strike["point"]): void {
    if (target.pid === undefined) return;
    if (role === "nats") this.strikeNats(target, fault, point);
    else if (fault === "kill") this.kill(target, point);
    else if (fault === "restart") this.terminate(target, point);
    else this.stop(target, point, this.between(...stopRangeMs));
  }

  /** Killed and ended after standing still for a while, so that outages are of every length. */
  private strikeNats(target: StackProcess, fault: Fault, point: Strike["point"]): void {
    const lengthMs = this.random.real() * this.options.maxOutageMs;
    this.natsBusyUntilMs = performance.now() + lengthMs + 3_000;
    this.stop(target, point, lengthMs, fault === "stop");
    if (fault === "stop") return;
    this.natsDeath = setTimeout(() => {
      this.natsDeath = null;
      if (fault === "kill") this.kill(target, point);
      else this.terminate(target, point);
    }, lengthMs);
  }

  private kill(target: StackProcess, point: Strike["point"]): void {
    this.note(target, "kill", point);
    this.doomed.set(target.pid as number, "kill");
    signal(target.pid as number, "SIGKILL");
  }

  private terminate(target: StackProcess, point: Strike["point"]): void {
    this.note(target, "restart", point);
    this.doomed.set(target.pid as number, "restart");
    signal(target.pid as number, "SIGTERM");
    signal(target.pid as number, "SIGCONT");
  }

  private stop(target: StackProcess, point: Strike["point"], lengthMs: number, counts = true): void {
    const pid = target.pid as number;
    if (counts) this.note(target, "stop", point, ` for ${Math.round(lengthMs)} ms`);
    this.stoppedPids.add(pid);
    signal(pid, "SIGSTOP");
    setTimeout(() => {
      if (!this.stoppedPids.delete(pid)) return;
      signal(pid, "SIGCONT");
    }, lengthMs);
  }

  private note(target: StackProcess, fault: Fault, point: Strike["point"], more = ""): void {
    const role = roleOf(target.name);
    this.strikes++;
    if (fault === "kill" && (role === "decode" || role === "prefill")) this.workerKills++;
    if (role === "gateway" && fault !== "stop") this.gatewayStruckMs.set(target.name, performance.now());
    countIn(this.struck, [fault, role, point]);
    this.done.push({ atMs: performance.now(), text: `${fault} ${target.name} at ${point}${more}` });
    if (this.done.length > 2_000) this.done.shift();
  }

  private countOf({ fault, role, point }: Omit<Strike, "skip">): number {
    return (((this.struck[fault] as Tree | undefined)?.[role] as Tree | undefined)?.[point] as number | undefined) ?? 0;
  }

  private between(low: number, high: number): number {
    return low + this.random.real() * (high - low);
  }

  /** Resolves when no strike is still at work. */
  async settled(): Promise<void> {
    while (this.stoppedPids.size > 0 || this.doomed.size > 0 || this.natsDeath !== null) await sleep(pollMs);
  }
}

/** nats-server ends with 1 on SIGTERM, and a process that has only begun to start has no handler for it yet. */
function inOrder(process: string, how: string): boolean {
  return how === "exited with 0" || how === "killed by SIGTERM" || process === "nats";
}

function roleOf(name: string): Role {
  return name === "nats" ? "nats" : (name.slice(0, name.lastIndexOf("-")) as Role);
}

/** To exactly this process: the supervisor has not waited for it yet, so its pid is nobody else's. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone already.
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
