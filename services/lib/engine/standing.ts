// A request's standing as it travels, with what is left of its time, and as a queue has it, with the time of the clock here. Pure.
import type { Standing as Travelling } from "../contracts/messages.ts";
import type { Standing } from "../fair-queue/request-queue.ts";

export function standingAt({ standing, cacheSalt }: { standing?: Travelling | undefined; cacheSalt: string }, nowMs: number): Standing {
  return {
    tenant: standing?.tenant ?? cacheSalt,
    user: cacheSalt,
    priority: standing?.priority ?? "normal",
    dueAtMs: standing?.ttftMs === undefined ? Number.POSITIVE_INFINITY : nowMs + standing.ttftMs,
  };
}

/** After so long, to be sent on. */
export function standingIn({ standing }: { standing?: Travelling | undefined }, afterMs: number): Travelling | undefined {
  if (standing?.ttftMs === undefined) return standing;
  return { ...standing, ttftMs: Math.max(0, standing.ttftMs - afterMs) };
}
