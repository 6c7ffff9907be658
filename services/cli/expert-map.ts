// The load of experts drawn for a terminal: layers down, experts across, a step of shade for each doubling.
import type { LayerLoad } from "../lib/expert-load/layer-load.ts";
import { formatTable } from "./terminal.ts";

export interface ExpertMapOptions {
  /** Characters in a line, at most. */
  columns: number;
  colour: boolean;
}

/** Of each shade the load relative to an equal share that it begins at, a character, and a colour of 256. */
const shades: [from: number, character: string, colour: number][] = [
  [0, "·", 235],
  [0.25, "░", 24],
  [0.75, "▒", 31],
  [1.5, "▓", 38],
  [3, "█", 159],
];
const fewestCells = 8;

export function drawExperts(
  layers: readonly LayerLoad[],
  firstLayer: number,
  balancedness: readonly number[] | undefined,
  { columns, colour }: ExpertMapOptions,
): string {
  const experts = layers[0]?.relative.length ?? 0;
  const table = formatTable(
    ["layer", "busiest", "its load", ...(balancedness ? ["balancedness"] : []), "unused"],
    layers.map(({ tokens, busiest, highest, unused }, i) => [
      firstLayer + i,
      tokens === 0 ? "-" : busiest,
      tokens === 0 ? "-" : `${highest.toFixed(2)}x`,
      ...(balancedness ? [balancedness[i]?.toFixed(2) ?? "-"] : []),
      unused,
    ]),
  ).split("\n");
  const width = Math.max(...table.map((line) => line.length));
  const each = Math.ceil(experts / Math.max(fewestCells, columns - width - 2));
  const map = layers.map(({ relative }) =>
    cellsOf(relative, each)
      .map((load) => cell(load, colour))
      .join(""),
  );
  const lines = table.map((line, i) => `${line.padEnd(width)}  ${i === 0 ? `experts, ${acrossWords(experts, each)}` : map[i - 1]}`);
  const legend = shades.map(([from], i) => `${cell(from, colour)} ${i === 0 ? "less" : `${from}x`}`).join("  ");
  return `${lines.join("\n")}\n${legend}  of an equal share`;
}

function acrossWords(experts: number, each: number): string {
  return each === 1 ? `0 to ${experts - 1}` : `0 to ${experts - 1}, the highest load of every ${each}`;
}

/** The highest load of each run of so many experts. */
function cellsOf(relative: readonly number[], each: number): number[] {
  return Array.from({ length: Math.ceil(relative.length / each) }, (_, i) => Math.max(...relative.slice(i * each, (i + 1) * each)));
}

function cell(load: number, colour: boolean): string {
  const [, character, code] = shades.findLast(([from]) => load >= from) as (typeof shades)[number];
  return colour ? `\u001b[48;5;${code}m \u001b[49m` : character;
}
