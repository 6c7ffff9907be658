// The decode side of a request's life, from the one dispatch that names everything to the last token: it owns the request. It reserves
// blocks, has rows fetched that others have or compute (row-fetcher.ts), replays or computes the rest, samples every token, and keeps its output
// until the gateway has it all.
import { kvBlockTokens } from "../contracts/block-key.ts";
import type { Bus, BusMessage, Clock, Log } from "../contracts/bus.ts";
import type { OutputPart } from "../contracts/deltas.ts";
import { PelagicError, toPelagicError } from "../contracts/errors.ts";
import { type Constraint, type Control, type Delta, Dispatch, type RequestTimings, type WireError } from "../contracts/messages.ts";
import { maxPromptLogprobs, PromptScores } from "../contracts/prompt-scores.ts";
import { DamagedMessage, decodeMessage, encodeMessage } from "../contracts/wire.ts";
import type { Tracer } from "../contracts/trace.ts";
import type { TokenConstraint } from "../grammar/constraint.ts";
import { RuledTokens } from "../grammar/token-rules.ts";
import { AttemptTimes } from "./attempt-times.ts";
import { DeltaSender, type DeltaSource } from "./delta-sender.ts";
import type { EngineEnd } from "./engine.ts";
import type { SampledToken } from "./model-runner.ts";
import type { RowSampling } from "./native.ts";
import { Outage } from "./outage.ts";
import { RecentIds } from "./recent-ids.ts";
import { RowFetcher, type RowSource } from "./row-fetcher.ts";
import { standingAt, standingIn } from "./standing.ts";
import type { WorkerCore } from "./worker-core.ts";

export interface DecodeConfig {
  /** Prompts with fewer uncached rows than this are prefilled here, whatever the gateway named. */
  localPrefillTokens: number;
  /** Frame bytes in flight to this worker at most, over all transfers. */
  receiveBudgetBytes: number;
  /** Why nothing is admitted for now, if so. */
  pausedBecause?: () => string | undefined;
  /** Makes constraints; absent: none can be asked for. */
  constraints?: ConstraintMaker;
  /** Absent: nothing is traced. */
  tracer?: Tracer;
}

const tickMs = 250;
const busyRetryMs = 500;
const pausedRetryMs = 1_000;
/** A gateway that moves a request cancels it here first: so long after, its next worker has asked for the blocks. */
const handoverMs = 500;
/** Of one message with a prompt's scores. */
const scoreWords = 64 * 1024;
/** Logprobs are finite in JSON: what the model holds for impossible has this one. */
const impossibleLogprob = -9999;

interface Attempt extends DeltaSource {
  dispatch: Dispatch;
  tokens: Uint32Array;
  /** Output so far; index 0 is output token `firstIndex`. */
  output: { token: number; logprob: number; top: [number, number][]; digest: bigint | undefined }[];
  firstIndex: number;
  /** Of the prompt's tokens; null: nobody asked. */
  scores: PromptScores | null;
  end: Delta["end"];
  leaseUntilMs: number;
  deadlineAtMs: number;
  times: AttemptTimes;
  cacheHitTokens: number;
  prefilledBy: string | undefined;
  cancelReplies: (() => void)[];
}

/** For metrics. */
export interface AttemptEnd {
  /** A finish reason or an error's name. */
  outcome: string;
  promptTokens: number;
  cacheHitTokens: number;
  outputTokens: number;
  timings: RequestTimings;
}

/** Throws a PelagicError where it cannot. */
export type ConstraintMaker = (spec: Constraint) => TokenConstraint;

export class DecodeWorker {
  private readonly core: WorkerCore;
  private readonly config: DecodeConfig;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly attempts = new Map<string, Attempt>();
  private readonly ended = new RecentIds();
  private readonly outage: Outage;
  private readonly fetcher: RowFetcher;
  private readonly deltas: DeltaSender;
  private cancelledAtMs = Number.NEGATIVE_INFINITY;
  private stopTimer: () => void = () => {};
  onEnd: (end: AttemptEnd) => void = () => {};

