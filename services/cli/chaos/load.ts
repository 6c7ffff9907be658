// Clients in a loop: those that stay must get exactly the right answer, from another gateway where theirs was struck; those that leave must
// have had a part of it.
import { Random } from "../../lib/simulator/random.ts";
import type { Stack } from "../stack/stack.ts";
import { difference, type Answer } from "./answer.ts";
import { ask, type Outcome } from "./client.ts";
import type { PoolRequest } from "./pool.ts";
import { sleep } from "./striker.ts";
import { count, type Counts, type Resumes } from "./tally.ts";

export interface LoadOptions {
  seed: number;
  /** Clients that stay, and clients that leave, each in a loop of its own. */
  stayers: number;
  leavers: number;
  /** The gateways' own, from the first byte to the end. */
  deadlineMs: number;
  /** Even what may be tried again counts as a failure. */
  strict: boolean;
}

export interface LoadEvents {
  gatewayStruckSince(gateway: string, sinceMs: number): boolean;
  onRefusal(what: string, sinceMs: number): void;
  onViolation(what: string, requestId: string, begunMs: number): void;
}

/** Beyond the deadline: what the gateway may stand still, and the way there and back. */
const graceMs = 6_000;
const retryGapMs = 100;
/** Leavers come one after another, not in a storm. */
const leaverGapMs = 100;
/** Refused before it began, and told to try again. */
const refusals = ["overloaded", "no_workers", "bus_unavailable", "shutting_down"];

export class Load {
  /** How requests of clients that stay ended. */
  readonly endings: Counts = {};
  /** What made a client try again. */
  readonly retries: Counts = {};
  disconnects = 0;
  readonly ttftSeconds: number[] = [];
  /** Of the streams since it was emptied last. */
  readonly tpotSeconds: number[] = [];
  readonly pauseSeconds: number[] = [];
  readonly totalSeconds: number[] = [];
  /** Of each request in the pool: right answers, and how many of them with a resume of each kind. */
  readonly answers: ({ right: number } & Resumes)[];
  resumes: Resumes = { lost: 0, moved: 0, withBlocks: 0 };
  inFlight = 0;
  paused = false;
  private readonly stack: Stack;
  private readonly pool: PoolRequest[];
  private readonly expected: Answer[];
  private readonly options: LoadOptions;
  private readonly events: LoadEvents;
  private readonly random: Random;
  private nextId = 0;
  private nextGateway = 0;
  /** Resumes of running requests, by request id. */
  private readonly running = new Map<string, Resumes>();

  constructor(stack: Stack, pool: PoolRequest[], expected: Answer[], options: LoadOptions, events: LoadEvents) {
    this.stack = stack;
    this.pool = pool;
    this.expected = expected;
    this.options = options;
    this.events = events;
    this.random = new Random(options.seed);
    this.answers = pool.map(() => ({ right: 0, lost: 0, moved: 0, withBlocks: 0 }));
  }

  noteResume(requestId: string, how: keyof Resumes): void {
    this.resumes[how]++;
    const running = this.running.get(requestId);
    if (running) running[how]++;
  }

  /** Resolves when every client has ended its last request. */
  async run(until: () => boolean): Promise<void> {
    const loop = async (one: () => Promise<void>) => {
      while (!until()) {
        if (this.paused) {
          await sleep(retryGapMs);
          continue;
        }
        this.inFlight++;
        await one();
        this.inFlight--;
      }
    };
    await Promise.all([
      ...Array.from({ length: this.options.stayers }, () => loop(() => this.stay())),
      ...Array.from({ length: this.options.leavers }, () => loop(() => this.leave())),
    ]);
  }

  /** Half of the time one that was resumed least: in the end each has been. */
  private pick(): PoolRequest {
    if (this.random.chance(0.5)) return this.random.pick(this.pool);
    const resumes = ({ index }: PoolRequest) => {
      const { lost, moved } = this.answers[index] as (typeof this.answers)[number];
      return lost + moved;
    };
    const least = Math.min(...this.pool.map(resumes));
    return this.random.pick(this.pool.filter((request) => resumes(request) === least));
  }

  private gateway(): { name: string; baseUrl: string } {
    const urls = this.stack.baseUrls;
    const index = this.nextGateway++ % urls.length;
    return { name: `gateway-${index}`, baseUrl: urls[index] as string };
  }

