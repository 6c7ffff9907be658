// Where one request's time went, as its gateway tells it: on the admin port for ./pelagic trace, and to the console.
//
// Lengths are measured by each process's own monotonic clock and never compared across processes. What a worker reports is placed inside the
// interval in which its caller waited for it, in the middle of what is left over, as if the ways there and back took equally long
// (docs/decisions/0410-spans-nest-without-a-common-clock.md).
import { z } from "zod";

export const timelineProcesses = ["gateway", "decode", "prefill"] as const;

export const TimelinePhase = z.object({
  name: z.string(),
  process: z.enum(timelineProcesses),
  /** Of a worker's phase. */
  workerId: z.string().optional(),
  /** From the request's arrival. */
  startSeconds: z.number(),
  seconds: z.number(),
});
export type TimelinePhase = z.infer<typeof TimelinePhase>;

export const RequestTimeline = z.object({
  requestId: z.string(),
  /** To find it in a collector, where there is one. */
  traceId: z.string().nullable(),
  endpoint: z.string(),
  /** null: the request ended before one was chosen. */
  model: z.string().nullable(),
  /** Wall-clock time, ISO 8601. */
  arrivedAt: z.string(),
  /** A finish reason or the name of an error. */
  outcome: z.string(),
  seconds: z.number(),
  /** null: there was no token. */
  ttftSeconds: z.number().nullable(),
  promptTokens: z.number().int(),
  cachedTokens: z.number().int(),
  completionTokens: z.number().int(),
  /** The last that had it. */
  decodeWorkerId: z.string().nullable(),
  prefillWorkerId: z.string().nullable(),
  /** How often another decode worker went on with it. */
  resumes: z.number().int(),
  /**
   * The gateway's follow one another without a gap, and those up to the first token add up to its time. A decode worker's lie within what the
   * gateway waited, prefill's within what decode waited; in the order in which they began.
   */
  phases: z.array(TimelinePhase),
});
export type RequestTimeline = z.infer<typeof RequestTimeline>;
