// What a gateway is made of: what all its models share, and for each model what is its own.
import type { GoneSignal } from "./departure.ts";
import type { Log } from "../lib/contracts/bus.ts";
import type { Tracer } from "../lib/contracts/trace.ts";
import type { Admission } from "./admission/admission.ts";
import type { Callers } from "./admission/callers.ts";
import type { Room } from "./admission/room.ts";
import type { DispatchClient } from "./dispatch-client.ts";
import type { GatewayMetrics } from "./gateway-metrics.ts";
import type { ByteBudget } from "./json-body.ts";
import type { RecentRequests } from "./recent-requests.ts";
import type { ServedModel } from "./served-model.ts";
import type { Encoder } from "./tokenizer-pool.ts";
import type { WakeQueue } from "./wake-queue.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

/** One of a gateway's models. */
export interface HostedModel {
  model: ServedModel;
  /** null where the model has no tokenizer. */
  encoder: Encoder | null;
  /** At the model's workers. */
  room: Room;
}

/** By the names that clients use, in the order of the configuration or in which they were learned. */
export type HostedModels = ReadonlyMap<string, HostedModel>;

/** What a gateway that learns its models from workers (learned-models.ts) says of that. */
export interface Learned {
  /** All that is served; while a model changes under its name, two of one name. */
  readonly builds: readonly HostedModel[];
  /** Names that workers have and that are not served: why. */
  readonly missing: ReadonlyMap<string, string>;
  /** What is wrong with what workers announced. */
  readonly faults: readonly { name: string; filesDigest: string; reason: string }[];
  /** null: what workers announced is served, or was refused. */
  readonly waitsFor: string | null;
  /** A build of this name whose workers are ready, of those not tried; waits for one that is being learned. */
  another(name: string, tried: ReadonlySet<HostedModel>, signal: GoneSignal): Promise<HostedModel | undefined>;
}

export interface GatewayLimits {
  maxBodyBytes: number;
  /** Without max_tokens, an answer ends here or where the context does. */
  defaultMaxTokens: number;
  deadlineMs: number;
  /** Fewer uncached prompt tokens than this are prefilled by decode itself. */
  localPrefillTokens: number;
  /** A reader that takes nothing for so long loses its stream. */
  stallMs: number;
  /** A stream in which nothing comes for so long gets a comment. */
  keepAliveMs: number;
}

export interface Gateway {
  /** At this moment, where they are learned. */
  readonly models: HostedModels;
  /** null: the models are those of the configuration. */
  learned: Learned | null;
  client: DispatchClient;
  /** Of every worker on the bus, also of models that are not served here. */
  directory: WorkerDirectory;
  callers: Callers;
  admission: Admission;
  /** null: no model here sleeps. */
  wakeQueue: WakeQueue | null;
  bodyBudget: ByteBudget;
  metrics: GatewayMetrics;
  recent: RecentRequests;
  /** undefined: nothing is traced. */
  tracer: Tracer | undefined;
  limits: GatewayLimits;
  /** Internal request options, like digests, are allowed. */
  debug: boolean;
  log: Log;
}
