// What a placement is asked for: how many experts go onto how many ranks.

export interface PlacementShape {
  /** Logical experts of each layer. */
  experts: number;
  /** Copies to be placed in each layer, over all ranks: experts and the redundant ones. */
  slots: number;
  ranks: number;
  /** Nodes that the ranks lie on, as many on each. */
  nodes: number;
  /** Groups of experts by which the gate limits a token's nodes; 1 where it does not. */
  groups: number;
}

export interface ShapeFault {
  field: keyof PlacementShape;
  message: string;
}

/** Why there is no placement of this shape, with the field's name; undefined where there is one. */
export function shapeFault(shape: PlacementShape): ShapeFault | undefined {
  const { experts, slots, ranks, nodes, groups } = shape;
  for (const field of ["experts", "slots", "ranks", "nodes", "groups"] as const) {
    const value = shape[field];
    if (!Number.isSafeInteger(value) || value < 1) return { field, message: `${value} is no whole number of 1 or more` };
  }
  if (slots < experts) return { field: "slots", message: `${slots} slots are fewer than the ${experts} experts` };
  if (slots % ranks !== 0) return { field: "slots", message: `${slots} slots are not as many on each of ${ranks} ranks` };
  if (ranks % nodes !== 0) return { field: "nodes", message: `${ranks} ranks are not as many on each of ${nodes} nodes` };
  if (experts % groups !== 0) return { field: "groups", message: `${experts} experts are not as many in each of ${groups} groups` };
  return undefined;
}
