// Events: what changed between the status that was and the status that is. Told once, since the next round's earlier status is this one.
import { poolNames } from "../api/model-service.ts";
import type { Condition, ConditionType, ModelServiceStatus } from "../api/status.ts";

export interface PlannedEvent {
  type: "Normal" | "Warning";
  reason: string;
  message: string;
}

export function statusEvents(earlier: ModelServiceStatus | undefined, now: ModelServiceStatus): PlannedEvent[] {
  const events = [...degradedEvents(earlier, now), ...readyEvents(earlier, now), ...replicasEvents(earlier, now)];
  // Ready takes its words from what stands in its way: once is enough.
  return events.filter((event, i) => events.findIndex(({ message }) => message === event.message) === i);
}

function degradedEvents(earlier: ModelServiceStatus | undefined, now: ModelServiceStatus): PlannedEvent[] {
  const before = conditionOf(earlier, "Degraded");
  const after = conditionOf(now, "Degraded");
  if (after?.status === "True" && !(before?.status === "True" && before.reason === after.reason))
    return [{ type: "Warning", reason: after.reason, message: after.message }];
  if (after?.status === "False" && before?.status === "True")
    return [{ type: "Normal", reason: "Recovered", message: `No longer: ${before.message}` }];
  return [];
}

function readyEvents(earlier: ModelServiceStatus | undefined, now: ModelServiceStatus): PlannedEvent[] {
  const before = conditionOf(earlier, "Ready");
  const after = conditionOf(now, "Ready");
  if (after === undefined || before?.status === after.status) return [];
  if (after.status === "True") return [{ type: "Normal", reason: after.reason, message: after.message }];
  // That it is not ready at its very beginning is no news.
  if (before === undefined) return [];
  return [{ type: after.reason === "Deleting" ? "Normal" : "Warning", reason: after.reason, message: after.message }];
}

/** Another number with the reason that status gives; a new reason alone is no news. */
function replicasEvents(earlier: ModelServiceStatus | undefined, now: ModelServiceStatus): PlannedEvent[] {
  return poolNames.flatMap((pool) => {
    const before = earlier?.pools?.[pool];
    const after = now.pools?.[pool];
    if (before === undefined || after === undefined) return [];
    const scaled = `${pool}: ${before.desired} to ${after.desired} workers, as ${after.reason}`;
    const recommended = `${pool}: ${after.reason}`;
    return [
      ...(before.desired === after.desired ? [] : [{ type: "Normal" as const, reason: "Scaled", message: scaled }]),
      ...(after.recommended === undefined || after.recommended === (before.recommended ?? before.desired)
        ? []
        : [{ type: "Normal" as const, reason: "Recommended", message: recommended }]),
    ];
  });
}

function conditionOf(status: ModelServiceStatus | undefined, type: ConditionType): Condition | undefined {
  return status?.conditions?.find((condition) => condition.type === type);
}
