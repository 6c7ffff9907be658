// What `./pelagic place` reads and prints. The format is in this folder's README.
import { z } from "zod";
import { ExpertPlan, expertCountOf, layerBalancedness, maxExpertSlots, maxMoeLayers } from "../lib/contracts/expert-placement.ts";
import { type Policy, place, policyFault } from "./policies.ts";
import { type PlacementShape, shapeFault } from "./shape.ts";

const count = z.int().min(1).max(maxExpertSlots);
/** Above it float32 rounds sums of loads to infinity. */
const largestLoad = 1e30;
const mostCases = 10_000;

const fieldNames: Record<keyof PlacementShape, string> = {
  experts: "logical_experts",
  slots: "physical_experts",
  ranks: "gpus",
  nodes: "nodes",
  groups: "groups",
};

/** The first wrong load alone: a file may have more of them than a list of faults has room for. */
function loadFault(load: unknown): { path: PropertyKey[]; message: string } | undefined {
  if (!Array.isArray(load) || load.length > maxMoeLayers) return { path: [], message: `is no list of ${maxMoeLayers} layers or fewer` };
  for (const [layer, row] of load.entries()) {
    if (!Array.isArray(row) || row.length > maxExpertSlots) {
      return { path: [layer], message: `is no list of ${maxExpertSlots} loads or fewer` };
    }
    const wrong = row.findIndex((each) => !(typeof each === "number" && each >= 0 && each <= largestLoad));
    if (wrong >= 0) return { path: [layer, wrong], message: `is no number from 0 to ${largestLoad}` };
  }
  return undefined;
}

export const PlaceCase = z
  .object({
    name: z.string().min(1).max(256),
    layers: z.int().min(1).max(maxMoeLayers),
    logical_experts: count,
    physical_experts: count,
    groups: count,
    nodes: count,
    gpus: count,
    load: z.unknown().transform((load, context): number[][] => {
      const fault = loadFault(load);
      if (fault === undefined) return load as number[][];
      context.addIssue({ code: "custom", ...fault });
      return z.NEVER;
    }),
  })
  .superRefine((of, context) => {
    const fault = shapeFault(shapeOf(of));
    if (fault !== undefined) context.addIssue({ code: "custom", path: [fieldNames[fault.field]], message: fault.message });
    if (of.load.length !== of.layers) {
      context.addIssue({ code: "custom", path: ["load"], message: `has ${of.load.length} rows, not layers = ${of.layers}` });
    }
    const wrong = of.load.findIndex((row) => row.length !== of.logical_experts);
    if (wrong >= 0) {
      const message = `has ${of.load[wrong]?.length} loads, not logical_experts = ${of.logical_experts}`;
      context.addIssue({ code: "custom", path: ["load", wrong], message });
    }
  });
export type PlaceCase = z.output<typeof PlaceCase>;

export const PlaceCases = z
  .array(PlaceCase, "is no list of cases")
  .min(1, "has no case in its list")
  .max(mostCases, `has more than ${mostCases} cases`);

/** Plans by the name of their case, as this command prints them. */
export const PlacedCase = z.object({ name: z.string().min(1).max(256), plan: ExpertPlan.shape.layers });

export function shapeOf(of: Pick<PlaceCase, "logical_experts" | "physical_experts" | "gpus" | "nodes" | "groups">): PlacementShape {
  return { experts: of.logical_experts, slots: of.physical_experts, ranks: of.gpus, nodes: of.nodes, groups: of.groups };
}

/** The first case that this policy cannot place, with its field and the reason. */
export function firstUnplaceable(cases: readonly PlaceCase[], policy: Policy): string | undefined {
  for (const [i, of] of cases.entries()) {
    const fault = policyFault(policy, shapeOf(of));
    if (fault !== undefined) return `[${i}].${fieldNames[fault.field]}: ${fault.message}`;
  }
  return undefined;
}

export function placeCase(of: PlaceCase, policy: Policy): number[][] {
  const shape = shapeOf(of);
  return of.load.map((load) => [...place(policy, load, shape)]);
}

export function balancednessOf(of: PlaceCase, plan: readonly number[][]): { mean: number; min: number } {
  const each = plan.map((placed, layer) => layerBalancedness(placed, of.physical_experts / of.gpus, of.load[layer] as number[]));
  return { mean: each.reduce((a, b) => a + b) / each.length, min: Math.min(...each) };
}

/** The plan in force for a case, or the name of the field that is wrong with it. */
export function currentPlan(of: PlaceCase, layers: number[][]): ExpertPlan | { fault: string } {
  const plan = ExpertPlan.safeParse({
    version: 1,
    rankCount: of.gpus,
    slotsPerRank: Math.floor((layers[0]?.length ?? 0) / of.gpus),
    layers,
  });
  if (!plan.success) return { fault: firstFault(plan.error, "plan") };
  if (layers.length !== of.layers) return { fault: `plan: has ${layers.length} layers, the case has ${of.layers}` };
  if (expertCountOf(plan.data) !== of.logical_experts) {
    return { fault: `plan: has ${expertCountOf(plan.data)} experts, the case has ${of.logical_experts}` };
  }
  if (plan.data.slotsPerRank * of.gpus < of.physical_experts) {
    return { fault: `plan: has ${plan.data.slotsPerRank * of.gpus} slots, the case needs ${of.physical_experts}` };
  }
  return plan.data;
}

/** The first issue, with the field's path. */
export function firstFault(error: z.ZodError, root = ""): string {
  const issue = error.issues[0];
  const path = (issue?.path ?? []).map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  const field = `${root}${path}`.replace(/^\./, "");
  return field === "" ? `${issue?.message}` : `${field}: ${issue?.message}`;
}