  /** `data` is a connection of its own: control messages do not queue behind frames. */
  constructor(core: WorkerCore, control: Bus, data: Bus, config: DecodeConfig) {
    this.core = core;
    this.config = config;
    this.clock = core.clock;
    this.log = core.log;
    this.outage = new Outage(control, core.clock);
    this.deltas = new DeltaSender(control, core.log);
    this.fetcher = new RowFetcher(core, control, data, this.outage, {
      fewestRows: config.localPrefillTokens,
      budgetBytes: config.receiveBudgetBytes,
    });
    core.onControl((message, respond) => this.onControl(message, respond));
    control.subscribe(core.subjects.dispatch(core.workerId), (message) => this.onDispatch(message));
    control.onReconnect(() => this.heal());
    this.tick();
  }

  /** Attempts whose end the gateway has not heard yet, running ones included. */
  get liveAttempts(): number {
    return this.attempts.size;
  }

  /** Nothing runs here, and who took over what did has had time to ask for its blocks. */
  get drained(): boolean {
    return this.attempts.size === 0 && this.clock.nowMs() - this.cancelledAtMs > handoverMs;
  }

  /** Requests whose rows are being fetched. */
  get fetching(): number {
    return this.fetcher.running;
  }

  get receivingBytes(): number {
    return this.fetcher.outstandingBytes;
  }

  set onTransferEnd(listener: RowFetcher["onTransferEnd"]) {
    this.fetcher.onTransferEnd = listener;
  }

  stop(): void {
    this.stopTimer();
    this.fetcher.stopAll();
  }

  // Admission

  private onDispatch(message: BusMessage): void {
    const reply = (body: object) => message.respond?.(encodeMessage(body));
    try {
      const { body, tokens } = decodeMessage(Dispatch, message.data);
      if (body.instanceId !== this.core.instanceId) throw new PelagicError("worker_lost", "meant for another process of this worker id");
      if (this.ended.has(body.attemptId)) throw new PelagicError("cancelled", "the attempt is over");
      if (!this.attempts.has(body.attemptId)) {
        if (this.core.draining) {
          reply({ kind: "busy", reason: "draining", retryAfterMs: busyRetryMs });
          return;
        }
        const paused = this.config.pausedBecause?.();
        if (paused !== undefined) {
          reply({ kind: "busy", reason: paused, retryAfterMs: pausedRetryMs });
          return;
        }
        this.admit(body, tokens);
      }
      reply({ kind: "accepted", instanceId: this.core.instanceId });
    } catch (error) {
      if (error instanceof DamagedMessage) throw error;
      const failure = toPelagicError(error);
      if (failure.code === "overloaded") reply({ kind: "busy", reason: failure.message, retryAfterMs: busyRetryMs });
      else reply({ kind: "error", error: wireError(failure) });
    }
  }

