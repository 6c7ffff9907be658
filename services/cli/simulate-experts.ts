// ./pelagic simulate-experts: ways to place experts over hours of loads, in deployments of DeepSeek-V3. The same figures on every machine.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Command } from "commander";
import type { PlacementShape } from "../placement/shape.ts";
import { drawCourses, type Panel } from "../placement/simulation/draw.ts";
import { generateLoads, type LoadStory } from "../placement/simulation/loads.ts";
import { type Course, simulate, type Way, windowIntervals } from "../placement/simulation/run.ts";
import { readRecording } from "../placement/simulation/recording.ts";
import { v3ExpertBytes } from "./place.ts";
import { formatTable } from "./terminal.ts";
import { inTree } from "./tree.ts";
import { count } from "./up.ts";

/** An interval is a minute. */
const story: LoadStory = {
  intervals: 180,
  drift: 0.15,
  shiftEvery: 45,
  shiftWeight: 0.4,
  burstChance: 0.03,
  burstIntervals: 4,
  burstWeight: 0.5,
};
const v3Layers = 58;
const v3Experts = 256;
const v3 = { experts: v3Experts, topics: 8, commonSpread: 0.5, topicSpread: 0.8, tokensPerInterval: 4e6 };

const deployments: { name: string; shape: PlacementShape }[] = [
  { name: "V3 prefill EP32", shape: { experts: v3Experts, slots: 288, ranks: 32, nodes: 4, groups: 8 } },
  { name: "V3 decode EP144", shape: { experts: v3Experts, slots: 288, ranks: 144, nodes: 18, groups: 8 } },
  { name: "V3 decode EP320", shape: { experts: v3Experts, slots: 320, ranks: 320, nodes: 40, groups: 8 } },
];

/** Four ranks with two redundant slots each. */
const recordedShape = { ranks: 4, nodes: 2, groups: 4 };

/** The published cadence is ten minutes. */
const ways: Way[] = [
  { name: "no redundancy", kind: "none", every: 1 },
  { name: "published, 10 min", kind: "published", every: 10 },
  { name: "published, 2 min", kind: "published", every: 2 },
  { name: "ours, 10 min", kind: "ours", every: 10 },
  { name: "ours, 2 min", kind: "ours", every: 2 },
];

interface SimulateExpertsOptions {
  seed: number;
  layers: number;
  svg?: string;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("simulate-experts")
    .description(
      "balancedness over time and bytes moved, for ways to place experts under drift, topic shifts and bursts, and under recorded loads",
    )
    .option("--seed <n>", "of the generated loads", count(0, 2 ** 32 - 1), 1)
    .option("--layers <n>", "MoE layers that are simulated; bytes are for all of V3's", count(1, v3Layers), 8)
    .option("--svg <file>", "draw the courses, too")
    .option("--json", "print the figures as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic simulate-experts --layers 58 --seed 3")
    .action(simulateExperts);
}

interface Figures {
  deployment: string;
  way: string;
  balancedness: number;
  least: number;
  /** Copies loaded in an hour, over all layers that were simulated. */
  copiesPerHour: number;
  /** Of V3's experts in FP8, in all its layers; null for another model. */
  gigabytesPerHour: number | null;
}

function simulateExperts(options: SimulateExpertsOptions): void {
  const { seed, layers } = options;
  const panels: Panel[] = [];
  const figures: Figures[] = [];
  for (const { name, shape } of deployments) {
    process.stderr.write(`${name}\n`);
    const courses = simulate(generateLoads({ ...v3, layers }, story, seed), layers, shape, ways);
    panels.push({ title: name, courses });
    figures.push(...courses.map((course) => figuresOf(name, course, (v3ExpertBytes * v3Layers) / layers)));
  }
  const { name, experts, layers: recordedLayers, intervals } = readRecording(inTree("testdata", "expert-loads", "plankton.json.gz"));
  process.stderr.write(`${name}\n`);
  const shape = { ...recordedShape, experts, slots: experts + recordedShape.ranks * 2 };
  const courses = simulate(intervals, recordedLayers, shape, ways);
  panels.push({ title: `${name}, EP${shape.ranks}`, courses });
  figures.push(...courses.map((course) => figuresOf(`${name}, EP${shape.ranks}`, course)));

  if (options.svg) {
    mkdirSync(dirname(options.svg), { recursive: true });
    writeFileSync(options.svg, drawCourses(panels, windowIntervals));
  }
  if (options.json) process.stdout.write(`${JSON.stringify({ seed, layers, figures })}\n`);
  else process.stdout.write(`${table(figures)}\n`);
}

function figuresOf(deployment: string, { way, balancedness, moves }: Course, bytesEach?: number): Figures {
  const hours = (balancedness.length + windowIntervals) / 60;
  return {
    deployment,
    way: way.name,
    balancedness: balancedness.reduce((a, b) => a + b) / balancedness.length,
    least: Math.min(...balancedness),
    copiesPerHour: moves / hours,
    gigabytesPerHour: bytesEach === undefined ? null : (moves * bytesEach) / 1e9 / hours,
  };
}

function table(figures: Figures[]): string {
  return formatTable(
    ["deployment", "way", "balancedness", "least", "copies/h", "GB/h"],
    figures.map((of) => [
      of.deployment,
      of.way,
      Number(of.balancedness.toFixed(3)),
      Number(of.least.toFixed(3)),
      Math.round(of.copiesPerHour),
      of.gigabytesPerHour === null ? "-" : String(Math.round(of.gigabytesPerHour)),
    ]),
  );
}
