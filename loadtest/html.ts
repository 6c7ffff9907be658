// A report as one HTML file that needs nothing else: tables and SVG plots, light and dark.
import type { RequestRecord } from "./record.ts";
import { formatReport, type LoadReport } from "./report.ts";
import { largest, tpotOf, ttftOf } from "./summary.ts";

interface Series {
  name: string;
  points: [x: number, y: number][];
  /** A line, or dots. */
  line: boolean;
}

const width = 640;
const height = 260;
const margin = { left: 58, right: 14, top: 12, bottom: 34 };
/** A plot shows no more points of a series than this. */
const maxPoints = 2_000;

export function htmlReport(report: LoadReport): string {
  const { records } = report;
  const seconds = (ms: number) => ms / 1000;
  const firsts = records.flatMap((record): [number, number][] => {
    const ttft = ttftOf(record);
    return ttft === null ? [] : [[seconds(record.scheduledMs), ttft]];
  });
  const failed = records
    .filter(({ outcome }) => outcome !== "ok" && outcome !== "cancelled")
    .map((record): [number, number] => [seconds(record.scheduledMs), 0]);
  const plots = [
    plot("Time to first token", "scheduled, s", "s", [
      { name: "TTFT", points: firsts, line: false },
      ...(failed.length > 0 ? [{ name: "failed", points: failed, line: false }] : []),
    ]),
    plot("In flight", "s", "requests", [{ name: "in flight", points: inFlight(records), line: true }]),
    plot("Share of requests within", "s", "share", [
      { name: "TTFT", points: distribution(records.map(ttftOf)), line: true },
      { name: "TPOT", points: distribution(records.map(tpotOf)), line: true },
    ]),
    plot("Output", "s", "tokens/s", [{ name: "output tokens", points: tokenRate(records), line: true }]),
    ...(report.knee === null
      ? []
      : [
          plot("Good requests by rate", "requests/s", "share", [
            {
              name: "share of offered",
              points: report.knee.points
                .map(({ ratePerSecond, share }): [number, number] => [ratePerSecond, share])
                .sort((a, b) => a[0] - b[0]),
              line: true,
            },
          ]),
        ]),
  ];
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Load report: ${escapeHtml(report.target.model)}</title>
<style>
:root { color-scheme: light dark; --ink: #1c2430; --faint: #8a94a3; --paper: #fff; --a: #0b6bcb; --b: #c2410c }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --faint: #7d8794; --paper: #14181e; --a: #5aa9f8; --b: #fb923c } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1340px; margin: 2rem auto; padding: 0 1rem }
pre { font: 13px/1.45 ui-monospace, monospace; overflow-x: auto } main { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0 } figcaption { font-weight: 600 } svg { max-width: 100% } text { font: 11px system-ui, sans-serif; fill: var(--faint) }
</style>
<h1>Load report</h1>
<p>${escapeHtml(report.startedAt)}</p>
<pre>${escapeHtml(formatReport(report))}</pre>
<main>${plots.join("\n")}</main>
<details><summary>Options</summary><pre>${escapeHtml(JSON.stringify(report.options, null, 2))}</pre></details>
</html>
`;
}

function inFlight(records: readonly RequestRecord[]): [number, number][] {
  const changes = records
    .filter(({ outcome }) => outcome !== "unsent")
    .flatMap(({ sentMs, endMs }): [number, number][] => [
      [sentMs, 1],
      [endMs, -1],
    ]);
  changes.sort((a, b) => a[0] - b[0]);
  let count = 0;
  return changes.map(([atMs, change]) => {
    count += change;
    return [atMs / 1000, count];
  });
}

function distribution(values: readonly (number | null)[]): [number, number][] {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  return sorted.map((value, i) => [value, (i + 1) / sorted.length]);
}

/** Tokens are spread evenly over the time in which their request gave them. */
function tokenRate(records: readonly RequestRecord[]): [number, number][] {
  const endSeconds = Math.ceil(Math.max(1, largest(records.map(({ endMs }) => endMs / 1000))));
  const perSecond = new Float64Array(endSeconds + 1);
  for (const { firstTokenMs, lastTokenMs, outputTokens } of records) {
    if (firstTokenMs === null || lastTokenMs === null) continue;
    const from = Math.floor(firstTokenMs / 1000);
    const to = Math.floor(lastTokenMs / 1000);
    for (let second = from; second <= to; second++) perSecond[second] = (perSecond[second] as number) + outputTokens / (to - from + 1);
  }
  return [...perSecond].map((tokens, second) => [second, tokens]);
}

function plot(title: string, xName: string, yName: string, series: Series[]): string {
  const all = series.flatMap(({ points }) => points);
  const xMax = niceMaximum(largest(all.map(([x]) => x)));
  const yMax = yName === "share" ? 1 : niceMaximum(largest(all.map(([, y]) => y)));
  const px = (x: number) => margin.left + (x / xMax) * (width - margin.left - margin.right);
  const py = (y: number) => height - margin.bottom - (y / yMax) * (height - margin.top - margin.bottom);
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  const grid = ticks
    .map(
      (tick) =>
        `<line x1="${margin.left}" x2="${width - margin.right}" y1="${py(tick * yMax)}" y2="${py(tick * yMax)}" stroke="var(--faint)" stroke-opacity=".25"/>` +
        `<text x="${margin.left - 6}" y="${py(tick * yMax) + 4}" text-anchor="end">${short(tick * yMax)}</text>` +
        `<text x="${px(tick * xMax)}" y="${height - margin.bottom + 15}" text-anchor="middle">${short(tick * xMax)}</text>`,
    )
    .join("");
  const drawn = series.map(({ points, line }, i) => {
    const colour = i === 0 ? "var(--a)" : "var(--b)";
    const some = thinned(points);
    if (line) {
      const path = some.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
      return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="1.5"/>`;
    }
    return some
      .map(([x, y]) => `<circle cx="${px(x).toFixed(1)}" cy="${py(y).toFixed(1)}" r="2" fill="${colour}" fill-opacity=".6"/>`)
      .join("");
  });
  const names = series
    .map(({ name }, i) => `<tspan fill="${i === 0 ? "var(--a)" : "var(--b)"}">${escapeHtml(name)}</tspan>`)
    .join(" &#160; ");
  return `<figure><figcaption>${escapeHtml(title)}</figcaption><svg viewBox="0 0 ${width} ${height}" width="${width}" role="img" aria-label="${escapeHtml(title)}">
${grid}${drawn.join("")}<text x="${width - margin.right}" y="${height - 4}" text-anchor="end">${escapeHtml(xName)}</text>
<text x="${margin.left + 6}" y="${margin.top + 10}">${escapeHtml(yName)}: ${names}</text></svg></figure>`;
}

function thinned<T>(points: readonly T[]): readonly T[] {
  const step = Math.ceil(points.length / maxPoints);
  return step <= 1 ? points : points.filter((_, i) => i % step === 0);
}

/** The next of 1, 2, 5 times a power of ten. */
function niceMaximum(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5, 10].find((step) => step * power >= value) as number) * power;
}

function short(value: number): string {
  return Number(value.toPrecision(3)).toString();
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
