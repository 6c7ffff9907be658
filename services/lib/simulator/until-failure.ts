// Runs seeds one after another until one fails: exit code 1 with its seed and violations, or 0. For mutants: one thread, nothing else loaded.
//   node until-failure.js RUNS [POINT KIND]   seeds that begin with this fault come first
import { runScenario } from "./run.ts";
import { faultKinds, makeScenario, pairCount, struckPoints } from "./scenario.ts";

/** Of those that begin with the fault that is aimed at. */
const aimedRuns = 300;

const [runs, point, kind] = process.argv.slice(2);
const seeds: number[] = [];
if (point !== undefined) {
  const pair =
    (struckPoints as readonly string[]).indexOf(point) * faultKinds.length + (faultKinds as readonly string[]).indexOf(kind as string);
  for (let i = 0; i < aimedRuns; i++) seeds.push(pair + i * pairCount);
}
for (let seed = 0; seed < Number(runs); seed++) seeds.push(seed);

for (const seed of seeds) {
  const { violations } = await runScenario(makeScenario(seed));
  if (violations.length === 0) continue;
  process.stdout.write(`seed ${seed}: ${violations.join("; ")}\n`);
  process.exit(1);
}