  private async stay(): Promise<void> {
    const request = this.pick();
    const stream = this.random.chance(0.7);
    const begunMs = performance.now();
    let boundMs = this.options.deadlineMs + graceMs;
    for (let requestId = ""; ; ) {
      const { name, baseUrl } = this.gateway();
      requestId = this.freshId(request);
      const tryMs = performance.now();
      const resumed = { lost: 0, moved: 0, withBlocks: 0 };
      this.running.set(requestId, resumed);
      const outcome = await ask({ baseUrl, requestId, body: request.body, stream, boundMs });
      this.running.delete(requestId);
      const { ending } = outcome;
      if (ending.kind === "answered") {
        this.judge(request, requestId, outcome, resumed, begunMs);
        return;
      }
      const wrong = difference(this.expected[request.index] as Answer, outcome.answer, true);
      if (wrong !== null) {
        this.violation(`wrong before it ended: ${wrong}`, requestId, begunMs);
        return;
      }
      const again = this.whyAgain(outcome, name, tryMs);
      if (again === null) {
        const what =
          ending.kind === "error"
            ? `${ending.code}: ${ending.message}`
            : "reason" in ending
              ? `${ending.kind}: ${ending.reason}`
              : ending.kind;
        this.violation(
          `${what} after ${outcome.answer.tokens.length} tokens and ${Math.round(outcome.seconds * 1000)} ms from ${name}`,
          requestId,
          begunMs,
        );
        return;
      }
      count(this.retries, again.why);
      if (again.refused) this.events.onRefusal(`${requestId} ${name} ${JSON.stringify(ending)}`, tryMs);
      // A client that begins anew has a new deadline; one that was refused has not.
      if (again.refused) boundMs = Math.max(1, this.options.deadlineMs + graceMs - (performance.now() - begunMs));
      await sleep(again.afterMs);
    }
  }

  /** null: nothing explains it. */
  private whyAgain({ ending, answer }: Outcome, gateway: string, tryMs: number): { why: string; afterMs: number; refused: boolean } | null {
    const struck = this.events.gatewayStruckSince(gateway, tryMs);
    const absent = ending.kind === "cut" && ending.reason.includes("ECONNREFUSED");
    if (ending.kind === "cut" && struck)
      return { why: `gateway struck: ${absent ? "not there" : "cut"}`, afterMs: retryGapMs, refused: false };
    if (ending.kind !== "error") return null;
    if (ending.code === "shutting_down" && struck) return { why: "gateway struck: shutting_down", afterMs: retryGapMs, refused: false };
    if (!this.options.strict && ending.retryAfterMs !== null && answer.tokens.length === 0 && refusals.includes(ending.code)) {
      return { why: `refused: ${ending.code}`, afterMs: ending.retryAfterMs, refused: true };
    }
    return null;
  }

  private judge(request: PoolRequest, requestId: string, outcome: Outcome, resumed: Resumes, begunMs: number): void {
    const wrong = difference(this.expected[request.index] as Answer, outcome.answer, false);
    if (wrong !== null) {
      this.violation(`wrong: ${wrong}`, requestId, begunMs);
      return;
    }
    count(this.endings, outcome.answer.finish as string);
    const answers = this.answers[request.index] as (typeof this.answers)[number];
    answers.right++;
    for (const how of ["lost", "moved", "withBlocks"] as const) if (resumed[how] > 0) answers[how]++;
    this.totalSeconds.push(outcome.seconds);
    if (outcome.ttftSeconds !== null) {
      this.ttftSeconds.push(outcome.ttftSeconds);
      this.pauseSeconds.push(outcome.longestPauseSeconds);
      if (outcome.tpotSeconds !== null) this.tpotSeconds.push(outcome.tpotSeconds);
    }
  }

  private async leave(): Promise<void> {
    const request = this.random.pick(this.pool);
    const { name, baseUrl } = this.gateway();
    const requestId = this.freshId(request);
    const tryMs = performance.now();
    const never = Number.POSITIVE_INFINITY;
    const most = request.body.max_tokens as number;
    // Before anything is known, during prefill and transfer, at some token.
    const leave = this.random.pick([
      { afterMs: this.random.between(0, 30), afterTokens: never },
      { afterMs: this.random.between(0, 600), afterTokens: never },
      { afterMs: 3_000, afterTokens: this.random.between(1, most) },
    ]);
    const outcome = await ask({
      baseUrl,
      requestId,
      body: request.body,
      stream: this.random.chance(0.8),
      leave,
      boundMs: this.options.deadlineMs + graceMs,
    });
    const whole = outcome.ending.kind === "answered";
    const wrong = difference(this.expected[request.index] as Answer, outcome.answer, !whole);
    if (wrong !== null) this.violation(`wrong: ${wrong}`, requestId, tryMs);
    else if (outcome.ending.kind === "left") this.disconnects++;
    else if (!whole && this.whyAgain(outcome, name, tryMs) === null) this.violation(JSON.stringify(outcome.ending), requestId, tryMs);
    await sleep(this.random.real() * 2 * leaverGapMs);
  }

  private violation(what: string, requestId: string, begunMs: number): void {
    count(this.endings, "violation");
    this.events.onViolation(what, requestId, begunMs);
  }

  /** Ours, so that bus and logs can be searched for it. */
  private freshId(request: PoolRequest): string {
    return `chaos-${this.options.seed}-${request.index}-${this.nextId++}`;
  }
}
