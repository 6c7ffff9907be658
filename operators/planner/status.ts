// The status of a round, and the events that it gives beside the last one.
import { shortened } from "../../services/lib/contracts/shortened.ts";
import { isDeepStrictEqual } from "node:util";
import { type ModelService, type PoolName, servedNameOf } from "../api/model-service.ts";
import { type Condition, conditionTypeNames, maxReasonLength, type ModelServiceStatus } from "../api/status.ts";
import { conditionsOf, type Findings, type PoolFacts } from "./conditions.ts";
import { statusEvents } from "./events.ts";

export function statusOf(service: ModelService, findings: Findings, pools: Record<PoolName, PoolFacts>, nowMs: number) {
  const { generation } = service.metadata;
  const earlier = service.status?.conditions ?? [];
  const conditions = conditionsOf(conditionTypeNames, findings, earlier, generation, nowMs);
  const status: ModelServiceStatus = {
    observedGeneration: generation,
    servedName: servedNameOf(service),
    pools: {
      prefill: poolStatus(pools.prefill),
      decode: poolStatus(pools.decode),
    },
    conditions,
  };
  return {
    status: isSaid(status, service.status) ? undefined : status,
    events: statusEvents(service.status, status),
  };
}

/** Conditions of others are not ours to write, or to take away. */
export function isSaid(status: ModelServiceStatus, earlier: ModelServiceStatus | undefined): boolean {
  return isDeepStrictEqual(status, earlier && withOwnConditions(earlier, conditionTypeNames));
}

export function withOwnConditions<T extends { conditions?: Condition[] | undefined }>(status: T, types: readonly string[]): T {
  const ours = status.conditions?.filter(({ type }) => types.includes(type));
  return { ...status, ...(ours && { conditions: ours }) };
}

function poolStatus({ state, wanted }: PoolFacts) {
  const { replicas, ready } = state;
  return {
    ...{ replicas, ready, desired: wanted.desired, workers: `${ready}/${wanted.desired}` },
    reason: shortened(wanted.reason, maxReasonLength),
    ...(wanted.recommended !== undefined && { recommended: wanted.recommended }),
  };
}
