// The caller's side of one request's life on the bus (docs/ARCHITECTURE.md, "Ownership and the bus"): sends the dispatch, takes the deltas
// in whatever order and number they come, asks again, says when it has all. A worker that is lost or draining in mid-answer costs a pause:
// prompt and tokens so far go to another one, which continues with the same bits (the row rule). Knows nothing of HTTP and no routing policy.
import type { z } from "zod";
import type { AttemptRecord } from "./attempt-record.ts";
import { BusError, randomId } from "../lib/contracts/bus.ts";
import type { OutputPart } from "../lib/contracts/deltas.ts";
import { PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import {
  type Constraint,
  type Delta,
  DispatchReply,
  PromptScoresReply,
  type Sampling,
  type Standing,
  type TokenLogprobs,
  type TokenRules,
} from "../lib/contracts/messages.ts";
import { PromptScores } from "../lib/contracts/prompt-scores.ts";
import { DamagedMessage, decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import type { DispatchClient } from "./dispatch-client.ts";

export interface GenerationRequest {
  requestId: string;
  prompt: Uint32Array;
  maxTokens: number;
  stopTokenIds: number[];
  sampling: Sampling;
  constraint?: Constraint;
  rules?: TokenRules;
  cacheSalt: string;
  standing?: Standing;
  deadlineMs: number;
  /** Score the prompt's tokens, with so many of the most likely beside each. */
  promptTop?: number;
  /** Report the digest of every logits row. */
  digests?: boolean;
  /** A fresh span for an attempt; absent: not traced. */
  span?: () => string;
}

export interface DispatchTarget {
  workerId: string;
  instanceId: string;
  prefillWorkerId: string | null;
}

export interface Routing {
  /** Where to send a request of which these tokens are known, and which these instances have refused or lost; null: nowhere. */
  choose(tokens: Uint32Array, excluded: ReadonlySet<string>): DispatchTarget | null;
  /** The request runs on this draining worker: whether another can take it, sooner than it would end there. */
  shouldMove(workerId: string, tokens: Uint32Array): boolean;
}

export interface TokenBatch {
  tokens: Uint32Array;
  logprobs: z.infer<typeof TokenLogprobs>[];
  digests: string[];
}

export interface GenerationEnd {
  reason: "stop" | "length";
  stopTokenId?: number;
}

const dispatchReplyMs = 2_000;
const dispatchTries = 3;
const outageLookMs = 50;
/** Nothing came for so long: ask from our position. */
const silenceMs = 2_000;
/**
 * A later token is here, so the missing one is lost: the bus keeps a sender's order. Ask at once, and again after so long; twice as long
 * each time while nothing comes, since decode answers with all that is missing.
 */
const gapMs = 200;
const maxGapMs = 2_000;
/** Tokens given to a reader at once: one that comes late must not hold up the others by the size of its heap. Fewer where each is heavy with logprobs. */
const maxBatchTokens = 1_024;
/** Batches kept for a reader that does not keep up. Decode has the rest, and is asked for it again when there is room. */
const maxUnreadBatches = 4;
/** Deltas kept ahead of a gap; further ones come again with the resend. */
const maxEarlyDeltas = 256;
const resumeRetryMs = 100;
/** So many workers in a row died with it, without one more token: perhaps it is the request that kills them. */
const maxDeathsWithoutToken = 8;
/** So many gave it up without one more token, dead or not: trying on would only be noise. */
const maxLossesWithoutToken = 20;
/** So many tokens of an answer have room from the beginning. */
const firstRoom = 256;
/** Of a request's attempts so many are remembered, the first and the last ones. */
const maxAttemptRecords = 32;
/** How often a request on a draining worker looks for another one. */
const moveCheckMs = 250;

type Waiter = { resolve(result: IteratorResult<TokenBatch>): void; reject(error: PelagicError): void };

/** One request. Iterate it once for its tokens, each exactly once and in order; it throws the PelagicError that the request ended with. */
export class Generation implements AsyncIterable<TokenBatch> {
  /** The decode worker that has or is asked for the request; null while there is none. */
  workerId: string | null = null;
  attemptId = "";
  /** Prompt tokens that nobody computed for this request; known with the first delta. */
  cacheHitTokens = 0;
  prefilledBy: string | undefined;
  /** Set when the request ended well. */
  end: GenerationEnd | null = null;
  /** Set when it did not. */
  error: PelagicError | null = null;
  /** Tokens received in order. */
  received = 0;
  /** Some decode worker took the request: work was spent on it. */
  wasAccepted = false;
  /** How often it went on elsewhere. */
  resumes = 0;
  /** Of the prompt's tokens but for the first: whole before the first token is given to the reader; null where nobody asked. */
  readonly promptScores: PromptScores | null;
  /** The attempt whose scores are being fetched. */
  private fetchingScores: string | null = null;
  /** In the order in which they were sent. */
  readonly attempts: AttemptRecord[] = [];
  private attempt: AttemptRecord | null = null;

  private readonly client: DispatchClient;
  private readonly request: GenerationRequest;
  private readonly routing: Routing;
  private readonly startedMs: number;
  /** The prompt and all tokens received; grows by doubling. */
  private tokens: Uint32Array;
  /** Instances that refused or lost the request. */
  private readonly excluded = new Set<string>();
  /** Why an earlier worker has the request no longer. */
  private lostWith: PelagicError | null = null;
  /** How many workers died with it since the last token. */
  private deaths = 0;
  private losses = 0;
  /** Until then a request that was lost, or met a worker that did not answer, waits for one that does. */
  private patientUntilMs: number | null = null;
  /** The draining worker that it left: its blocks may still be there. */
  private heldBy: string | null = null;
  /** A delta of this attempt came, whatever became of the answer to the dispatch. */
  private heardFrom = false;
  /** The attempt that is being stopped for a move. */
  private movingAttempt: string | null = null;
  /** Of which everything is here: decode has nothing to free. */
  private endedAttempt: string | null = null;
  private moveConsideredMs = Number.NEGATIVE_INFINITY;
  /** The process that the attempt is meant for, and the one that has accepted it: no other does. */
  private askedInstanceId: string | null = null;
  private instanceId: string | null = null;

  private early = new Map<number, OutputPart>();
  private endAt: { position: number; end: NonNullable<Delta["end"]> } | null = null;
  private heardMs: number;
  private askedMs = Number.NEGATIVE_INFINITY;
  /** How often we asked about a gap since the last token. */
  private gapAsks = 0;
  private disconnectedSinceMs: number | null = null;

  private readonly batchTokens: number;
  /** Tokens went by that there was no room for. */
  private isBehind = false;
  /** Received and not yet read. */
  private batch: { tokens: number[]; logprobs: TokenBatch["logprobs"]; digests: string[] } = { tokens: [], logprobs: [], digests: [] };
  private waiter: Waiter | null = null;

  /** @internal */
  constructor(client: DispatchClient, request: GenerationRequest, routing: Routing) {
    this.client = client;
    this.request = request;
    this.routing = routing;
    this.startedMs = client.options.clock.nowMs();
    this.heardMs = this.startedMs;
    this.tokens = new Uint32Array(request.prompt.length + Math.min(request.maxTokens, firstRoom));
    this.tokens.set(request.prompt);
    const { promptTop } = request;
    this.promptScores = promptTop === undefined ? null : new PromptScores(request.prompt.length, promptTop);
    const { logprobs } = request.sampling;
    this.batchTokens = logprobs === undefined ? maxBatchTokens : Math.floor(maxBatchTokens / (2 + logprobs));
  }

  /** Prompt and output so far. */
  private get knownTokens(): Uint32Array {
    return this.tokens.subarray(0, this.request.prompt.length + this.received);
  }

  /** Stops the request here at once, and at decode soon. Without effect after its end. */
  cancel(error: PelagicError = new PelagicError("cancelled", "the client went away")): void {
    this.fail(error);
  }

  [Symbol.asyncIterator](): AsyncIterator<TokenBatch> {
    return {
      next: () => this.next(),
      return: () => {
        this.cancel();
        return Promise.resolve({ done: true, value: undefined });
      },
    };
  }

  private next(): Promise<IteratorResult<TokenBatch>> {
    return new Promise((resolve, reject) => {
      this.waiter = { resolve, reject };
      this.deliver();
    });
  }

  /** Gives what is there to whoever waits: tokens before the end, the end before silence. */
  private deliver(): void {
    const waiter = this.waiter;
    if (waiter === null) return;
    const mayGo = !this.lacksScores;
    if (mayGo && this.batch.tokens.length > 0 && this.error?.code !== "cancelled") {
      this.waiter = null;
      waiter.resolve({ done: false, value: this.takeBatch() });
      if (this.isBehind && this.batch.tokens.length <= this.maxUnread / 2) this.catchUp();
    } else if (this.error !== null) {
      this.waiter = null;
      waiter.reject(this.error);
    } else if (mayGo && this.end !== null) {
      this.waiter = null;
      waiter.resolve({ done: true, value: undefined });
    }
  }

  private takeBatch(): TokenBatch {
    const { tokens, logprobs, digests } = this.batch;
    const count = this.batchTokens;
    if (tokens.length <= count) {
      this.batch = { tokens: [], logprobs: [], digests: [] };
      return { tokens: new Uint32Array(tokens), logprobs, digests };
    }
    return { tokens: new Uint32Array(tokens.splice(0, count)), logprobs: logprobs.splice(0, count), digests: digests.splice(0, count) };
  }

  // Dispatch

  /** @internal */
  begin(): void {
    this.dispatch().catch((error: unknown) => this.fail(toPelagicError(error)));
  }

  /** Asks one worker after another until one accepts. */
  private async dispatch(): Promise<void> {
    const { clock } = this.client.options;
    let retryAfterMs: number | undefined;
    while (!this.isOver) {
      const target = this.routing.choose(this.knownTokens, this.excluded);
      if (target === null) {
        if (this.patientUntilMs === null || clock.nowMs() >= this.patientUntilMs) throw this.refusal(retryAfterMs);
        await new Promise<void>((resolve) => clock.setTimer(resumeRetryMs, resolve));
        this.excluded.clear();
        retryAfterMs = undefined;
        continue;
      }
      const outcome = await this.ask(target);
      if (outcome === "accepted") {
        if (this.instanceId !== null) this.patientUntilMs = null;
        return;
      }
      this.excluded.add(target.instanceId);
      if (outcome.retryAfterMs !== undefined) retryAfterMs = Math.min(retryAfterMs ?? Number.POSITIVE_INFINITY, outcome.retryAfterMs);
      // It should be there: after an outage workers come back one by one.
      else this.patientUntilMs ??= clock.nowMs() + this.client.options.resumeWaitMs;
    }
  }

  private refusal(retryAfterMs: number | undefined): PelagicError {
    // A request that lost its worker and found the others full waited in vain for the same reason as a new one.
    if (this.lostWith !== null && retryAfterMs === undefined) return this.lostWith;
    if (retryAfterMs === undefined) {
      return new PelagicError("no_workers", "no decode worker is ready; try again later", { retryAfterMs: 1_000 });
    }
    return new PelagicError("overloaded", "every decode worker is busy; try again later", { retryAfterMs });
  }

  private async ask(target: DispatchTarget): Promise<"accepted" | { retryAfterMs?: number }> {
    const { bus, clock, subjects, gatewayId, leaseMs, log } = this.client.options;
    const { prompt, span, promptTop, ...request } = this.request;
    const attemptId = (this.client.options.freshId ?? randomId)(12);
    this.client.listen(attemptId, this);
    this.attemptId = attemptId;
    this.workerId = target.workerId;
    this.askedInstanceId = target.instanceId;
    this.instanceId = null;
    this.heardMs = clock.nowMs();
    const record = this.recordAttempt(target, span?.());

    const { workerId } = target;
    // Stays as it is: what comes later stands behind it, or in a larger array.
    const known = this.knownTokens;
    const receivedBefore = this.received;
    let outcome: "accepted" | { retryAfterMs?: number } | null = null;
    for (let attempt = 1; outcome === null && this.attemptId === attemptId && !this.isOver; attempt++) {
      const message = encodeMessage(
        {
          ...request,
          ...(request.standing && { standing: this.standingNow(request.standing) }),
          attemptId,
          gatewayId,
          instanceId: target.instanceId,
          replySubject: this.client.replySubject,
          promptLength: prompt.length,
          prefillWorkerId: target.prefillWorkerId,
          ...(this.lacksScores && { promptTop }),
          ...(this.heldBy === null || this.heldBy === workerId ? {} : { heldBy: this.heldBy }),
          leaseMs,
          deadlineMs: Math.max(0, this.deadlineMs - clock.nowMs()),
          ...(record.context !== undefined && { trace: record.context }),
        },
        known,
      );
      try {
        // The same attempt each time: decode accepts it once, however often it arrives.
        const { body } = decodeMessage(DispatchReply, await bus.request(subjects.dispatch(workerId), message, dispatchReplyMs));
        if (body.kind === "accepted") {
          if (this.attemptId === attemptId) this.instanceId = body.instanceId;
          this.wasAccepted = true;
          outcome = "accepted";
        } else if (body.kind === "busy") {
          outcome = { retryAfterMs: body.retryAfterMs };
        } else if (["shutting_down", "worker_lost", "cancelled"].includes(body.error.code)) {
          outcome = {};
        } else {
          throw new PelagicError(body.error.code, body.error.message, { param: body.error.param });
        }
      } catch (error) {
        // The request has moved on or ended: whatever became of this attempt is no longer its concern.
        if (this.attemptId !== attemptId) break;
        if (error instanceof DamagedMessage) {
          if (attempt >= dispatchTries) outcome = {};
          continue;
        }
        if (!(error instanceof BusError)) throw error;
        if (error.code === "too_large") {
          throw new PelagicError(
            "request_too_large",
            `${known.length} tokens are more than a message to the workers can hold: shorten the prompt`,
          );
        }
        log.debug({ requestId: request.requestId, workerId, attempt, error: error.message }, "dispatch not answered");
        if (error.code === "no_responders" || (error.code === "timeout" && attempt >= dispatchTries)) outcome = {};
        // An outage is bounded by check(), not counted as a try.
        else if (error.code === "disconnected") {
          attempt--;
          await new Promise<void>((resolve) => clock.setTimer(outageLookMs, resolve));
        }
      }
      // Deltas say as much as an answer.
      if (this.attemptId === attemptId && this.received > receivedBefore) outcome = "accepted";
    }
    const current = this.attemptId === attemptId && !this.isOver;
    if (outcome === "accepted" && current) return "accepted";
    this.client.unlisten(attemptId);
    const isHeld = outcome === null || outcome === "accepted" || outcome.retryAfterMs === undefined;
    // Its end may come before the answer to the dispatch.
    if (isHeld && this.endedAttempt !== attemptId) void this.client.cancelAttempt(workerId, attemptId);
    // Somebody else took over (a worker that went away, an end): nothing is left to do here.
    if (!current) return "accepted";
    this.leaveAttempt("refused");
    return outcome ?? {};
  }

  private recordAttempt({ workerId, prefillWorkerId }: DispatchTarget, context: string | undefined): AttemptRecord {
    const sentMs = this.client.options.clock.nowMs();
    const record: AttemptRecord = { workerId, prefillWorkerId, context, sentMs, firstMs: null, end: null, timings: undefined };
    this.attempts.push(record);
    if (this.attempts.length > maxAttemptRecords) this.attempts.splice(maxAttemptRecords / 2, 1);
    this.attempt = record;
    return record;
  }

  private standingNow({ ttftMs, ...standing }: Standing): Standing {
    if (ttftMs === undefined || this.received > 0) return standing;
    return { ...standing, ttftMs: Math.max(0, this.startedMs + ttftMs - this.client.options.clock.nowMs()) };
  }

  // Deltas

  private get maxUnread(): number {
    return maxUnreadBatches * this.batchTokens;
  }

  private get isFull(): boolean {
    return this.batch.tokens.length >= this.maxUnread;
  }

  private catchUp(): void {
    this.isBehind = false;
    if (this.accepted) this.resend();
  }

  /** @internal */
  onDelta(part: OutputPart): void {
    const { delta, tokens } = part;
    if (this.isOver || delta.attemptId !== this.attemptId) return;
    const { clock } = this.client.options;
    if (this.isFull) {
      this.heardMs = clock.nowMs();
      this.isBehind = true;
      return;
    }
    if (delta.instanceId !== undefined && delta.instanceId !== this.askedInstanceId) return;
    this.heardMs = clock.nowMs();
    this.heardFrom = true;
    this.instanceId ??= delta.instanceId ?? null;
    if (delta.timings !== undefined && this.attempt !== null) this.attempt.timings = delta.timings;
    if (delta.end !== undefined) this.endAt = { position: delta.from + tokens.length, end: delta.end };
    if (delta.from > this.received) {
      if (this.early.size < maxEarlyDeltas) this.early.set(delta.from, part);
      return;
    }
    this.take(part);
    this.takeEarly();
    if (this.received > this.request.maxTokens) {
      this.fail(new PelagicError("internal", `decode sent ${this.received} tokens where ${this.request.maxTokens} were asked for`));
      return;
    }
    // Whoever samples has scored all that comes before.
    if (this.lacksScores && (tokens.length > 0 || this.endAt !== null)) void this.fetchScores();
    this.finishIfWhole();
    this.deliver();
  }

  private finishIfWhole(): void {
    if (this.endAt === null || this.received < this.endAt.position) return;
    if (this.endAt.end.kind === "finish" && this.lacksScores) return;
    this.finish(this.endAt.end);
  }

  private get lacksScores(): boolean {
    return this.promptScores?.complete === false;
  }

  /** Asks until all are here, or the attempt is another: the deadline and the worker's own end bound it. */
  private async fetchScores(): Promise<void> {
    const { attemptId, workerId, promptScores } = this;
    if (promptScores === null || workerId === null || this.fetchingScores === attemptId) return;
    this.fetchingScores = attemptId;
    const { bus, clock, subjects, log } = this.client.options;
    while (this.lacksScores && this.attemptId === attemptId && !this.isOver) {
      let packed: Uint32Array | null = null;
      try {
        const ask = encodeMessage({ kind: "prompt-scores", attemptId, from: promptScores.next });
        const { body, tokens } = decodeMessage(PromptScoresReply, await bus.request(subjects.control(workerId), ask, dispatchReplyMs));
        if (this.attemptId !== attemptId || this.isOver) return;
        if (body.kind !== "scores") {
          this.lost(new PelagicError("worker_lost", `decode worker ${workerId} no longer has this request`));
          return;
        }
        if (body.top === promptScores.top) packed = tokens;
        if (packed === null || !promptScores.append(packed)) {
          this.fail(new PelagicError("internal", `decode worker ${workerId} sent other scores than were asked for`));
          return;
        }
      } catch (error) {
        if (!(error instanceof BusError || error instanceof DamagedMessage)) {
          this.fail(toPelagicError(error));
          return;
        }
        log.debug({ requestId: this.request.requestId, workerId, error: error.message }, "scores not answered");
      }
      if (packed === null || packed.length === 0) await new Promise<void>((resolve) => clock.setTimer(outageLookMs, resolve));
    }
    if (this.attemptId !== attemptId || this.isOver) return;
    this.finishIfWhole();
    this.deliver();
  }

  /** Appends the part of a delta that is new; it begins at or before our position. */
  private take({ delta, tokens }: OutputPart): void {
    // Of the first worker: what later ones replay is no hit of the client's.
    if (this.received === 0) {
      if (delta.cacheHitTokens !== undefined) this.cacheHitTokens = delta.cacheHitTokens;
      if (delta.prefilledBy !== undefined) this.prefilledBy = delta.prefilledBy;
    }
    if (tokens.length > 0 && this.attempt !== null) this.attempt.firstMs ??= this.heardMs;
    for (let i = this.received - delta.from; i < tokens.length; i++) {
      if (this.isFull) {
        this.isBehind = true;
        return;
      }
      this.remember(tokens[i] as number);
      this.batch.tokens.push(tokens[i] as number);
      const logprobs = delta.logprobs?.[i];
      if (logprobs !== undefined) this.batch.logprobs.push(logprobs);
      const digest = delta.digests?.[i];
      if (digest !== undefined) this.batch.digests.push(digest);
      this.received++;
      this.gapAsks = 0;
      this.deaths = 0;
      this.losses = 0;
      this.wasAccepted = true;
    }
  }

  private remember(token: number): void {
    const at = this.request.prompt.length + this.received;
    if (at === this.tokens.length) {
      const grown = new Uint32Array(Math.max(64, 2 * at));
      grown.set(this.tokens);
      this.tokens = grown;
    }
    this.tokens[at] = token;
  }

  private takeEarly(): void {
    if (this.early.size === 0) return;
    for (const from of [...this.early.keys()].sort((a, b) => a - b)) {
      if (from > this.received) return;
      this.take(this.early.get(from) as OutputPart);
      this.early.delete(from);
    }
  }

  private resend(): void {
    this.askedMs = this.client.options.clock.nowMs();
    const { replySubject } = this.client;
    // One more than there can be room for: then it shows that there is more.
    const most = this.maxUnread + 1;
    this.tell({ kind: "resend", attemptId: this.attemptId, from: this.received, most, replySubject });
  }

  /** May be lost: check() repeats a resend, and a lease stands behind the rest. */
  private tell(control: object): void {
    const { bus, subjects } = this.client.options;
    if (this.workerId === null) return;
    try {
      bus.publish(subjects.control(this.workerId), encodeMessage(control));
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
    }
  }

  // Time, outages and losses

  private get deadlineMs(): number {
    return this.startedMs + this.request.deadlineMs;
  }

  private get isMoving(): boolean {
    return this.movingAttempt !== null && this.movingAttempt === this.attemptId;
  }

  private get accepted(): boolean {
    return this.workerId !== null && (this.instanceId !== null || this.heardFrom);
  }

  /** @internal */
  check(nowMs: number): void {
    const { bus, leaseMs } = this.client.options;
    if (nowMs >= this.deadlineMs) {
      this.fail(
        new PelagicError(
          "deadline_exceeded",
          "the request's deadline passed before its answer was whole: ask for fewer tokens, or allow more time (x-request-timeout-ms)",
        ),
      );
      return;
    }
    if (!bus.connected) {
      this.disconnectedSinceMs ??= nowMs;
      if (nowMs - this.disconnectedSinceMs > leaseMs) {
        this.fail(new PelagicError("bus_unavailable", "the message bus is not reachable; try again later", { retryAfterMs: 1_000 }));
      }
      return;
    }
    this.disconnectedSinceMs = null;
    if (!this.accepted) return;
    if (this.client.isDraining(this.instanceId) && !this.isMoving && nowMs - this.moveConsideredMs >= moveCheckMs) {
      this.moveConsideredMs = nowMs;
      if (this.routing.shouldMove(this.workerId as string, this.knownTokens)) void this.move();
    }
    // Nobody waits for what is missing.
    if (this.isBehind) return;
    const missing = this.early.size > 0 || (this.endAt !== null && this.endAt.position > this.received);
    if (missing) {
      if (nowMs - this.askedMs < Math.min(gapMs * 2 ** Math.max(0, this.gapAsks - 1), maxGapMs)) return;
      this.gapAsks++;
      this.resend();
    } else if (nowMs - Math.max(this.heardMs, this.askedMs) >= silenceMs) {
      this.resend();
    }
  }

  /** @internal */
  reconnected(): void {
    this.disconnectedSinceMs = null;
    if (this.accepted) this.resend();
  }

  /** @internal An accepted attempt of which nothing has come since then. */
  silentSince(timeMs: number): boolean {
    return this.accepted && !this.isMoving && this.heardMs <= timeMs;
  }

  /** @internal Nobody listens for its worker any more. */
  workerLeft(): void {
    if (this.workerId !== null) this.workerGone({ workerId: this.workerId, instanceId: this.instanceId ?? "" });
  }

  /** @internal */
  workerGone({ workerId, instanceId }: { workerId: string; instanceId: string }): void {
    if (this.workerId !== workerId || (this.instanceId !== null && this.instanceId !== instanceId)) return;
    const error = new PelagicError("worker_lost", `decode worker ${workerId} was lost while it answered; try again`);
    // One that stops in order says so itself, and ends its requests before.
    if (++this.deaths > maxDeathsWithoutToken) this.fail(error);
    else this.lost(error);
  }

  /** The worker will not go on: another one does, from the tokens that are here. */
  private lost(error: PelagicError): void {
    if (this.isOver || this.workerId === null) return;
    // To a client it is the worker that is gone, whatever the worker said last: it is not this gateway that is shutting down.
    const reason = error.code === "worker_lost" ? error : new PelagicError("worker_lost", error.message);
    if (++this.losses > maxLossesWithoutToken) {
      this.fail(reason);
      return;
    }
    const { workerId, attemptId } = this;
    this.goElsewhere(reason, null);
    // In case it was only slow.
    void this.client.cancelAttempt(workerId, attemptId);
  }

  /** From a draining worker to another: it stops first, so that its answer says that everything it sent is here. */
  private async move(): Promise<void> {
    const { workerId, attemptId } = this;
    if (workerId === null) return;
    this.movingAttempt = attemptId;
    await this.client.cancelAttempt(workerId, attemptId);
    if (this.isOver || this.attemptId !== attemptId) return;
    this.goElsewhere(new PelagicError("worker_lost", `decode worker ${workerId} is draining, and no other one took the request`), workerId);
  }

  private goElsewhere(reason: PelagicError, heldBy: string | null): void {
    const { clock, log, resumeWaitMs } = this.client.options;
    log.info(
      { requestId: this.request.requestId, workerId: this.workerId, tokens: this.received, reason: reason.message },
      "dispatching again",
    );
    this.lostWith = reason;
    this.heldBy = heldBy;
    this.patientUntilMs = clock.nowMs() + resumeWaitMs;
    this.resumes++;
    if (this.instanceId !== null) this.excluded.add(this.instanceId);
    if (this.lacksScores) this.beginAgain();
    this.leaveAttempt(heldBy === null ? "lost" : "moved");
    this.begin();
  }

  /** While scores are missing nobody has seen a token: all of it comes again, from one worker's bits, and not from one that has nothing left to say. */
  private beginAgain(): void {
    this.promptScores?.clear();
    this.received = 0;
    for (const list of [this.batch.tokens, this.batch.logprobs, this.batch.digests]) list.length = 0;
  }

  private endAttempt(outcome: string): void {
    const { attempt, attempts } = this;
    if (attempt === null) return;
    attempt.end = { ms: this.client.options.clock.nowMs(), outcome };
    this.attempt = null;
    // Asked again and again, a worker that refuses is one.
    const before = attempts.at(-2);
    if (outcome !== "refused" || before?.end?.outcome !== outcome || before.workerId !== attempt.workerId) return;
    before.end = attempt.end;
    attempts.pop();
  }

  private leaveAttempt(outcome: string): void {
    this.endAttempt(outcome);
    this.client.unlisten(this.attemptId);
    this.workerId = null;
    this.attemptId = "";
    this.askedInstanceId = null;
    this.instanceId = null;
    this.heardFrom = false;
    this.isBehind = false;
    this.early.clear();
    this.endAt = null;
    this.gapAsks = 0;
  }

  // The end

  private get isOver(): boolean {
    return this.end !== null || this.error !== null;
  }

  private finish(end: NonNullable<Delta["end"]>): void {
    this.endedAttempt = this.attemptId;
    if (this.workerId !== null) this.client.acknowledge(this.workerId, this.attemptId);
    if (end.kind === "error") {
      const error = new PelagicError(end.error.code, end.error.message, { param: end.error.param });
      // A deadline is the gateway's to keep: decode's clock may have jumped.
      if (error.code === "worker_lost" || error.code === "shutting_down" || error.code === "deadline_exceeded") this.lost(error);
      else this.fail(error, false);
      return;
    }
    this.end = { reason: end.reason, stopTokenId: end.stopTokenId };
    this.leaveAttempt(end.reason);
    this.client.ended(this);
    this.deliver();
  }

  private fail(error: PelagicError, cancelAtDecode = true): void {
    if (this.isOver) return;
    this.error = error;
    const { workerId, attemptId } = this;
    this.leaveAttempt(error.code);
    this.client.ended(this);
    if (cancelAtDecode && workerId !== null) void this.client.cancelAttempt(workerId, attemptId);
    this.deliver();
  }
}
