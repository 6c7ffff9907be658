// One request's times in the gateway: phases that follow one another, from its arrival to its end. From them come metrics, the time line and spans.
import type { RequestTimeline } from "../lib/contracts/timeline.ts";
import { reportPhases, type Tracer } from "../lib/contracts/trace.ts";
import { type AttemptRecord, placeAttempt } from "./attempt-record.ts";
import { timelinePhases } from "./timeline-phases.ts";

/** The wait for the first token, in which the first attempt lies. */
const waiting = "first token";

/** What the time line says beside times. */
export type AboutRequest = Omit<RequestTimeline, "arrivedAt" | "phases" | "ttftSeconds" | "seconds" | "traceId">;

export class RequestTimes {
  readonly arrivedMs: number;
  firstTokenMs: number | null = null;
  private readonly phases: { name: string; endMs: number }[] = [];
  private readonly tracer: Tracer | undefined;
  private readonly context: string | undefined;
  private readonly parent: string | undefined;

  /** `parent`: the client's traceparent, where it sent one. */
  constructor(tracer: Tracer | undefined, parent: string | undefined) {
    this.arrivedMs = performance.now();
    this.tracer = tracer;
    this.parent = parent;
    this.context = tracer?.child(parent);
  }

  /** What has been going on since the phase before is over. */
  ended(phase: string, atMs = performance.now()): void {
    this.phases.push({ name: phase, endMs: atMs });
  }

  /** The first attempt was sent: from here on it is decode that is waited for. */
  sent(atMs: number | undefined): void {
    if (atMs !== undefined && !this.phases.some(({ name }) => name === "route")) this.ended("route", atMs);
  }

  token(): void {
    if (this.firstTokenMs !== null) return;
    this.firstTokenMs = performance.now();
    this.ended(waiting, this.firstTokenMs);
  }

  eachPhase(take: (name: string, seconds: number) => void): void {
    let fromMs = this.arrivedMs;
    for (const { name, endMs } of this.phases) {
      take(name, (endMs - fromMs) / 1000);
      fromMs = endMs;
    }
  }

  get traceId(): string | null {
    return this.context?.split("-")[1] ?? null;
  }

  /** A fresh span for an attempt; undefined: nothing is traced. */
  get span(): (() => string) | undefined {
    const { tracer, context } = this;
    return tracer && (() => tracer.child(context));
  }

  /** Seconds up to now. */
  get seconds(): number {
    return (performance.now() - this.arrivedMs) / 1000;
  }

  get ttftSeconds(): number | null {
    return this.firstTokenMs === null ? null : (this.firstTokenMs - this.arrivedMs) / 1000;
  }

  /** As of now, whenever it is made. */
  timeline(about: AboutRequest, attempts: readonly AttemptRecord[]): () => RequestTimeline {
    const { arrivedMs, traceId, seconds, ttftSeconds, phases } = this;
    const nowMs = performance.now();
    return () => ({
      ...about,
      traceId,
      arrivedAt: new Date(performance.timeOrigin + arrivedMs).toISOString(),
      seconds,
      ttftSeconds,
      phases: timelinePhases(arrivedMs, phases, attempts, nowMs),
    });
  }

  report(
    name: string,
    attributes: Record<string, string | number | undefined>,
    failed: string | undefined,
    attempts: readonly AttemptRecord[],
  ): void {
    const { tracer, context, parent, arrivedMs } = this;
    if (tracer === undefined || context === undefined) return;
    const phases = this.phases.map(({ name: phase, endMs }) => [`gateway.${phase.replaceAll(" ", "_")}`, endMs] as const);
    reportPhases(tracer, context, arrivedMs, phases);
    const endMs = performance.now();
    for (const attempt of attempts) reportAttempt(tracer, context, attempt, endMs);
    tracer.report({
      ...{ context, parent, name, kind: "server", startMs: arrivedMs, endMs, attributes },
      ...(failed !== undefined && { failed }),
    });
  }
}

/** The attempt, and the bus on both sides of what decode reports itself. */
function reportAttempt(tracer: Tracer, parent: string, attempt: AttemptRecord, nowMs: number): void {
  const { context, sentMs, firstMs, end, workerId } = attempt;
  if (context === undefined) return;
  const placed = placeAttempt(attempt);
  if (placed !== null && firstMs !== null) {
    const inner = { parent: context, kind: "internal" } as const;
    const { startMs, busMs } = placed;
    tracer.report({ ...inner, context: tracer.child(context), name: "gateway.dispatch", startMs: sentMs, endMs: startMs });
    tracer.report({ ...inner, context: tracer.child(context), name: "gateway.receive", startMs: firstMs - busMs, endMs: firstMs });
  }
  const outcome = end?.outcome ?? "cancelled";
  tracer.report({
    ...{ context, parent, name: "gateway.attempt", kind: "client", startMs: sentMs, endMs: end?.ms ?? nowMs },
    attributes: { "pelagic.worker_id": workerId, "pelagic.outcome": outcome },
    ...(outcome !== "stop" && outcome !== "length" && { failed: outcome }),
  });
}
