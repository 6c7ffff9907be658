// Where one request's time went, as its gateway tells it: on the admin port for ./pelagic trace, and to the console.
import { z } from "zod";

export const TimelinePhase = z.object({
  name: z.string(),
  process: z.enum(["gateway", "decode"]),
  /** From the request's arrival. A worker's phases are placed in the gateway's wait for it: its clock is another. */
  startSeconds: z.number(),
  seconds: z.number(),
});
export type TimelinePhase = z.infer<typeof TimelinePhase>;

export const RequestTimeline = z.object({
  requestId: z.string(),
  /** To find it in a collector, where there is one. */
  traceId: z.string().nullable(),
  endpoint: z.string(),
  model: z.string(),
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
  decodeWorkerId: z.string().nullable(),
  prefillWorkerId: z.string().nullable(),
  resumes: z.number().int(),
  /** Those of the gateway follow one another without a gap, and those up to the first token add up to its time. */
  phases: z.array(TimelinePhase),
});
export type RequestTimeline = z.infer<typeof RequestTimeline>;
