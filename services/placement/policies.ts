// The policies by name.
import { placeGrouped } from "./grouped.ts";
import { placeLayer } from "./layer.ts";
import { publishedPlacement } from "./published.ts";
import type { PlacementShape, ShapeFault } from "./shape.ts";

export const policies = ["balanced", "grouped", "published"] as const;
export type Policy = (typeof policies)[number];

/** Why this policy has no placement of a shape that is sound in itself, with the field's name; undefined where it has one. */
export function policyFault(policy: Policy, { groups, nodes }: PlacementShape): ShapeFault | undefined {
  if (policy !== "grouped" || groups % nodes === 0) return undefined;
  return { field: "groups", message: `${groups} groups are not as many on each of ${nodes} nodes, as the policy grouped needs` };
}

/** One layer: the logical expert of each slot. The policy must have one. */
export function place(policy: Policy, load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  if (policy === "published") return publishedPlacement(load, shape);
  return policy === "grouped" ? placeGrouped(load, shape) : placeLayer(load, shape);
}
