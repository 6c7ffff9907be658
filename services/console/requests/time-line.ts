// A request's phases as bars on one scale. Pure.
import type { RequestTimeline, TimelinePhase } from "../../lib/contracts/timeline.ts";

/** All of it, or up to the first token, where the short phases are. */
export type Span = "whole" | "first-token";

export interface Bar {
  name: string;
  process: TimelinePhase["process"];
  /** Where it was, but for the gateway. */
  where: string | null;
  /** Of the span, 0 to 1; a phase that goes on beyond it is cut there. */
  from: number;
  length: number;
  startSeconds: number;
  seconds: number;
}

export function spanSeconds({ seconds, ttftSeconds }: Pick<RequestTimeline, "seconds" | "ttftSeconds">, span: Span): number {
  return span === "first-token" && ttftSeconds !== null ? ttftSeconds : seconds;
}

/** Phases that lie in the span, in the order in which they began. */
export function barsOf(timeline: RequestTimeline, span: Span): Bar[] {
  const whole = spanSeconds(timeline, span);
  if (whole <= 0) return [];
  const inside = (seconds: number) => Math.min(1, Math.max(0, seconds / whole));
  return timeline.phases
    .filter(({ startSeconds }) => span === "whole" || startSeconds < whole)
    .map(({ name, process, workerId = process, startSeconds, seconds }) => {
      const from = inside(startSeconds);
      const where = process === "gateway" ? null : workerId;
      return { name, process, where, from, length: inside(startSeconds + seconds) - from, startSeconds, seconds };
    });
}

/** Round times on the scale, three to seven of them, from 0. */
export function ticksOf(seconds: number): number[] {
  if (seconds <= 0) return [0];
  const magnitude = 10 ** Math.floor(Math.log10(seconds));
  const step = [0.2, 0.5, 1, 2].map((factor) => factor * magnitude).find((size) => seconds / size < 6) ?? 2 * magnitude;
  return Array.from({ length: Math.floor(seconds / step + 1e-9) + 1 }, (_, i) => i * step);
}
