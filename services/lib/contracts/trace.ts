// One trace per request over all processes, by W3C Trace Context. Each process reports its own spans when they have ended; what travels on the
// bus is the context of the span that the receiver's work belongs to.
import { z } from "zod";

/** Version 00: trace id, parent span id, flags. */
export const Traceparent = z.string().regex(/^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/);

/**
 * The span that a client's traceparent header names; undefined: none, or nothing that we can read. Of versions to come the parts that version 00
 * has are read, and of the flags the one that it has: whether the trace is wanted.
 */
export function parentOf(header: string | string[] | undefined): string | undefined {
  if (typeof header !== "string") return undefined;
  const [, version, ids, flags, rest] = /^([0-9a-f]{2})-([0-9a-f]{32}-[0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(header) ?? [];
  if (version === undefined || version === "ff" || (version === "00" && rest !== undefined)) return undefined;
  return Traceparent.safeParse(`00-${ids}-0${Number.parseInt(flags as string, 16) & 1}`).data;
}

export interface Span {
  /** Its own context, from Tracer.child. */
  context: string;
  parent: string | undefined;
  name: string;
  kind: "server" | "client" | "internal";
  /** By the process's monotonic clock (Clock.nowMs). */
  startMs: number;
  endMs: number;
  attributes?: Record<string, string | number | boolean | undefined>;
  /** Why it failed: one of errors.ts. */
  failed?: string;
}

export interface Tracer {
  /** The context of a span to be: within its parent's trace, or the first of a new one. */
  child(parent: string | undefined): string;
  report(span: Span): void;
}

/** Spans one after another from `startMs`, each to the time given; those that were never reached are left out. */
export function reportPhases(
  tracer: Tracer,
  parent: string,
  startMs: number,
  phases: readonly (readonly [name: string, endMs: number | undefined, context?: string])[],
): void {
  let from = startMs;
  for (const [name, endMs, context] of phases) {
    if (endMs === undefined) continue;
    tracer.report({ context: context ?? tracer.child(parent), parent, name, kind: "internal", startMs: from, endMs });
    from = endMs;
  }
}
