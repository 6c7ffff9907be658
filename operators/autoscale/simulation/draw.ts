// The comparison as an SVG: SLO attainment over mean replicas for everything that was tried, and what the planner chose by time. Pure.
import type { Comparison, Run } from "./compare.ts";

const panel = { width: 400, height: 230, left: 46, top: 40, gap: 46 };
const most = { replicas: 24, chosen: 13 };
const style: Record<Run["policy"], string> = {
  planner: "planner",
  static: "static",
  "HPA, waiting": "waiting",
  "HPA, waiting and running": "running",
};

export function drawComparison(comparisons: readonly Comparison[]): string {
  const width = panel.left + 2 * panel.width + panel.gap + 10;
  const rowHeight = panel.height + 64;
  const height = panel.top + comparisons.length * rowHeight;
  const rows = comparisons.map((comparison, i) => {
    const y = panel.top + i * rowHeight;
    return [scatter(comparison, panel.left, y + 20), drawCourse(comparison, panel.left + panel.width + panel.gap, y + 20)].join("\n");
  });
  const names = Object.entries(style).map(
    ([name, kind], i) => `<circle cx="${54 + i * 130}" cy="18" r="4" class="${kind}"/><text x="${62 + i * 130}" y="22">${name}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11">
<title>Requests within their SLOs, over replicas</title>
<style>
  svg { background: #fff } text { fill: #333 } .title { font-weight: bold } .grid { stroke: #e4e4e4 }
  .planner { fill: #0a6ebd } .static { fill: #999 } .waiting { fill: #c0392b } .running { fill: #e59a3c }
  .prefill { stroke: #0a6ebd; fill: none; stroke-width: 1.5 } .decode { stroke: #2e8b57; fill: none; stroke-width: 1.5 }
</style>
${names.join("\n")}
${rows.join("\n")}
</svg>
`;
}

function scatter({ scenario, hours, planner, others }: Comparison, left: number, top: number): string {
  const x = (run: Run) => (left + (Math.min(most.replicas, run.replicaHours / hours) / most.replicas) * panel.width).toFixed(1);
  const y = (run: Run) => (top + (1 - run.attained) * panel.height).toFixed(1);
  const dot = (run: Run, radius: number) =>
    `<circle cx="${x(run)}" cy="${y(run)}" r="${radius}" class="${style[run.policy]}"><title>${run.policy} ${run.setting}</title></circle>`;
  const shown = others.filter(({ policy, attained }) => policy !== "static" || attained > 0.02);
  return [
    `<text x="${left}" y="${top - 10}" class="title">${scenario}: share of requests within SLOs, over mean replicas</text>`,
    ...grid(left, top, [0, 0.25, 0.5, 0.75, 1], 1, (value) => `${value * 100}%`),
    ...[0, 4, 8, 12, 16, 20, 24].map(
      (value) =>
        `<text x="${left + (value / most.replicas) * panel.width}" y="${top + panel.height + 14}" text-anchor="middle">${value}</text>`,
    ),
    ...shown.map((run) => dot(run, 2.5)),
    dot(planner, 5),
  ].join("\n");
}

function drawCourse({ scenario, hours, course }: Comparison, left: number, top: number): string {
  // Without what was decided after the last request had come.
  const steps = course.filter(({ atSeconds }) => atSeconds < hours * 3600);
  const x = (atSeconds: number) => left + (atSeconds / (hours * 3600)) * panel.width;
  const y = (replicas: number) => top + (1 - replicas / most.chosen) * panel.height;
  const line = (pool: "prefill" | "decode") => {
    const points = steps.map((step, i) => {
      const untilSeconds = Math.min(hours * 3600, steps[i + 1]?.atSeconds ?? hours * 3600);
      return `${x(step.atSeconds).toFixed(1)},${y(step[pool]).toFixed(1)} ${x(untilSeconds).toFixed(1)},${y(step[pool]).toFixed(1)}`;
    });
    return `<polyline points="${points.join(" ")}" class="${pool}"/>`;
  };
  const minutes = [0, 0.25, 0.5, 0.75, 1].map((part) => part * hours * 60);
  return [
    `<text x="${left}" y="${top - 10}" class="title">${scenario}: planner's prefill (blue), decode (green) by minute</text>`,
    ...grid(left, top, [0, 4, 8, 12], most.chosen, String),
    ...minutes.map((m) => `<text x="${x(m * 60).toFixed(1)}" y="${top + panel.height + 14}" text-anchor="middle">${Math.round(m)}</text>`),
    line("prefill"),
    line("decode"),
  ].join("\n");
}

function grid(left: number, top: number, values: number[], largest: number, name: (value: number) => string): string[] {
  return values.map((value) => {
    const y = top + (1 - value / largest) * panel.height;
    return `<line x1="${left}" x2="${left + panel.width}" y1="${y}" y2="${y}" class="grid"/><text x="${left - 6}" y="${y + 4}" text-anchor="end">${name(value)}</text>`;
  });
}
