// Runs seeds one after another until one fails: exit code 1 with its seed and violations, or 0. For mutants: one thread, nothing else loaded.
import { runScenario } from "./run.ts";
import { makeScenario } from "./scenario.ts";

const runs = Number(process.argv[2]);
for (let seed = 0; seed < runs; seed++) {
  const { violations } = await runScenario(makeScenario(seed));
  if (violations.length === 0) continue;
  process.stdout.write(`seed ${seed}: ${violations.join("; ")}\n`);
  process.exit(1);
}
