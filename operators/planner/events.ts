// Events: what changed between the status that was and the status that is, and which objects are made or taken away. Told once, since the
// next round's earlier status is this one's.
import type { Condition, ConditionType } from "../api/status.ts";

export interface PlannedEvent {
  type: "Normal" | "Warning";
  reason: string;
  message: string;
}

/** Those whose changes a person wants to read; the rest can be read from them. */
const told: { type: ConditionType; warnsWhen: Condition["status"]; alsoOnMessage?: boolean }[] = [
  { type: "Ready", warnsWhen: "False" },
  { type: "Accepted", warnsWhen: "False" },
  { type: "Degraded", warnsWhen: "True" },
  { type: "Autoscaled", warnsWhen: "False", alsoOnMessage: true },
];

export function conditionEvents(earlier: Condition[], now: Condition[]): PlannedEvent[] {
  const events = told.flatMap(({ type, warnsWhen, alsoOnMessage }) => {
    const before = earlier.find((condition) => condition.type === type);
    const after = now.find((condition) => condition.type === type);
    if (after === undefined) return [];
    const same = before?.status === after.status && before.reason === after.reason;
    if (same && !(alsoOnMessage && before.message !== after.message)) return [];
    // Of a condition that begins as it should be there is nothing to tell.
    if (before === undefined && after.status !== warnsWhen && type !== "Ready") return [];
    // A start is no warning: what stands in its way is told by Degraded.
    const warns = after.status === warnsWhen && type !== "Ready";
    return [{ type: warns ? ("Warning" as const) : ("Normal" as const), reason: after.reason, message: after.message }];
  });
  // Ready takes its reason from the others: once is enough.
  return events.filter(
    (event, i) =>
      !events.some(
        (other, j) =>
          other.message === event.message &&
          (j < i ? other.type === event.type : other.type === "Warning" && event.type === "Normal" && j !== i),
      ),
  );
}