  private admit(dispatch: Dispatch, tokens: Uint32Array): void {
    const { vocabSize } = this.core.runner.info;
    if (tokens.length < dispatch.promptLength) {
      throw new PelagicError("internal", `${tokens.length} token ids for a prompt of ${dispatch.promptLength}`);
    }
    if (tokens.length - dispatch.promptLength >= dispatch.maxTokens) {
      throw new PelagicError("internal", `${tokens.length - dispatch.promptLength} tokens were generated before, of ${dispatch.maxTokens}`);
    }
    const biased = dispatch.sampling.logitBias?.find(([token]) => token >= vocabSize);
    if (biased) throw new PelagicError("invalid_request", `logit bias for token ${biased[0]}: the vocabulary has ${vocabSize}`);
    const now = this.clock.nowMs();
    const attempt: Attempt = {
      dispatch,
      replySubject: dispatch.replySubject,
      tokens,
      output: [],
      firstIndex: tokens.length - dispatch.promptLength,
      scores: promptScores(dispatch),
      sent: 0,
      end: undefined,
      leaseUntilMs: now + dispatch.leaseMs,
      deadlineAtMs: now + dispatch.deadlineMs,
      times: new AttemptTimes(now, this.config.tracer, dispatch.trace),
      cacheHitTokens: 0,
      prefilledBy: undefined,
      cancelReplies: [],
      part: (from, until) => this.partOf(attempt, from, until),
    };
    const id = dispatch.attemptId;
    const constraint = this.constraintOf(dispatch, tokens);
    // Rows from elsewhere come without their logits.
    const sources = attempt.scores === null ? rowSources(dispatch, tokens.length) : [];
    const remote = sources.some(({ endRow }) => endRow >= Math.max(1, this.config.localPrefillTokens));
    this.attempts.set(id, attempt);
    try {
      this.core.engine.submit({
        id,
        tokens,
        promptLength: dispatch.promptLength,
        cacheSalt: dispatch.cacheSalt,
        standing: standingAt(dispatch, now),
        mode: remote ? "remote" : "local",
        maxTokens: dispatch.maxTokens,
        stopTokenIds: new Set(dispatch.stopTokenIds),
        sampling: rowSampling(dispatch),
        ...(constraint && { constraint }),
        digests: dispatch.digests ?? false,
        ...(attempt.scores && { promptTop: attempt.scores.top }),
        listener: {
          onReserved: (hitRows) => this.onReserved(attempt, hitRows, remote ? sources : null),
          onRows: (firstRow, rowCount) => attempt.times.computed(this.clock.nowMs(), firstRow, rowCount),
          onScored: (scored) => {
            for (const score of scored) attempt.scores?.push(score);
          },
          onToken: (index, sampled, digest) => {
            attempt.times.token(this.clock.nowMs());
            attempt.output[index - attempt.firstIndex] = finiteOutput(sampled, digest);
            this.deltas.mark(attempt);
          },
          onEnd: (end) => this.onEngineEnd(attempt, end),
        },
      });
    } catch (error) {
      this.attempts.delete(id);
      constraint?.dispose();
      throw error;
    }
  }

  /** Where an earlier worker left it. */
  private constraintOf({ constraint: spec, rules, promptLength }: Dispatch, tokens: Uint32Array): TokenConstraint | undefined {
    if (spec !== undefined && this.config.constraints === undefined) {
      throw new PelagicError("invalid_request", "this worker's answers cannot follow a grammar");
    }
    const grammar = spec && this.config.constraints?.(spec);
    const constraint = rules === undefined ? grammar : new RuledTokens(this.core.runner.info.vocabSize, rules, grammar);
    if (constraint === undefined) return undefined;
    for (const token of tokens.subarray(promptLength)) constraint.accept(token);
    return constraint;
  }

  private onReserved(attempt: Attempt, hitRows: number, sources: RowSource[] | null): void {
    const { dispatch } = attempt;
    // After a preemption the request's own blocks are hit again: that is not the client's cache hit.
    if (!attempt.times.reserved(this.clock.nowMs(), sources !== null)) return;
    attempt.cacheHitTokens = Math.min(hitRows, dispatch.promptLength - 1);
    if (sources === null) return;
    const { engine } = this.core;
    const id = dispatch.attemptId;
    this.fetcher.start(
      {
        id,
        requestId: dispatch.requestId,
        tokens: attempt.tokens,
        promptLength: dispatch.promptLength,
        cacheSalt: dispatch.cacheSalt,
        standing: () => standingIn(dispatch, this.clock.nowMs() - attempt.times.receivedMs),
        deadlineAtMs: attempt.deadlineAtMs,
        leaseMs: dispatch.leaseMs,
        sources,
        onAsk: (source) => attempt.times.asked(source.workerId, this.clock.nowMs()),
        onSource: (source, cachedRows) => {
          if (!source.prefills) return;
          attempt.prefilledBy = source.workerId;
          // What prefill had cached beyond our own hit, nobody computed either.
          attempt.cacheHitTokens += cachedRows;
        },
        onDone: (rows) => {
          attempt.times.fetched(this.clock.nowMs());
          engine.activate(id, rows);
        },
        onError: (error) => engine.cancel(id, toPelagicError(error)),
      },
      hitRows,
    );
  }

  // Output

