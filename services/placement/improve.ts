// Relieves the heaviest rank of a layer, one change after another, until no single change does. Each change leaves every rank that it touches below
// what the heaviest bore, so that the largest load never grows.
import type { LayerState } from "./layer-state.ts";

/** Two experts change places (2 loads of weights), or a slot is given to a copy of another expert (1). */
export type Change =
  | { kind: "swap"; slot: number; with: number; after: number }
  | { kind: "replace"; slot: number; expert: number; after: number };

/** What makes no difference, as a part of the largest load. */
const negligible = 1e-9;

/** The change after which the ranks that it touches bear least; undefined where none brings them all below the heaviest. */
export function bestChange(state: LayerState): Change | undefined {
  const heavy = state.heaviest();
  const limit = (state.loads[heavy] as number) * (1 - negligible);
  const swap = bestSwap(state, heavy, limit);
  return bestReplace(state, heavy, swap?.after ?? limit) ?? swap;
}

export function apply(state: LayerState, change: Change): void {
  if (change.kind === "swap") state.swap(change.slot, change.with);
  else state.replace(change.slot, change.expert);
}

/** Ends where the largest load is down to this, after so many changes at most. */
export function improve(state: LayerState, enough: number, mostChanges: number): number {
  let changes = 0;
  for (; changes < mostChanges; changes++) {
    if (state.largestLoad() <= enough) break;
    const change = bestChange(state);
    if (change === undefined) break;
    apply(state, change);
  }
  state.recompute();
  return changes;
}

function bestSwap(state: LayerState, heavy: number, limit: number): Change | undefined {
  const { placed, slotsPerRank, loads } = state;
  const load = loads[heavy] as number;
  let best: Change | undefined;
  let least = limit;
  for (let slot = heavy * slotsPerRank; slot < (heavy + 1) * slotsPerRank; slot++) {
    const expert = placed[slot] as number;
    const share = state.share(expert);
    for (let rank = 0, other = 0; rank < state.ranks; rank++) {
      const end = other + slotsPerRank;
      const room = least - (loads[rank] as number);
      if (rank === heavy || room <= 0 || state.holds(rank, expert)) {
        other = end;
        continue;
      }
      for (; other < end; other++) {
        const otherExpert = placed[other] as number;
        const given = share - state.share(otherExpert);
        if (given >= room || load - given >= least || state.holds(heavy, otherExpert)) continue;
        const after = Math.max(load - given, (loads[rank] as number) + given);
        if (after < least) {
          least = after;
          best = { kind: "swap", slot, with: other, after };
        }
      }
    }
  }
  return best;
}

function bestReplace(state: LayerState, heavy: number, limit: number): Change | undefined {
  const { placed, count, slotsPerRank, weights } = state;
  const first = heavy * slotsPerRank;
  let best: Change | undefined;
  let least = limit;
  const consider = (slot: number, expert: number) => {
    const after = afterReplace(state, slot, expert, heavy, least);
    if (after < least) {
      least = after;
      best = { kind: "replace", slot, expert, after };
    }
  };
  for (let slot = 0; slot < placed.length; slot++) {
    if ((count[placed[slot] as number] as number) === 1) continue;
    const rank = state.rankOf(slot);
    if (rank === heavy) {
      for (let expert = 0; expert < weights.length; expert++) if (!state.holds(heavy, expert)) consider(slot, expert);
    } else {
      for (let own = first; own < first + slotsPerRank; own++) {
        const expert = placed[own] as number;
        if (!state.holds(rank, expert)) consider(slot, expert);
      }
    }
  }
  return best;
}

/** The largest load among the ranks that this would touch, the heaviest one among them; at least `limit` where that is known early. */
function afterReplace(state: LayerState, slot: number, expert: number, heavy: number, limit: number): number {
  const { loads } = state;
  const gone = state.placed[slot] as number;
  const rank = state.rankOf(slot);
  const goneCount = state.count[gone] as number;
  const goneGain = (state.weights[gone] as number) / (goneCount * (goneCount - 1));
  const newCount = state.count[expert] as number;
  const newShare = (state.weights[expert] as number) / (newCount + 1);
  const relief = newShare / newCount;
  let after = (loads[rank] as number) - state.share(gone) + newShare;
  if (after >= limit) return limit;
  if (heavy !== rank) {
    let heavyAfter = loads[heavy] as number;
    if (state.holds(heavy, expert)) heavyAfter -= relief;
    if (state.holds(heavy, gone)) heavyAfter += goneGain;
    if (heavyAfter >= limit) return limit;
    after = Math.max(after, heavyAfter);
  }
  for (const each of state.slotsOf[gone] as number[]) {
    const its = state.rankOf(each);
    if (its === rank || its === heavy) continue;
    const load = (loads[its] as number) + goneGain - (state.holds(its, expert) ? relief : 0);
    if (load >= limit) return limit;
    if (load > after) after = load;
  }
  return after;
}
