// Relieves the heaviest rank of a layer, one change after another, until no single change does. Each change leaves every rank that it touches below
// what the heaviest bore, so that the largest load never grows.
import { type LayerState, noSlot } from "./layer-state.ts";

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
  const { placed, slotsPerRank, loads, share, ranks } = state;
  const load = loads[heavy] as number;
  let [slot, other] = [noSlot, noSlot];
  let least = limit;
  for (let own = heavy * slotsPerRank; own < (heavy + 1) * slotsPerRank; own++) {
    const expert = placed[own] as number;
    const its = share[expert] as number;
    for (let rank = 0; rank < ranks; rank++) {
      const rankLoad = loads[rank] as number;
      if (rankLoad >= least || rank === heavy || state.holds(rank, expert)) continue;
      const end = (rank + 1) * slotsPerRank;
      for (let each = rank * slotsPerRank; each < end; each++) {
        const otherExpert = placed[each] as number;
        const given = its - (share[otherExpert] as number);
        const left = load - given;
        const reached = rankLoad + given;
        const after = Math.max(left, reached);
        if (after >= least || state.holds(heavy, otherExpert)) continue;
        least = after;
        slot = own;
        other = each;
      }
    }
  }
  return slot === noSlot ? undefined : { kind: "swap", slot, with: other, after: least };
}

function bestReplace(state: LayerState, heavy: number, limit: number): Change | undefined {
  const { placed, count, slotsPerRank, weights } = state;
  const first = heavy * slotsPerRank;
  let [chosen, chosenExpert] = [noSlot, 0];
  let least = limit;
  for (let slot = 0; slot < placed.length; slot++) {
    if (count[placed[slot] as number] === 1) continue;
    const rank = state.rankOf(slot);
    const own = rank === heavy;
    const end = own ? weights.length : slotsPerRank;
    for (let i = 0; i < end; i++) {
      const expert = own ? i : (placed[first + i] as number);
      if (state.holds(rank, expert)) continue;
      const after = afterReplace(state, slot, expert, heavy, least);
      if (after >= least) continue;
      least = after;
      chosen = slot;
      chosenExpert = expert;
    }
  }
  return chosen === noSlot ? undefined : { kind: "replace", slot: chosen, expert: chosenExpert, after: least };
}

/** The largest load among the ranks that this would touch, the heaviest one among them; at least `limit` where that is known early. */
function afterReplace(state: LayerState, slot: number, expert: number, heavy: number, limit: number): number {
  const { loads, weights, count, share, nextSlot } = state;
  const gone = state.placed[slot] as number;
  const rank = state.rankOf(slot);
  const newCount = count[expert] as number;
  const newShare = (weights[expert] as number) / (newCount + 1);
  let after = (loads[rank] as number) - (share[gone] as number) + newShare;
  if (after >= limit) return limit;
  const relief = newShare / newCount;
  const goneGain = (share[gone] as number) / ((count[gone] as number) - 1);
  if (heavy !== rank) {
    let heavyAfter = loads[heavy] as number;
    if (state.holds(heavy, expert)) heavyAfter -= relief;
    if (state.holds(heavy, gone)) heavyAfter += goneGain;
    if (heavyAfter >= limit) return limit;
    if (heavyAfter > after) after = heavyAfter;
  }
  for (let each = state.firstSlot[gone] as number; each !== noSlot; each = nextSlot[each] as number) {
    const its = state.rankOf(each);
    if (its === rank || its === heavy) continue;
    const load = (loads[its] as number) + goneGain - (state.holds(its, expert) ? relief : 0);
    if (load >= limit) return limit;
    if (load > after) after = load;
  }
  return after;
}
