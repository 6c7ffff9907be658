// From the plan in force to a better one with few moves: a layer near enough to what a fresh plan would give is left alone; another one is changed step by
// step as far as that, or takes the fresh plan, its ranks numbered so that most stays where it is, whichever moves less. Pure.
import { balancedness, type ExpertMove, type ExpertPlan, layerBalancedness, spareSlot } from "../lib/contracts/expert-placement.ts";
import { apply, bestChange } from "./improve.ts";
import { LayerState } from "./layer-state.ts";
import { type Policy, place } from "./policies.ts";
import type { PlacementShape } from "./shape.ts";
import { repeats } from "./start.ts";

export interface ReplacementLimits {
  /** Balancedness that may be given up against a fresh plan, in each layer. */
  tolerance: number;
  /** Moves at most; then those layers move that gain most by each move. */
  mostMoves?: number;
}

export interface Replacement {
  plan: ExpertPlan;
  moves: ExpertMove[];
  balancednessBefore: number;
  balancednessAfter: number;
  /** Of a plan made afresh, with its ranks numbered as they come. */
  balancednessFresh: number;
}

/** Bytes of one routed expert in one layer: three matrices of hidden size by the experts' width, and what scales them. V3 in FP8: 44,050,944. */
export function expertBytes(model: { hiddenSize: number; width: number; bytesPerWeight: number; scaleBlock?: number }): number {
  const weights = 3 * model.hiddenSize * model.width;
  return weights * model.bytesPerWeight + (model.scaleBlock === undefined ? 0 : (weights / model.scaleBlock ** 2) * 4);
}

interface LayerOption {
  placed: Int32Array;
  moves: number;
  balancedness: number;
}

/** The current plan must be of as many ranks and hold each expert; its spare slots stay free where the shape has fewer slots than the plan. */
export function replan(
  current: ExpertPlan,
  loads: readonly ArrayLike<number>[],
  shape: PlacementShape,
  policy: Policy,
  limits: ReplacementLimits,
): Replacement {
  const layers = current.layers.map((placed) => [...placed]);
  const wanted: { layer: number; option: LayerOption; gain: number }[] = [];
  let fresh = 0;
  for (const [layer, placed] of current.layers.entries()) {
    const load = loads[layer] as ArrayLike<number>;
    const target = place(policy, load, shape);
    const best = layerBalancedness(target, shape.slots / shape.ranks, load);
    fresh += best / layers.length;
    const before = layerBalancedness(placed, current.slotsPerRank, load);
    if (holdsAsMany(placed, current.slotsPerRank, shape) && before >= best - limits.tolerance) continue;
    const options = [ofFresh(placed, current.slotsPerRank, target, shape, policy, load)];
    const stepwise = policy === "balanced" ? byChanges(placed, current.slotsPerRank, shape, load, best - limits.tolerance) : undefined;
    if (stepwise !== undefined) options.push(stepwise);
    const option = options.reduce((least, each) => (each.moves < least.moves ? each : least));
    wanted.push({ layer, option, gain: option.balancedness - before });
  }
  let left = limits.mostMoves ?? Infinity;
  for (const { layer, option } of wanted.toSorted((a, b) => b.gain / b.option.moves - a.gain / a.option.moves)) {
    if (option.moves > left) continue;
    left -= option.moves;
    layers[layer] = settle(current.layers[layer] as number[], option.placed, current.slotsPerRank, shape.slots / shape.ranks);
  }
  const plan = { ...current, version: current.version + 1, layers };
  return {
    plan,
    moves: movesBetween(current, plan),
    balancednessBefore: balancedness(current, loads),
    balancednessAfter: balancedness(plan, loads),
    balancednessFresh: fresh,
  };
}

/** What ranks must load to go from one plan to the other: each new copy from a rank that has the expert, the one that sends least so far. */
export function movesBetween(before: ExpertPlan, after: ExpertPlan): ExpertMove[] {
  const moves: ExpertMove[] = [];
  const sent = new Int32Array(before.rankCount);
  for (const [layer, placed] of after.layers.entries()) {
    const old = before.layers[layer] as number[];
    for (const [to, expert] of placed.entries()) {
      if (expert === spareSlot || expert === old[to]) continue;
      const rank = Math.floor(to / after.slotsPerRank);
      let from = -1;
      let least = Infinity;
      for (const [slot, held] of old.entries()) {
        if (held !== expert) continue;
        const holder = Math.floor(slot / before.slotsPerRank);
        const cost = holder === rank ? -1 : (sent[holder] as number);
        if (cost < least) [from, least] = [slot, cost];
      }
      const holder = Math.floor(from / before.slotsPerRank);
      if (holder !== rank) (sent[holder] as number)++;
      moves.push({ layer, expert, from, to });
    }
  }
  return moves;
}

function holdsAsMany(placed: readonly number[], slotsPerRank: number, { slots, ranks }: PlacementShape): boolean {
  return heldByRank(placed, slotsPerRank).every((held) => held.length === slots / ranks);
}

function heldByRank(placed: readonly number[], slotsPerRank: number): number[][] {
  return Array.from({ length: placed.length / slotsPerRank }, (_, rank) =>
    placed.slice(rank * slotsPerRank, (rank + 1) * slotsPerRank).filter((expert) => expert !== spareSlot),
  );
}

