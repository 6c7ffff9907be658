// What a request asks of time: its class, and how soon its answer should come. Pure.
//
//   x-slo-ttft-ms, x-slo-tpot-ms   objectives (inference-perf and llm-d send them): order, and count; the time from arrival to the first token,
//                                  and the mean between two later ones
//   x-request-timeout-ms           a deadline: whoever misses it ends with deadline_exceeded
import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { PelagicError } from "../../lib/contracts/errors.ts";
import { type PriorityClass, priorityClasses } from "../../lib/contracts/messages.ts";
import type { Standing } from "../../lib/fair-queue/request-queue.ts";
import type { Caller } from "./api-keys.ts";

export interface Terms {
  priority: PriorityClass;
  /** Objectives; null: none. */
  ttftMs: number | null;
  tpotMs: number | null;
  /** After the request's arrival. */
  deadlineMs: number;
  /** The client said so. */
  ownDeadline: boolean;
}

export const termsHeaders = { ttft: "x-slo-ttft-ms", tpot: "x-slo-tpot-ms", deadline: "x-request-timeout-ms" } as const;
const maxMs = 86_400_000;

/** Throws `invalid_request` with the header at fault. */
export function termsOf(headers: IncomingHttpHeaders, caller: Caller, priority: unknown, maxDeadlineMs: number): Terms {
  const deadlineMs = milliseconds(headers, termsHeaders.deadline);
  return {
    priority: priorityOf(caller, priority),
    ttftMs: milliseconds(headers, termsHeaders.ttft),
    tpotMs: milliseconds(headers, termsHeaders.tpot),
    deadlineMs: Math.min(maxDeadlineMs, deadlineMs ?? maxDeadlineMs),
    ownDeadline: deadlineMs !== null,
  };
}

/**
 * vLLM's integer, lower first: each step from 0 is a class from the key's own, as far as the key allows. What is no integer is refused
 * with the rest of the body.
 */
function priorityOf(caller: Caller, priority: unknown): PriorityClass {
  const steps = typeof priority === "number" && Number.isInteger(priority) ? priority : 0;
  const best = priorityClasses.indexOf(caller.bestPriority);
  const wanted = priorityClasses.indexOf(caller.priority) + steps;
  return priorityClasses[Math.min(Math.max(wanted, best), priorityClasses.length - 1)] as PriorityClass;
}

/** Whose share of the queues a request counts against: the key's (or its group's), and without keys that of whoever shares cached blocks. */
function tenantOf({ isolation }: Caller, cacheSalt: string): string {
  return isolation === "" ? cacheSalt : createHash("sha256").update(isolation).digest("hex").slice(0, 32);
}

/** In the queues. */
export function standingOf(
  { priority, ttftMs }: Pick<Terms, "priority" | "ttftMs">,
  caller: Caller,
  cacheSalt: string,
  arrivedMs: number,
): Standing {
  return {
    tenant: tenantOf(caller, cacheSalt),
    user: cacheSalt,
    priority,
    dueAtMs: ttftMs === null ? Number.POSITIVE_INFINITY : arrivedMs + ttftMs,
  };
}

function milliseconds(headers: IncomingHttpHeaders, name: string): number | null {
  const text = headers[name];
  if (text === undefined) return null;
  const value = typeof text === "string" && /^\d{1,9}(\.\d{1,9})?$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (!(value > 0 && value <= maxMs)) {
    throw new PelagicError("invalid_request", `${name}: must be a number of milliseconds above 0, at most ${maxMs}`, { param: name });
  }
  return value;
}
