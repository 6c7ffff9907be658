// A decode worker that says what a test wrote down, by the protocol of contracts/messages.ts: for tests of the gateway's side only.
import type { Bus, BusSubscription, Clock } from "../../services/lib/contracts/bus.ts";
import { systemClock } from "../../services/lib/contracts/bus.ts";
import { countWords } from "../../services/lib/contracts/counts-by-layer.ts";
import type { PelagicError } from "../../services/lib/contracts/errors.ts";
import { encodeDeltas, type OutputPart } from "../../services/lib/contracts/deltas.ts";
import { Control, Dispatch, type WorkerState } from "../../services/lib/contracts/messages.ts";
import { PromptScores } from "../../services/lib/contracts/prompt-scores.ts";
import { subjects as subjectsOf } from "../../services/lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage, protocolVersion } from "../../services/lib/contracts/wire.ts";

export interface Script {
  /** The whole answer; a resumed attempt goes on where the dispatch says. */
  tokens: number[];
  /** Default: stop. */
  reason?: "stop" | "length";
  error?: PelagicError;
  /** Between two deltas. */
  gapMs?: number;
  tokensPerDelta?: number;
  cacheHitTokens?: number;
  /** Of every token; default: -0.5. */
  logprob?: number;
  /** Stays silent after so many tokens. */
  hangAfter?: number;
}

interface Attempt {
  dispatch: Dispatch;
  script: Script;
  ready: number;
  replySubject: string;
  stopTimer: () => void;
}

export const testModelName = "test-model";

export function workerState(workerId: string, role: "prefill" | "decode" = "decode", more: Partial<WorkerState> = {}): WorkerState {
  return {
    v: protocolVersion,
    workerId,
    instanceId: `${workerId}-1`,
    role,
    state: "ready",
    modelName: testModelName,
    modelDigest: "a".repeat(64),
    numericsId: "b".repeat(64),
    kvDtype: "bfloat16",
    maxPositions: 8192,
    blocks: { total: 100, free: 100, cached: 0 },
    requests: { running: 0, waiting: 0, maxWaiting: 16 },
    queuedPrefillTokens: 0,
    rates: { prefillTokensPerSecond: 0, decodeStepSeconds: 0, transferBytesPerSecond: 0 },
    kvBytesPerToken: 5760,
    pid: 1,
    heartbeatMs: 500,
    position: 0,
    snapshot: [],
    stored: [],
    removed: [],
    ...more,
  };
}

/** The token at each position is as likely as its position says. */
export function scriptedScores(promptLength: number, top: number): PromptScores {
  const scores = new PromptScores(promptLength, top);
  for (let at = 1; at < promptLength; at++) {
    scores.push({ logprob: -at, rank: at + 1, top: Array.from({ length: top }, (_, i) => [65 + i, -i / 2]) });
  }
  return scores;
}

export class ScriptedDecode {
  readonly workerId: string;
  instanceId: string;
  readonly dispatches: { body: Dispatch; tokens: Uint32Array }[] = [];
  readonly cancelled: string[] = [];
  readonly leases: string[][] = [];
  readonly acks: string[] = [];
  readonly attempts = new Map<string, Attempt>();
  script: (dispatch: Dispatch, prompt: Uint32Array) => Script;
  busy = false;
  /** Answer to a question for expert counts: [layers][experts], below 2^32; of late there were half as many. */
  expertCounts: number[][] = [];
  state: Partial<WorkerState> = {};

  private readonly bus: Bus;
  private readonly clock: Clock;
  private readonly subjects;
  private readonly subscriptions: BusSubscription[] = [];
  private stopHeartbeat: () => void = () => {};

  constructor(options: { bus: Bus; clock?: Clock; service?: string; workerId?: string; script: ScriptedDecode["script"] }) {
    this.bus = options.bus;
    this.clock = options.clock ?? systemClock;
    this.workerId = options.workerId ?? "decode-0";
    this.instanceId = `${this.workerId}-1`;
    this.script = options.script;
    this.subjects = subjectsOf(options.service ?? "test");
    this.subscriptions.push(
      this.bus.subscribe(this.subjects.dispatch(this.workerId), (message) => this.onDispatch(message.data, message.respond)),
      this.bus.subscribe(this.subjects.control(this.workerId), (message) => this.onControl(message.data, message.respond)),
      this.bus.subscribe(this.subjects.stateRequest, () => this.sayState()),
    );
    this.heartbeat();
  }

  /** As SIGKILL does. */
  kill(): void {
    this.stopHeartbeat();
    for (const attempt of this.attempts.values()) attempt.stopTimer();
    this.attempts.clear();
    for (const subscription of this.subscriptions) subscription.unsubscribe();
  }

  sayState(): void {
    const state = workerState(this.workerId, "decode", {
      instanceId: this.instanceId,
      requests: { running: 0, waiting: 0, maxWaiting: 1_000 },
      ...this.state,
    });
    try {
      this.bus.publish(this.subjects.state(this.workerId), encodeMessage(state));
    } catch {
      // Disconnected.
    }
  }

  private heartbeat(): void {
    this.sayState();
    this.stopHeartbeat = this.clock.setTimer(500, () => this.heartbeat());
  }

