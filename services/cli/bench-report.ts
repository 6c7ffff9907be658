// The form of every bench: rows beside their ceilings, and the targets that the project states of them. A target that is missed ends the command
// with exit code 1; one that could not be measured is missed.
import { execFileSync } from "node:child_process";
import { CliError } from "./cli-error.ts";

export interface BenchRow {
  what: string;
  value: number;
  unit: string;
  ceiling: number;
  ratio: number;
}

export interface BenchTarget {
  what: string;
  /** null: it could not be measured. */
  value: number | null;
  unit: string;
  relation: "<=" | ">=";
  bound: number;
  met: boolean;
}

export interface BenchReport {
  bench: string;
  machine: string;
  commit: string;
  rows: BenchRow[];
  /** None where nothing is promised. */
  targets: BenchTarget[];
}

export function atMost(what: string, value: number, unit: string, bound: number): BenchTarget {
  return { what, value: measured(value), unit, relation: "<=", bound, met: value <= bound };
}

export function atLeast(what: string, value: number, unit: string, bound: number): BenchTarget {
  return { what, value: measured(value), unit, relation: ">=", bound, met: value >= bound };
}

const measured = (value: number) => (Number.isFinite(value) ? value : null);

/** Throws where a target was missed, after the report. */
export function printReport(report: BenchReport, json?: boolean): void {
  process.stdout.write(json ? `${JSON.stringify(report)}\n` : formatReport(report));
  const missed = report.targets.filter(({ met }) => !met);
  if (missed.length > 0) throw new CliError(`${missed.length} of ${report.targets.length} targets missed: ${missed.map(said).join("; ")}`);
}

export function formatReport({ bench, machine, commit, rows, targets }: BenchReport): string {
  const lines = rows.map(
    (r) =>
      `${r.what.padEnd(20)} ${String(r.value).padStart(10)} ${r.unit.padEnd(10)} ceiling ${String(r.ceiling).padStart(10)}   ratio ${r.ratio.toFixed(2)}`,
  );
  const verdicts = targets.map((target) => `${target.met ? "met   " : "MISSED"} ${said(target)}`);
  return `${[`${bench}: ${machine}, commit ${commit}`, ...lines, ...verdicts].join("\n")}\n`;
}

function said({ what, value, unit, relation, bound }: BenchTarget): string {
  const unitSaid = unit === "" ? "" : ` ${unit}`;
  return `${what}: ${value === null ? "not measured" : Number(value.toPrecision(4))} ${relation} ${bound}${unitSaid}`;
}

export function commit(): string {
  try {
    const hash = execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    const dirty = execFileSync("git", ["status", "--porcelain", "-uno"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    return dirty === "" ? hash : `${hash}+changes`;
  } catch {
    return "unknown";
  }
}
