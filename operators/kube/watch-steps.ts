// When an informer lists, when it watches, and how long it waits before: as a pure function of how its last step ended.
import { type BackoffBounds, backoffMs } from "./backoff.ts";

export interface WatchTimes extends BackoffBounds {
  /** A watch that lived so long was a good one. */
  healthyMs: number;
  /** So often everything is listed anew, in case that a watch left something out. */
  relistMs: number;
}

export interface WatchState {
  /** To watch from; undefined: list first. */
  version: string | undefined;
  /** Steps in a row that brought nothing. A list alone does not end them: what lists and then cannot watch must not list for ever. */
  failures: number;
  /** Lists since the last watch that brought something. */
  barrenLists: number;
  listedMs: number;
}

export type StepEnd =
  | { kind: "listed"; version: string }
  /** A watch that was closed by the server, or cut. */
  | { kind: "closed"; version: string; livedMs: number; heard: boolean }
  /** The version is too old, or unknown to the server. */
  | { kind: "gone" }
  | { kind: "failed"; retryAfterMs?: number | undefined };

export const neverListed: WatchState = { version: undefined, failures: 0, barrenLists: 0, listedMs: Number.NEGATIVE_INFINITY };

export interface NextStep {
  kind: "list" | "watch";
  afterMs: number;
}

export function afterStep(
  state: WatchState,
  end: StepEnd,
  nowMs: number,
  times: WatchTimes,
  random: number,
): { state: WatchState; next: NextStep } {
  if (end.kind === "listed")
    // Whoever lists again and again, and cannot watch, waits between the two as well; not for how long the API server was away before.
    return {
      state: { ...state, version: end.version, barrenLists: state.barrenLists + 1, listedMs: nowMs },
      next: { kind: "watch", afterMs: state.barrenLists === 0 ? 0 : backoffMs(state.barrenLists, times, random) },
    };
  const healthy = end.kind === "closed" && (end.heard || end.livedMs >= times.healthyMs);
  const failures = healthy ? 0 : state.failures + 1;
  const version = end.kind === "gone" ? undefined : end.kind === "closed" ? end.version : state.version;
  const relist = nowMs - state.listedMs >= times.relistMs;
  // All of a process's watches end together when the server does.
  const waitMs = healthy ? random * times.baseMs : backoffMs(failures, times, random);
  return {
    state: { version: relist ? undefined : version, failures, barrenLists: healthy ? 0 : state.barrenLists, listedMs: state.listedMs },
    next: {
      kind: version === undefined || relist ? "list" : "watch",
      afterMs: Math.max(waitMs, (end.kind === "failed" ? end.retryAfterMs : 0) ?? 0),
    },
  };
}