  private onDispatch(data: Uint8Array, respond?: (data: Uint8Array) => void): void {
    const { body, tokens } = decodeMessage(Dispatch, data);
    if (body.instanceId !== this.instanceId) {
      respond?.(encodeMessage({ kind: "error", error: { code: "worker_lost", message: "another process" } }));
      return;
    }
    if (this.busy) {
      respond?.(encodeMessage({ kind: "busy", reason: "full", retryAfterMs: 2_000 }));
      return;
    }
    if (!this.attempts.has(body.attemptId)) {
      this.dispatches.push({ body, tokens });
      const script = this.script(body, tokens);
      const attempt: Attempt = {
        dispatch: body,
        script,
        ready: tokens.length - body.promptLength,
        replySubject: body.replySubject,
        stopTimer: () => {},
      };
      this.attempts.set(body.attemptId, attempt);
      attempt.stopTimer = this.clock.setTimer(script.gapMs ?? 0, () => this.produce(attempt));
    }
    respond?.(encodeMessage({ kind: "accepted", instanceId: this.instanceId }));
  }

  private produce(attempt: Attempt): void {
    const { script } = attempt;
    const from = attempt.ready;
    attempt.ready = Math.min(script.tokens.length, from + (script.tokensPerDelta ?? 1), script.hangAfter ?? Number.POSITIVE_INFINITY);
    this.send(attempt, from);
    if (attempt.ready < Math.min(script.tokens.length, script.hangAfter ?? Number.POSITIVE_INFINITY)) {
      attempt.stopTimer = this.clock.setTimer(script.gapMs ?? 0, () => this.produce(attempt));
    }
  }

  private send(attempt: Attempt, from: number, most = Number.POSITIVE_INFINITY): void {
    const { script, dispatch } = attempt;
    const until = Math.min(attempt.ready, from + most);
    const tokens = Uint32Array.from(script.tokens.slice(from, until));
    const delta: OutputPart["delta"] = {
      attemptId: dispatch.attemptId,
      from,
      ...(from === 0 ? { cacheHitTokens: script.cacheHitTokens ?? 0 } : {}),
      ...(dispatch.sampling.logprobs === undefined
        ? {}
        : {
            logprobs: [...tokens].map((token) => ({
              logprob: script.logprob ?? -0.5,
              top: [
                [token, -0.5],
                [65, -2],
              ] as [number, number][],
            })),
          }),
      ...(dispatch.digests ? { digests: [...tokens].map((token) => token.toString(16).padStart(16, "0")) } : {}),
    };
    if (until === script.tokens.length && script.hangAfter === undefined) {
      delta.end = script.error
        ? { kind: "error", error: { code: script.error.code, message: script.error.message } }
        : { kind: "finish", reason: script.reason ?? "stop" };
    }
    try {
      this.bus.publish(attempt.replySubject, encodeDeltas([{ delta, tokens }]));
    } catch {
      // Disconnected: asked for again.
    }
  }

  private onControl(data: Uint8Array, respond?: (data: Uint8Array) => void): void {
    const { body } = decodeMessage(Control, data);
    if (body.kind === "ack") {
      this.acks.push(...body.attemptIds);
      for (const id of body.attemptIds) this.attempts.delete(id);
    } else if (body.kind === "lease") {
      this.leases.push(body.attemptIds);
    } else if (body.kind === "cancel") {
      this.attempts.get(body.attemptId)?.stopTimer();
      this.attempts.delete(body.attemptId);
      this.cancelled.push(body.attemptId);
      respond?.(encodeMessage({ ok: true }));
    } else if (body.kind === "expert-counts") {
      const [first = []] = this.expertCounts;
      const counts = { firstLayer: 1, moeLayers: this.expertCounts.length, logicalExperts: first.length, expertsPerToken: 2 };
      const half = body.span === "late" ? 2 : 1;
      const words = countWords(Float64Array.from(this.expertCounts.flat(), (count) => Math.floor(count / half)));
      const about = { workerId: this.workerId, instanceId: this.instanceId, span: body.span, balancedness: [0.5, 1] };
      respond?.(encodeMessage({ ...about, ...counts }, words));
    } else if (body.kind === "prompt-scores") {
      const { dispatch } = this.attempts.get(body.attemptId) ?? {};
      if (dispatch?.promptTop === undefined) {
        respond?.(encodeMessage({ kind: "error", error: { code: "worker_lost", message: "unknown attempt" } }));
        return;
      }
      const scores = scriptedScores(dispatch.promptLength, dispatch.promptTop);
      // Few at a time, so that there are several messages.
      respond?.(encodeMessage({ kind: "scores", top: scores.top }, scores.packedFrom(body.from, 2 * scores.wordsEach)));
    } else if (body.kind === "resend") {
      const attempt = this.attempts.get(body.attemptId);
      if (attempt) {
        this.send(attempt, body.from, body.most);
      } else {
        const end = { kind: "error" as const, error: { code: "worker_lost" as const, message: "unknown attempt" } };
        this.bus.publish(
          body.replySubject,
          encodeDeltas([{ delta: { attemptId: body.attemptId, from: body.from, end }, tokens: new Uint32Array(0) }]),
        );
      }
    }
  }
}
