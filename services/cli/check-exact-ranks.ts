// check-exact's ways over expert-parallel ranks: numbers of them, redundancy, placements, and one that is lost.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExpertPlan } from "../lib/contracts/expert-placement.ts";
import { type ExpertShape, initialPlan } from "../lib/engine/ranks/expert-slots.ts";

export interface RankWay {
  way: string;
  plan: ExpertPlan;
  killLast: boolean;
  /** Plans that the ranks are told to go to, in turn, while they answer. */
  moves?: ExpertPlan[];
}

export function rankWays(shape: ExpertShape): RankWay[] {
  return [
    { way: "experts over 2 ranks", plan: initialPlan(shape, 2, 0), killLast: false },
    { way: "experts over 4 ranks, shuffled, 5 redundant", plan: shuffled(initialPlan(shape, 4, 5)), killLast: false },
    {
      way: "experts over 8 ranks, shuffled, each twice, one rank killed",
      plan: doubled(shuffled(initialPlan(shape, 8, 0))),
      killLast: true,
    },
    { way: "experts over 4 ranks, the only copies of some killed", plan: initialPlan(shape, 4, 0), killLast: true },
    {
      way: "experts over 4 ranks, moved while they answer",
      plan: initialPlan(shape, 4, 4),
      killLast: false,
      moves: [shuffled(initialPlan(shape, 4, 4)), initialPlan(shape, 4, 4)],
    },
  ];
}

export async function withPlanFile<T>(plan: ExpertPlan, use: (file: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "pelagic-plan-"));
  try {
    const file = join(folder, "plan.json");
    await writeFile(file, JSON.stringify(plan));
    return await use(file);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Another order of the slots in each layer, always the same. */
function shuffled(plan: ExpertPlan): ExpertPlan {
  let state = 1;
  return shuffledBy(plan, (bound) => {
    state = (state * 48271) % 0x7fffffff;
    return state % bound;
  });
}

/** Another order of the slots in each layer. below: a number drawn from [0, bound). */
export function shuffledBy(plan: ExpertPlan, below: (bound: number) => number): ExpertPlan {
  const layers = plan.layers.map((slots) => {
    const out = [...slots];
    for (let i = out.length - 1; i > 0; i--) {
      const j = below(i + 1);
      [out[i], out[j]] = [out[j] as number, out[i] as number];
    }
    return out;
  });
  return { ...plan, layers };
}

/** Each rank also holds what the one before it holds: any one may be lost. */
function doubled(plan: ExpertPlan): ExpertPlan {
  const { rankCount, slotsPerRank } = plan;
  const of = (slots: readonly number[], rank: number) => slots.slice(rank * slotsPerRank, (rank + 1) * slotsPerRank);
  const layers = plan.layers.map((slots) =>
    Array.from({ length: rankCount }, (_, rank) => [...of(slots, rank), ...of(slots, (rank + rankCount - 1) % rankCount)]).flat(),
  );
  return { ...plan, slotsPerRank: 2 * slotsPerRank, layers };
}
