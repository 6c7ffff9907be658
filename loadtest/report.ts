// A run's report: what was asked, what came, and in words and tables.
import type { RequestRecord } from "./record.ts";
import type { Percentiles, Summary } from "./summary.ts";

export interface LoadReport {
  kind: "pelagic-load";
  version: 3;
  startedAt: string;
  target: { baseUrl: string; model: string; endpoint: string };
  /** As given on the command line, defaults included. */
  options: Record<string, unknown>;
  summary: Summary;
  records: RequestRecord[];
  /** What was searched: for each share of good requests the highest rate that had it; null: none had. */
  knee: { found: { attainment: number; ratePerSecond: number | null }[]; points: { ratePerSecond: number; share: number }[] } | null;
}

const milliseconds = (seconds: number) => (seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0);

export function formatReport({ summary, target, knee }: LoadReport): string {
  const { goodput, byOutcome } = summary;
  const row = (name: string, values: Percentiles | null) =>
    values === null
      ? []
      : [
          `${name.padEnd(22)}${[values.mean, values.p50, values.p90, values.p99, values.max].map((value) => milliseconds(value).padStart(10)).join("")}`,
        ];
  const ends = Object.entries(byOutcome).filter(([, count]) => count > 0);
  return [
    `${target.model} at ${target.baseUrl}`,
    `${summary.offered} requests in ${summary.sendingSeconds.toFixed(1)} s, ended ${summary.drainSeconds.toFixed(1)} s later: ${ends.map(([name, count]) => `${count} ${name}`).join(", ")}`,
    ...summary.failures.map(({ outcome, error, requests }) => `  ${requests} ${outcome}: ${error}`),
    `${summary.offeredPerSecond.toFixed(2)} offered/s, ${summary.completedPerSecond.toFixed(2)} completed/s, ${summary.outputTokensPerSecond.toFixed(0)} output tokens/s, ${summary.promptTokensPerSecond.toFixed(0)} prompt tokens/s (${(100 * summary.cachedPromptShare).toFixed(0)}% cached)`,
    "",
    `${"milliseconds".padEnd(22)}${["mean", "p50", "p90", "p99", "max"].map((name) => name.padStart(10)).join("")}`,
    ...row("TTFT", summary.ttftSeconds),
    ...row("first answer token", summary.ttfatSeconds),
    ...row("TPOT", summary.tpotSeconds),
    ...row("between tokens", summary.interTokenSeconds),
    ...row("longest tenth of gaps", summary.tbtSeconds),
    ...row("end to end", summary.endToEndSeconds),
    ...row("sent late", summary.lagSeconds),
    ...row("noticed late", summary.noticeLagSeconds),
    "",
    `goodput (TTFT <= ${seconds(goodput.slo.ttftSeconds)}, TPOT <= ${seconds(goodput.slo.tpotSeconds)}): ${goodput.goodPerSecond.toFixed(2)} good requests/s, ${(100 * goodput.share).toFixed(1)}% of all offered; 90% ${goodput.attains90 ? "attained" : "missed"}, 99% ${goodput.attains99 ? "attained" : "missed"}`,
    ...(knee?.found ?? []).map(({ attainment, ratePerSecond }) =>
      ratePerSecond === null
        ? `no rate was found at which ${100 * attainment}% are good`
        : `knee: ${ratePerSecond.toFixed(2)} requests/s is the highest rate tried at which ${100 * attainment}% are good`,
    ),
    ...(summary.refused === null ? [] : [`NOT TO BE USED: ${summary.refused}`]),
  ].join("\n");
}

const seconds = (value: number) => (Number.isFinite(value) ? `${value} s` : "any");

/** Two reports beside each other. */
export function compareReports(before: LoadReport, after: LoadReport): string {
  const lines = [`${"".padEnd(28)}${"before".padStart(12)}${"after".padStart(12)}${"change".padStart(10)}`];
  const add = (name: string, a: number | undefined, b: number | undefined, unit: number, digits: number) => {
    if (a === undefined || b === undefined) return;
    const change = a === 0 ? "" : `${b >= a ? "+" : ""}${((100 * (b - a)) / a).toFixed(1)}%`;
    lines.push(
      `${name.padEnd(28)}${(a * unit).toFixed(digits).padStart(12)}${(b * unit).toFixed(digits).padStart(12)}${change.padStart(10)}`,
    );
  };
  const [x, y] = [before.summary, after.summary];
  add("offered/s", x.offeredPerSecond, y.offeredPerSecond, 1, 2);
  add("completed/s", x.completedPerSecond, y.completedPerSecond, 1, 2);
  add("output tokens/s", x.outputTokensPerSecond, y.outputTokensPerSecond, 1, 0);
  add("good requests/s", x.goodput.goodPerSecond, y.goodput.goodPerSecond, 1, 2);
  add("good, % of offered", x.goodput.share, y.goodput.share, 100, 1);
  for (const [name, what] of [
    ["TTFT", "ttftSeconds"],
    ["TPOT", "tpotSeconds"],
    ["between tokens", "interTokenSeconds"],
    ["end to end", "endToEndSeconds"],
  ] as const) {
    for (const at of ["p50", "p90", "p99"] as const) add(`${name} ${at}, ms`, x[what]?.[at], y[what]?.[at], 1000, 1);
  }
  const kneeAt = ({ knee }: LoadReport, attainment: number) =>
    knee?.found.find((one) => one.attainment === attainment)?.ratePerSecond ?? undefined;
  for (const { attainment } of before.knee?.found ?? [])
    add(`knee at ${100 * attainment}%, requests/s`, kneeAt(before, attainment), kneeAt(after, attainment), 1, 2);
  lines.push(...differences(before, after));
  for (const [name, { refused }] of Object.entries({ before: x, after: y })) {
    if (refused !== null) lines.push(`NOT TO BE USED (${name}): ${refused}`);
  }
  return lines.join("\n");
}

/** Of what was asked: unlike loads are no comparison of servers. */
function differences(before: LoadReport, after: LoadReport): string[] {
  const told = ({ options, target }: LoadReport): Record<string, unknown> => ({ ...options, ...target });
  const [x, y] = [told(before), told(after)];
  const said = (value: unknown) => JSON.stringify(value) ?? "none";
  return [...new Set([...Object.keys(x), ...Object.keys(y)])]
    .filter((name) => !outputs.has(name) && said(x[name]) !== said(y[name]))
    .map((name) => `different ${name}: ${said(x[name])} and ${said(y[name])}`);
}

/** Options that change nothing of what is measured. */
const outputs = new Set(["out", "html", "json"]);