  private onEngineEnd(attempt: Attempt, end: EngineEnd): void {
    this.fetcher.stop(attempt.dispatch.attemptId);
    if (end.kind === "finish") {
      attempt.end = { kind: "finish", reason: end.reason, ...(end.stopTokenId === undefined ? {} : { stopTokenId: end.stopTokenId }) };
    } else if (end.kind === "error") {
      attempt.end = { kind: "error", error: wireError(end.error) };
    }
    const outcome = end.kind === "finish" ? end.reason : end.kind === "error" ? end.error.code : "internal";
    attempt.times.ended(this.clock.nowMs());
    this.onEnd({
      outcome,
      promptTokens: attempt.dispatch.promptLength,
      cacheHitTokens: attempt.cacheHitTokens,
      outputTokens: attempt.output.length,
      timings: attempt.times.timings,
    });
    attempt.times.report(
      {
        "pelagic.request_id": attempt.dispatch.requestId,
        "pelagic.worker_id": this.core.workerId,
        "pelagic.prompt_tokens": attempt.dispatch.promptLength,
        "pelagic.cache_hit_tokens": attempt.cacheHitTokens,
        "pelagic.output_tokens": attempt.output.length,
      },
      end.kind === "error" ? outcome : undefined,
    );
    for (const answer of attempt.cancelReplies) answer();
    if (end.kind === "error" && end.error.code === "cancelled") {
      // Nobody waits for its output.
      this.forget(attempt.dispatch.attemptId);
      return;
    }
    // From here the lease only bounds how long the output is kept for a gateway that does not acknowledge it.
    this.deltas.mark(attempt);
  }

  private partOf(attempt: Attempt, from: number, until: number): OutputPart {
    const { dispatch, output } = attempt;
    const part = output.slice(from, until);
    const ends = until >= output.length && attempt.end !== undefined;
    return {
      delta: {
        attemptId: dispatch.attemptId,
        from: attempt.firstIndex + from,
        ...(dispatch.sampling.logprobs === undefined ? {} : { logprobs: part.map(({ logprob, top }) => ({ logprob, top })) }),
        ...(dispatch.digests ? { digests: part.map(({ digest }) => (digest ?? 0n).toString(16).padStart(16, "0")) } : {}),
        ...(from === 0
          ? {
              instanceId: this.core.instanceId,
              cacheHitTokens: attempt.cacheHitTokens,
              ...(attempt.prefilledBy === undefined ? {} : { prefilledBy: attempt.prefilledBy }),
            }
          : {}),
        ...(ends ? { end: attempt.end } : {}),
        ...(from === 0 || ends ? { timings: attempt.times.timings } : {}),
      },
      tokens: Uint32Array.from(part, ({ token }) => token),
    };
  }

  private forget(attemptId: string): void {
    this.attempts.delete(attemptId);
    this.ended.add(attemptId);
  }

  // What gateways say

  private onControl(message: Control, respond: (body: object, tail?: Uint32Array) => void): void {
    const now = this.clock.nowMs();
    switch (message.kind) {
      case "ack":
        for (const id of message.attemptIds) if (this.attempts.get(id)?.end) this.forget(id);
        return;
      case "resend": {
        const attempt = this.attempts.get(message.attemptId);
        if (!attempt) {
          this.deltas.send(unknownAttempt(message), 0);
          return;
        }
        attempt.replySubject = message.replySubject;
        this.deltas.send(attempt, Math.max(0, message.from - attempt.firstIndex), message.most);
        return;
      }
      case "prompt-scores": {
        const scores = this.attempts.get(message.attemptId)?.scores;
        if (scores) respond({ kind: "scores", top: scores.top }, scores.packedFrom(message.from, scoreWords));
        else respond({ kind: "error", error: { code: "worker_lost", message: "the decode worker no longer has this request" } });
        return;
      }
      case "cancel": {
        const attempt = this.attempts.get(message.attemptId);
        if (!attempt || attempt.end) {
          // Also one that was never here: its dispatch may still be on the way.
          this.forget(message.attemptId);
          respond({ ok: true });
          return;
        }
        this.cancelledAtMs = now;
        attempt.cancelReplies.push(() => respond({ ok: true }));
        this.core.engine.cancel(message.attemptId, new PelagicError("cancelled", "cancelled by the gateway"));
        return;
      }
      case "lease":
        for (const id of message.attemptIds) {
          const attempt = this.attempts.get(id);
          if (attempt) attempt.leaseUntilMs = now + message.leaseMs;
        }
        return;
      case "drain":
        return;
    }
  }