/** Changes to the layer as it is until it is balanced enough; undefined where they do not get there, or the search cannot begin there. */
function byChanges(
  placed: readonly number[],
  slotsPerRank: number,
  shape: PlacementShape,
  load: ArrayLike<number>,
  enough: number,
): LayerOption | undefined {
  if (!holdsAsMany(placed, slotsPerRank, shape)) return undefined;
  const held = Int32Array.from(heldByRank(placed, slotsPerRank).flat());
  if (repeats(held, shape.ranks, shape.experts)) return undefined;
  const state = new LayerState(Float64Array.from(load), shape.ranks, held);
  const perRank = shape.slots / shape.ranks;
  const mean = state.loads.reduce((a, b) => a + b) / shape.ranks;
  for (let changes = 0; changes < shape.slots && mean / state.largestLoad() < enough; changes++) {
    const change = bestChange(state);
    if (change === undefined) return undefined;
    apply(state, change);
  }
  const reached = layerBalancedness(state.placed, perRank, load);
  return reached >= enough - 1e-12
    ? { placed: state.placed, moves: newCopies(placed, slotsPerRank, state.placed, perRank), balancedness: reached }
    : undefined;
}

/** The fresh plan with its ranks in the order that leaves most copies where they are. */
function ofFresh(
  placed: readonly number[],
  slotsPerRank: number,
  target: Int32Array,
  shape: PlacementShape,
  policy: Policy,
  load: ArrayLike<number>,
): LayerOption {
  const perRank = shape.slots / shape.ranks;
  const have = heldByRank(placed, slotsPerRank);
  const want = heldByRank([...target], perRank);
  // Ranks of one node stay together where groups are kept on nodes.
  const nodes = policy === "balanced" ? 1 : shape.nodes;
  const each = shape.ranks / nodes;
  const ofNode = (ranks: number[][], node: number) => ranks.slice(node * each, (node + 1) * each);
  const nodeOrder = match(
    Array.from({ length: nodes }, (_, node) => ofNode(have, node).flat()),
    Array.from({ length: nodes }, (_, node) => ofNode(want, node).flat()),
  );
  const ordered = nodeOrder.flatMap((wantNode, node) => {
    const its = ofNode(want, wantNode);
    return match(ofNode(have, node), its).map((rank) => its[rank] as number[]);
  });
  const settled = Int32Array.from(ordered.flat());
  return {
    placed: settled,
    moves: newCopies(placed, slotsPerRank, settled, perRank),
    balancedness: layerBalancedness(settled, perRank, load),
  };
}

/** For each set that is there one of those wanted, the pairs with most in common first. */
function match(have: readonly number[][], want: readonly number[][]): number[] {
  const holders = new Map<number, number[]>();
  for (const [index, experts] of have.entries()) for (const expert of experts) holders.set(expert, [...(holders.get(expert) ?? []), index]);
  const common = new Map<number, number>();
  for (const [index, experts] of want.entries()) {
    for (const expert of experts) {
      for (const holder of holders.get(expert) ?? []) {
        const pair = holder * want.length + index;
        common.set(pair, (common.get(pair) ?? 0) + 1);
      }
    }
  }
  const chosen = new Array<number>(have.length).fill(-1);
  const taken = new Set<number>();
  for (const [pair] of [...common].sort(([pairA, a], [pairB, b]) => b - a || pairA - pairB)) {
    const [holder, index] = [Math.floor(pair / want.length), pair % want.length];
    if (chosen[holder] !== -1 || taken.has(index)) continue;
    chosen[holder] = index;
    taken.add(index);
  }
  const rest = [...want.keys()].filter((index) => !taken.has(index));
  return chosen.map((index) => (index === -1 ? (rest.shift() as number) : index));
}

/** Copies that a rank does not have yet. */
function newCopies(placed: readonly number[], slotsPerRank: number, wanted: Int32Array, perRank: number): number {
  let missing = 0;
  for (let rank = 0; rank < wanted.length / perRank; rank++) {
    const have = placed.slice(rank * slotsPerRank, (rank + 1) * slotsPerRank);
    for (const expert of wanted.subarray(rank * perRank, (rank + 1) * perRank)) {
      const at = have.indexOf(expert);
      if (at < 0) missing++;
      else have[at] = spareSlot;
    }
  }
  return missing;
}

/** Puts each rank's wanted experts into its slots: what is there stays, what is new goes into slots that were spare, then into those given up. */
function settle(placed: readonly number[], wanted: Int32Array, slotsPerRank: number, perRank: number): number[] {
  const settled = new Array<number>(placed.length).fill(spareSlot);
  for (let rank = 0; rank < placed.length / slotsPerRank; rank++) {
    const first = rank * slotsPerRank;
    const slots = Array.from({ length: slotsPerRank }, (_, i) => first + i);
    const fresh: number[] = [];
    for (const expert of wanted.subarray(rank * perRank, (rank + 1) * perRank)) {
      const slot = slots.find((each) => placed[each] === expert && settled[each] === spareSlot);
      if (slot === undefined) fresh.push(expert);
      else settled[slot] = expert;
    }
    const free = slots.filter((slot) => settled[slot] === spareSlot);
    free.sort((a, b) => Number(placed[a] !== spareSlot) - Number(placed[b] !== spareSlot) || a - b);
    for (const [i, expert] of fresh.entries()) settled[free[i] as number] = expert;
  }
  return settled;
}
