// ./pelagic place: which rank gets which copies of experts, from their loads; and what it takes to get there from a plan in force.
import { readFileSync, statSync } from "node:fs";
import { type Command, Option } from "commander";
import type { z } from "zod";
import { expertBytes, replan } from "../placement/moves.ts";
import {
  balancednessOf,
  currentPlan,
  firstFault,
  firstUnplaceable,
  type PlaceCase,
  PlaceCases,
  PlacedCase,
  placeCase,
  shapeOf,
} from "../placement/place-cases.ts";
import { type Policy, policies } from "../placement/policies.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { formatTable, printable } from "./terminal.ts";
import { count, number } from "./up.ts";

const maxFileBytes = 256 * 1024 * 1024;
/** A routed expert of V3 in FP8. */
export const v3ExpertBytes = expertBytes({ hiddenSize: 7168, width: 2048, bytesPerWeight: 1, scaleBlock: 128 });

interface PlaceOptions {
  json?: boolean;
  policy: Policy;
  from?: string;
  tolerance: number;
  mostMoves?: number;
  expertBytes: number;
}

interface Result {
  name: string;
  balancednessMean: number;
  balancednessMin: number;
  seconds: number;
  plan: number[][];
  moves?: number;
  bytes?: number;
  balancednessBefore?: number;
}

export function register(program: Command): void {
  program
    .command("place")
    .description("place copies of experts on ranks by their loads; FILE's format is in services/placement/README.md")
    .argument("<file>", "cases as JSON")
    .addOption(new Option("--policy <name>", "how they are placed").choices(policies).default("balanced"))
    .option("--from <plans>", "plans in force, as this command prints them with --json: moves few copies, and says how many")
    .option(
      "--tolerance <part>",
      "with --from: balancedness that a layer may lack against a fresh plan before it moves",
      number(0, 1),
      0.01,
    )
    .option("--most-moves <n>", "with --from: so many copies are loaded at most, those that gain most", count(0))
    .option(
      "--expert-bytes <n>",
      "with --from: the weights of an expert in one layer (default: DeepSeek-V3's in FP8)",
      number(1, 1e15),
      v3ExpertBytes,
    )
    .option(
      "--json",
      "print one line a case, with its plan: [layer][slot] is a logical expert, rank r has the slots from r * slots / ranks on",
    )
    .addHelpText("after", "\nExamples:\n  ./pelagic place loads.json --json > plans.jsonl\n  ./pelagic place later.json --from plans.jsonl")
    .action(placeCommand);
}

function placeCommand(file: string, options: PlaceOptions): void {
  const { policy, tolerance, mostMoves, expertBytes: bytesEach } = options;
  const cases = read(file, parseJson(file), PlaceCases);
  const unplaceable = firstUnplaceable(cases, policy);
  if (unplaceable !== undefined) throw new CliError(`${file}: ${unplaceable}`, 2);
  const plans = options.from === undefined ? undefined : readPlans(options.from);

  const results: Result[] = [];
  for (const [i, each] of cases.entries()) {
    process.stderr.write(`${i + 1} of ${cases.length}: ${printable(each.name)}\n`);
    const result =
      plans === undefined
        ? placed(each, policy)
        : moved(each, policy, plans, { tolerance, mostMoves, bytesEach, from: options.from as string });
    if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    results.push(result);
  }
  if (!options.json) process.stdout.write(`${table(results)}\n`);
}

function placed(of: PlaceCase, policy: Policy): Result {
  const begun = performance.now();
  const plan = placeCase(of, policy);
  const seconds = (performance.now() - begun) / 1000;
  const { mean, min } = balancednessOf(of, plan);
  return { name: of.name, balancednessMean: mean, balancednessMin: min, seconds, plan };
}

function moved(
  of: PlaceCase,
  policy: Policy,
  plans: Map<string, number[][]>,
  limits: { tolerance: number; mostMoves: number | undefined; bytesEach: number; from: string },
): Result {
  const layers = plans.get(of.name);
  if (layers === undefined) throw new CliError(`${limits.from}: has no plan named ${printable(of.name)}`, 2);
  const current = currentPlan(of, layers);
  if ("fault" in current) throw new CliError(`${limits.from}: ${printable(of.name)}: ${current.fault}`, 2);
  const begun = performance.now();
  const { plan, moves, balancednessBefore } = replan(current, of.load, shapeOf(of), policy, {
    tolerance: limits.tolerance,
    ...(limits.mostMoves === undefined ? {} : { mostMoves: limits.mostMoves }),
  });
  const seconds = (performance.now() - begun) / 1000;
  const each = balancednessOf({ ...of, physical_experts: plan.slotsPerRank * plan.rankCount }, plan.layers);
  return {
    name: of.name,
    balancednessMean: each.mean,
    balancednessMin: each.min,
    seconds,
    plan: plan.layers,
    moves: moves.length,
    bytes: moves.length * limits.bytesEach,
    balancednessBefore,
  };
}

function table(results: Result[]): string {
  const withMoves = results.some(({ moves }) => moves !== undefined);
  return formatTable(
    ["case", "balancedness", "least layer", "ms", ...(withMoves ? ["before", "moves", "GB"] : [])],
    results.map((result) => [
      printable(result.name),
      Number(result.balancednessMean.toFixed(5)),
      Number(result.balancednessMin.toFixed(5)),
      Number((result.seconds * 1000).toFixed(1)),
      ...(withMoves
        ? [Number((result.balancednessBefore ?? 0).toFixed(5)), result.moves ?? 0, Number(((result.bytes ?? 0) / 1e9).toFixed(2))]
        : []),
    ]),
  );
}

function readPlans(file: string): Map<string, number[][]> {
  const plans = new Map<string, number[][]>();
  for (const [i, line] of readText(file).split("\n").entries()) {
    if (line.trim() === "") continue;
    const { name, plan } = read(`${file}: line ${i + 1}`, json(`${file}: line ${i + 1}`, line), PlacedCase);
    if (plans.has(name))
      throw new CliError(`${file}: line ${i + 1}: name: a line before it has ${printable(name)}, too: keep the one in force`, 2);
    plans.set(name, plan);
  }
  return plans;
}

function read<T>(where: string, value: unknown, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new CliError(`${where}: ${firstFault(parsed.error)}`, 2);
  return parsed.data;
}

const parseJson = (file: string) => json(file, readText(file));

function json(where: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CliError(`${where}: is no JSON: ${messageOf(error)}`, 2);
  }
}

function readText(file: string): string {
  try {
    const stats = statSync(file);
    if (stats.isDirectory()) throw new CliError(`${file}: is a folder: name a file in it`, 2);
    const { size } = stats;
    if (size > maxFileBytes) throw new CliError(`${file}: ${size} bytes are more than ${maxFileBytes}`, 2);
    // What some programs begin UTF-8 with is no JSON.
    return readFileSync(file, "utf8").replace(/^\ufeff/, "");
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw new CliError(`${file}: ${messageOf(error)}`, 2);
  }
}
