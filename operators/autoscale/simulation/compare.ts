// The planner beside static splits and HPAs on the same requests, each of those at its best in hindsight.
import type { AutoscaleConfig } from "../config.ts";
import { type HpaMetric, hpas, planner, staticSplit } from "./policies.ts";
import { objectives, rates } from "./rates.ts";
import type { TraceRequest } from "./trace.ts";
import { type Outcome, type Policy, type Replicas, World } from "./world.ts";

export interface Scenario {
  name: string;
  trace: TraceRequest[];
  /** Ready at the beginning, for all but static splits. */
  first: Replicas;
  scaleToZeroAfterSeconds: number | null;
}

export interface Run extends Omit<Outcome, "course"> {
  policy: "planner" | "static" | "HPA, waiting" | "HPA, waiting and running";
  /** The split, or the HPAs' targets. */
  setting: string;
}

export interface Comparison {
  scenario: string;
  hours: number;
  planner: Run;
  course: Outcome["course"];
  /** Everything that was tried. */
  others: Run[];
  /** Of these, what the table shows. */
  staticEqualHours: Run;
  staticAsGood: Run | null;
  hpaWaiting: Run;
  hpaRunning: Run;
  hpaRunningAsGood: Run | null;
}

const range = { minReplicas: 1, maxReplicas: 12 };
export const pools: Pick<AutoscaleConfig, "prefill" | "decode"> = { prefill: range, decode: range };
const waitingTargets = [0.5, 1, 2, 4, 8];
const runningTargets = [0.5, 1, 2, 4].flatMap((prefill) => [8, 12, 16, 24].map((decode) => ({ prefill, decode })));
/** Static splits are tried up to so many replicas in all. */
const mostStatic = 16;

/** `seeded`: the same chance for each run. */
export function compare(scenario: Scenario, seeded: () => () => number): Comparison {
  const { trace, first, scaleToZeroAfterSeconds } = scenario;
  const hours = (trace.at(-1)?.atMs ?? 0) / 3_600_000;
  const run = (policy: Policy, from: Replicas) => new World(rates, from, seeded()).run(trace, policy);
  const config: AutoscaleConfig = { ...pools, ...objectives, stabilizationSeconds: 300, scaleToZeroAfterSeconds };
  const { course, ...ours } = run(planner(config), first);
  const described = (policy: Run["policy"], setting: string, { course: _, ...outcome }: Outcome): Run => ({ policy, setting, ...outcome });

  const statics: Run[] = [];
  for (let total = 2; total <= mostStatic; total++) {
    for (let decode = 1; decode < total; decode++) {
      const split = { prefill: total - decode, decode };
      if (split.prefill > range.maxReplicas || decode > range.maxReplicas) continue;
      // Of more decode replicas than meet TPOT for all, one is not better than the other.
      const fewer = statics.find(({ setting }) => setting === `${split.prefill} + ${decode - 1}`);
      if (fewer?.attainedTpot === 1 && decode > 2) continue;
      statics.push(described("static", `${split.prefill} + ${decode}`, run(staticSplit(split), split)));
    }
  }
  const hpaRuns = (policy: Run["policy"], metric: HpaMetric, targets: readonly Replicas[]) =>
    targets.map((target) => described(policy, `${target.prefill} and ${target.decode} a pod`, run(hpas(metric, target, pools), first)));
  const waiting = hpaRuns(
    "HPA, waiting",
    "waiting",
    waitingTargets.map((target) => ({ prefill: target, decode: target })),
  );
  const running = hpaRuns("HPA, waiting and running", "waiting and running", runningTargets);
  const equalTotal = Math.ceil(ours.replicaHours / hours - 1e-9);
  const asGood = (runs: Run[]) =>
    runs
      .filter(({ attained }) => attained >= ours.attained)
      .sort((a, b) => a.replicaHours - b.replicaHours || b.attained - a.attained)[0] ?? null;
  return {
    scenario: scenario.name,
    hours,
    planner: { policy: "planner", setting: "", ...ours },
    course,
    others: [...statics, ...waiting, ...running],
    staticEqualHours: best(statics.filter(({ setting }) => totalOf(setting) <= equalTotal)),
    staticAsGood: asGood(statics),
    hpaWaiting: best(waiting),
    hpaRunning: best(running),
    hpaRunningAsGood: asGood(running),
  };
}

const totalOf = (setting: string) => setting.split(" + ").reduce((sum, part) => sum + Number(part), 0);

function best(runs: readonly Run[]): Run {
  return [...runs].sort((a, b) => b.attained - a.attained || a.replicaHours - b.replicaHours)[0] as Run;
}