  /** After an outage nobody is to blame for silence. */
  private heal(): void {
    const now = this.clock.nowMs();
    for (const attempt of this.attempts.values()) {
      attempt.leaseUntilMs = Math.max(attempt.leaseUntilMs, now + attempt.dispatch.leaseMs);
    }
  }

  private tick(): void {
    this.outage.look();
    const now = this.clock.nowMs();
    for (const [id, attempt] of [...this.attempts]) {
      if (now > attempt.leaseUntilMs && !this.outage.excuses(attempt.dispatch.leaseMs)) {
        if (attempt.end) {
          this.forget(id);
        } else {
          this.log.warn({ request: attempt.dispatch.requestId, gateway: attempt.dispatch.gatewayId }, "the gateway's lease ran out");
          this.core.engine.cancel(id, new PelagicError("cancelled", "the gateway's lease ran out"));
        }
      } else if (now > attempt.deadlineAtMs && !attempt.end) {
        this.core.engine.cancel(id, new PelagicError("deadline_exceeded", "the request's deadline passed"));
      }
    }
    this.fetcher.tick();
    this.stopTimer = this.clock.setTimer(tickMs, () => this.tick());
  }
}

/** The answer to who asks for output of an attempt that is not here. */
function unknownAttempt({ attemptId, from, replySubject }: Extract<Control, { kind: "resend" }>): DeltaSource {
  const error = { code: "worker_lost", message: "the decode worker no longer has this request" } as const;
  const part = () => ({ delta: { attemptId, from, end: { kind: "error" as const, error } }, tokens: new Uint32Array(0) });
  return { replySubject, output: [], sent: 0, part };
}

function promptScores({ promptTop: top, promptLength }: Dispatch): PromptScores | null {
  if (top === undefined) return null;
  if (promptLength * (1 + top) > maxPromptLogprobs) {
    throw new PelagicError("invalid_request", `logprobs of ${promptLength} tokens, ${top} beside each: more than ${maxPromptLogprobs}`);
  }
  return new PromptScores(promptLength, top);
}

/**
 * Who to ask for rows, in this order: a peer that had the request (its whole blocks, generated ones included), then prefill. The last row is
 * always computed here: its logits give the next token.
 */
function rowSources(dispatch: Dispatch, knownTokens: number): RowSource[] {
  const sources: RowSource[] = [];
  if (dispatch.heldBy !== undefined) {
    sources.push({ workerId: dispatch.heldBy, endRow: Math.floor((knownTokens - 1) / kvBlockTokens) * kvBlockTokens, prefills: false });
  }
  if (dispatch.prefillWorkerId !== null) {
    sources.push({ workerId: dispatch.prefillWorkerId, endRow: dispatch.promptLength - 1, prefills: true });
  }
  return sources;
}

function finiteOutput(sampled: SampledToken, digest: bigint | undefined): Attempt["output"][number] {
  const finite = (logprob: number) => (Number.isFinite(logprob) ? logprob : impossibleLogprob);
  return {
    token: sampled.token,
    logprob: finite(sampled.logprob),
    top: sampled.top.map(([token, logprob]) => [token, finite(logprob)]),
    digest,
  };
}

function rowSampling({ sampling }: Dispatch): Omit<RowSampling, "promptTokens" | "outputTokens"> {
  const { logitBias, seed, ...rest } = sampling;
  return {
    ...rest,
    seed: BigInt.asUintN(64, BigInt(seed)),
    ...(logitBias && logitBias.length > 0
      ? { biasTokens: Uint32Array.from(logitBias, ([token]) => token), biasValues: Float32Array.from(logitBias, ([, value]) => value) }
      : {}),
  };
}

function wireError({ code, message, param }: PelagicError): WireError {
  return { code, message, ...(param !== undefined && { param }) };
}
