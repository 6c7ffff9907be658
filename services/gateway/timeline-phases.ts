// A request's time line from the gateway's phases and its attempts. Pure.
import type { RequestTimings } from "../lib/contracts/messages.ts";
import type { TimelinePhase } from "../lib/contracts/timeline.ts";
import { type AttemptRecord, placeAttempt } from "./attempt-record.ts";

/** `phases` follow one another from `arrivedMs`; what has not ended goes on until `nowMs`. */
export function timelinePhases(
  arrivedMs: number,
  phases: readonly { name: string; endMs: number }[],
  attempts: readonly AttemptRecord[],
  nowMs: number,
): TimelinePhase[] {
  const lane = (process: TimelinePhase["process"], workerId?: string) => (name: string, startMs: number, endMs: number) => ({
    ...{ name, process, startSeconds: (startMs - arrivedMs) / 1000, seconds: Math.max(0, endMs - startMs) / 1000 },
    ...(workerId !== undefined && { workerId }),
  });
  let fromMs = arrivedMs;
  const own = phases.map(({ name, endMs }) => {
    const phase = lane("gateway")(name, fromMs, endMs);
    fromMs = endMs;
    return phase;
  });
  const theirs = attempts.flatMap((attempt) => attemptPhases(attempt, nowMs, lane));
  // Stable: where two begin together, whoever waits comes first.
  return [...own, ...theirs].sort((a, b) => a.startSeconds - b.startSeconds);
}

type Lane = (process: TimelinePhase["process"], workerId: string) => (name: string, startMs: number, endMs: number) => TimelinePhase;

function attemptPhases(attempt: AttemptRecord, nowMs: number, lane: Lane): TimelinePhase[] {
  const { workerId, sentMs, timings = {} } = attempt;
  const { ms: endMs, outcome } = attempt.end ?? { ms: nowMs, outcome: "unanswered" };
  const placed = placeAttempt(attempt);
  const decode = lane("decode", workerId);
  if (placed === null) return [decode(outcome, sentMs, endMs)];
  const { queueSeconds, fetchSeconds, firstTokenSeconds, totalSeconds } = timings;
  // Never beyond what the gateway saw of it, whatever a worker says.
  const at = (seconds: number) => Math.min(endMs, placed.startMs + seconds * 1000);
  const result: TimelinePhase[] = [];
  let fromMs = placed.startMs;
  const until = (name: string, toMs: number) => {
    if (toMs < fromMs) return;
    result.push(decode(name, fromMs, toMs));
    fromMs = toMs;
  };
  if (queueSeconds !== undefined) until("queue", at(queueSeconds));
  if (queueSeconds !== undefined && fetchSeconds !== undefined) {
    until("remote prefill", at(queueSeconds + fetchSeconds));
    for (const transfer of timings.transfers ?? []) {
      const process = transfer.workerId === attempt.prefillWorkerId ? "prefill" : "decode";
      result.push(...senderPhases(transfer, at, lane(process, transfer.workerId)));
    }
  }
  if (firstTokenSeconds !== undefined) {
    until(fetchSeconds === undefined ? "prefill and first step" : "first step", at(firstTokenSeconds));
    until("steps", totalSeconds === undefined ? endMs : at(totalSeconds));
  } else if (totalSeconds !== undefined) {
    until(outcome, at(totalSeconds));
  }
  return result;
}

/** In the middle of what the receiver waited. */
function senderPhases(
  { startSeconds, seconds, sender }: NonNullable<RequestTimings["transfers"]>[number],
  at: (seconds: number) => number,
  phase: (name: string, startMs: number, endMs: number) => TimelinePhase,
): TimelinePhase[] {
  if (sender === undefined) return [phase("send rows", at(startSeconds), at(startSeconds + seconds))];
  const { queueSeconds, computeSeconds, sendSeconds } = sender;
  const begins = startSeconds + Math.max(0, seconds - queueSeconds - computeSeconds - sendSeconds) / 2;
  const end = (after: number) => at(Math.min(startSeconds + seconds, begins + after));
  return [
    phase("queue", end(0), end(queueSeconds)),
    phase("compute", end(queueSeconds), end(queueSeconds + computeSeconds)),
    phase("send", end(queueSeconds + computeSeconds), end(queueSeconds + computeSeconds + sendSeconds)),
  ];
}
