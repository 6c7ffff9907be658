// Refuses at the door what would be too late: prefill spent on it is taken from requests that can still be in time. Pure, of the snapshot.
import { PelagicError } from "../../lib/contracts/errors.ts";
import { type PriorityClass, priorityClasses } from "../../lib/contracts/messages.ts";
import { type Route, typicalAnswerTokens } from "../router.ts";
import type { RoutingSnapshot, WorkerView } from "../state-view.ts";
import { retryAfter } from "./retry-after.ts";
import type { Terms } from "./terms.ts";

export interface Estimate {
  /** Before anything of the request is computed: what others hold or come before it takes. */
  waitSeconds: number;
  /** From its arrival at the worker to its first token. */
  firstTokenSeconds: number;
}

/** null: the workers of this route have not measured how fast they are, and what nobody knows is held against no request. */
export function estimate(snapshot: RoutingSnapshot, route: Route, priority: PriorityClass): Estimate | null {
  const decode = snapshot.workers.find(({ workerId }) => workerId === route.decode.workerId);
  const prefill = route.prefill === null ? decode : snapshot.workers.find(({ workerId }) => workerId === route.prefill?.workerId);
  if (decode === undefined || prefill === undefined) return null;
  const { decodeStepSeconds } = decode.rates;
  if (decodeStepSeconds === 0 || prefill.rates.prefillTokensPerSecond === 0) return null;
  const { prefillSeconds, transferSeconds, memorySeconds } = route.cost;
  const { computeSeconds } = route;
  const { running, maxRunning = running } = decode.requests;
  const ahead = waitingBefore(decode, priority);
  // Many that came at once wait for no more than the next step. Where places or blocks are short, running requests give them up.
  const free = memorySeconds > 0 ? 0 : Math.max(0, maxRunning - running);
  const awaited = ahead === 0 ? 0 : Math.max(0, ahead + 1 - free);
  const placeSeconds = (awaited * typicalAnswerTokens * decodeStepSeconds) / Math.max(1, running);
  const queueSeconds = (prefillSeconds - computeSeconds) * shareBefore(prefill, priority);
  const waitSeconds = Math.max(placeSeconds, memorySeconds) + queueSeconds;
  return { waitSeconds, firstTokenSeconds: waitSeconds + computeSeconds + transferSeconds + decodeStepSeconds };
}

/**
 * Throws `overloaded` where the first token would come after the deadline, or where others make it miss its objective: one that could not be
 * met on an idle system either is no reason, since no later time would be better.
 */
export function refuseLate(terms: Terms, foreseen: Estimate | null, elapsedMs: number): void {
  if (foreseen === null) return;
  const lateMs = foreseen.firstTokenSeconds * 1000 - (terms.deadlineMs - elapsedMs);
  if (lateMs > 0) throw late("deadline", terms.deadlineMs, foreseen.firstTokenSeconds, lateMs);
  if (terms.ttftMs === null) return;
  const missMs = foreseen.waitSeconds * 1000 - (terms.ttftMs - elapsedMs);
  if (missMs > 0 && foreseen.waitSeconds > 0) throw late("objective", terms.ttftMs, foreseen.firstTokenSeconds, missMs);
}

function late(what: string, allowedMs: number, seconds: number, lateMs: number): PelagicError {
  return new PelagicError(
    "overloaded",
    `the first token would come after about ${seconds.toPrecision(2)} s, and the request's ${what} is ${allowedMs} ms; try again later`,
    { retryAfterMs: retryAfter(lateMs) },
  );
}

function waitingBefore({ requests: { waiting, waitingOf } }: WorkerView, priority: PriorityClass): number {
  if (waitingOf === undefined) return waiting;
  return priorityClasses.slice(0, priorityClasses.indexOf(priority) + 1).reduce((sum, one) => sum + waitingOf[one], 0);
}

function shareBefore(worker: WorkerView, priority: PriorityClass): number {
  const { waiting } = worker.requests;
  return waiting === 0 ? 1 : waitingBefore(worker, priority) / waiting;
}
