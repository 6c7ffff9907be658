// One request's times in the gateway: phases that follow one another, from its arrival to its end. From them come metrics, the time line and spans.
import type { RequestTimings } from "../lib/contracts/messages.ts";
import type { RequestTimeline, TimelinePhase } from "../lib/contracts/timeline.ts";
import { reportPhases, type Tracer } from "../lib/contracts/trace.ts";
import type { z } from "zod";

/** The wait for the first token, in which decode's own phases lie. */
const waiting = "first token";

export class RequestTimes {
  readonly arrivedMs: number;
  firstTokenMs: number | null = null;
  lastTokenMs = 0;
  private readonly phases: { name: string; endMs: number }[] = [];
  private readonly tracer: Tracer | undefined;
  /** The request's own span, and that of the wait for its first token. */
  private readonly context: string | undefined;
  readonly waitContext: string | undefined;
  private readonly parent: string | undefined;

  /** `parent`: the client's traceparent, where it sent one. */
  constructor(tracer: Tracer | undefined, parent: string | undefined) {
    this.arrivedMs = performance.now();
    this.tracer = tracer;
    this.parent = parent;
    this.context = tracer?.child(parent);
    this.waitContext = tracer?.child(this.context);
  }

  /** What has been going on since the phase before is over. */
  ended(phase: string): void {
    this.phases.push({ name: phase, endMs: performance.now() });
  }

  token(): void {
    this.lastTokenMs = performance.now();
    if (this.firstTokenMs !== null) return;
    this.firstTokenMs = this.lastTokenMs;
    this.phases.push({ name: waiting, endMs: this.firstTokenMs });
  }

  get traceId(): string | null {
    return this.context?.split("-")[1] ?? null;
  }

  /** Seconds up to now. */
  get seconds(): number {
    return (performance.now() - this.arrivedMs) / 1000;
  }

  get ttftSeconds(): number | null {
    return this.firstTokenMs === null ? null : (this.firstTokenMs - this.arrivedMs) / 1000;
  }

  timeline(
    about: Omit<RequestTimeline, "arrivedAt" | "phases" | "ttftSeconds" | "seconds" | "traceId">,
    decode: z.infer<typeof RequestTimings> | undefined,
  ): RequestTimeline {
    const { arrivedMs } = this;
    return {
      ...about,
      traceId: this.traceId,
      arrivedAt: new Date(performance.timeOrigin + arrivedMs).toISOString(),
      seconds: this.seconds,
      ttftSeconds: this.ttftSeconds,
      phases: timelinePhases(
        this.phases.map(({ name, endMs }) => ({ name, endSeconds: (endMs - arrivedMs) / 1000 })),
        decode,
      ),
    };
  }

  report(name: string, attributes: Record<string, string | number | undefined>, failed: string | undefined): void {
    const { tracer, context, parent, arrivedMs, waitContext } = this;
    if (tracer === undefined || context === undefined) return;
    const spans = this.phases.map(({ name: phase, endMs }): [string, number, string?] => {
      const span = `gateway.${phase.replaceAll(" ", "_")}`;
      return phase === waiting && waitContext !== undefined ? [span, endMs, waitContext] : [span, endMs];
    });
    reportPhases(tracer, context, arrivedMs, spans);
    const endMs = performance.now();
    tracer.report({
      context,
      parent,
      name,
      kind: "server",
      startMs: arrivedMs,
      endMs,
      attributes,
      ...(failed !== undefined && { failed }),
    });
  }
}

/**
 * The gateway's phases, and behind its wait for the first token what decode did in it. Decode's clock is another: its part stands in the middle
 * of the wait, as if the way there and back took equally long.
 */
export function timelinePhases(
  gateway: readonly { name: string; endSeconds: number }[],
  decode: z.infer<typeof RequestTimings> | undefined,
): TimelinePhase[] {
  let from = 0;
  return gateway.flatMap(({ name, endSeconds }): TimelinePhase[] => {
    const phase: TimelinePhase = { name, process: "gateway", startSeconds: from, seconds: endSeconds - from };
    from = endSeconds;
    if (name !== waiting || decode === undefined) return [phase];
    let at = phase.startSeconds + Math.max(0, (phase.seconds - decode.firstTokenSeconds) / 2);
    const parts = [
      ["queue", decode.queueSeconds],
      ["prefill", decode.prefillSeconds],
      ["first step", decode.firstTokenSeconds - decode.queueSeconds - decode.prefillSeconds],
    ] as const;
    return [
      phase,
      ...parts.map(([part, seconds]): TimelinePhase => {
        const placed = { name: part, process: "decode" as const, startSeconds: at, seconds: Math.max(0, seconds) };
        at += placed.seconds;
        return placed;
      }),
    ];
  });
}
