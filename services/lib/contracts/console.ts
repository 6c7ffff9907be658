// What the console's page reads of its gateway. The gateway serves the page too, so both are of one build; `version` shows a page that outlived it.
import { z } from "zod";
import { ExpertSpan, WorkerState } from "./messages.ts";
import { RequestTimeline } from "./timeline.ts";

const count = z.number().int().nonnegative();

export const ConsoleWorker = WorkerState.pick({
  workerId: true,
  instanceId: true,
  role: true,
  reason: true,
  modelName: true,
  blocks: true,
  requests: true,
  queuedPrefillTokens: true,
  rates: true,
  kvBytesPerToken: true,
  totals: true,
}).extend({
  kvDtype: z.string(),
  /** What the worker says of itself, or "silent" where it says nothing any more. */
  state: z.enum([...WorkerState.shape.state.options, "silent"]),
});
export type ConsoleWorker = z.infer<typeof ConsoleWorker>;

export const ConsoleModel = z.object({
  modelName: z.string(),
  /** Without a tokenizer there is no chat. */
  chats: z.boolean(),
  contextTokens: count.nullable(),
  /** Why it answers nobody now; null if it does. */
  notReady: z.string().nullable(),
});
export type ConsoleModel = z.infer<typeof ConsoleModel>;

/** GET console/api/overview: how things stand now. What was before is the page's own to remember. */
export const ConsoleOverview = z.object({
  gateway: z.object({
    gatewayId: z.string(),
    version: z.string(),
    /** None where they are learned from workers and none has come yet. */
    models: z.array(ConsoleModel),
    uptimeSeconds: count,
    /** Why it answers nobody now; null if it does. */
    notReady: z.string().nullable(),
    requests: z.object({ running: count, mostRunning: count, cancelling: count }),
  }),
  workers: z.array(ConsoleWorker),
});
export type ConsoleOverview = z.infer<typeof ConsoleOverview>;

/** GET console/api/workers/{id}/experts/{span}. */
export const ConsoleExperts = z.object({
  workerId: z.string(),
  /** Counts of another instance began anew. */
  instanceId: z.string(),
  /** Index in the model of the first layer with experts. */
  firstLayer: count,
  expertsPerToken: count,
  span: ExpertSpan,
  /** [layers][logical experts]: tokens that each got; null where the worker counts none. */
  tokens: z.array(z.array(count)).nullable(),
  /** Of the rank that leads a group: of each layer mean rank load over largest, for the tokens of late; null of all others. */
  balancedness: z.array(z.number()).nullable(),
});
export type ConsoleExperts = z.infer<typeof ConsoleExperts>;

/** In the list without its phases. */
export const ConsoleRequest = RequestTimeline.omit({ phases: true, traceId: true });
export type ConsoleRequest = z.infer<typeof ConsoleRequest>;

/** GET console/api/requests: those that ended last, the latest first. GET console/api/requests/{id} has one as a RequestTimeline. */
export const ConsoleRequests = z.object({ requests: z.array(ConsoleRequest) });
export type ConsoleRequests = z.infer<typeof ConsoleRequests>;

/** POST console/api/session: the console's key, for a cookie. */
export const ConsoleSignIn = z.object({ key: z.string().max(1024) });
export type ConsoleSignIn = z.infer<typeof ConsoleSignIn>;
