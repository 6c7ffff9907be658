// The policies by name.
import { placeGrouped } from "./grouped.ts";
import { placeLayer } from "./layer.ts";
import { publishedPlacement } from "./published.ts";
import type { PlacementShape } from "./shape.ts";

export const policies = ["balanced", "grouped", "published"] as const;
export type Policy = (typeof policies)[number];

/** One layer: the logical expert of each slot. */
export function place(policy: Policy, load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  if (policy === "published") return publishedPlacement(load, shape);
  return policy === "grouped" ? placeGrouped(load, shape) : placeLayer(load, shape);
}
