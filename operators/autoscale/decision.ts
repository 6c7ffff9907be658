// From a decision of the planner to what is told of it. Pure.
import type { ScalingDecision } from "../planner/observed.ts";
import type { PoolDecision } from "./plan.ts";
import type { ReplicaPods } from "./scrape.ts";

/** How the gateways could be asked. */
export interface GatewaysHeard {
  /** What is looked for, for a person. */
  where: string;
  gateways: readonly ReplicaPods[];
  failures: ReadonlyMap<string, string>;
}

export function told({ kind, replicas, reason }: PoolDecision, heard: GatewaysHeard): ScalingDecision {
  if (kind !== "NoFigures") return { replicas, reason, blind: false };
  const failures = [...heard.failures].map(([name, failure]) => `${name}: ${failure}`).sort();
  const why =
    heard.gateways.length === 0 && failures.length === 0
      ? `no gateway runs ${heard.where}`
      : failures.length === 0
        ? "they have just been found"
        : failures.slice(0, 3).join(", ");
  return { replicas, reason: `${reason} (${why})`, blind: true };
}
