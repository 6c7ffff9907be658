// The comparison as an SVG: time to first token, median and 99th percentile, on a logarithmic scale. Pure.
import type { Comparison } from "./compare.ts";

interface Group {
  trace: string;
  speed: number;
  comparisons: Comparison[];
}

const rowHeight = 18;
const groupGap = 30;
const left = 140;
const right = 90;
const width = 760;
const decades = [0.1, 1, 10, 100];

export function drawComparison(groups: readonly Group[]): string {
  const x = (seconds: number) =>
    left + ((Math.log10(Math.max(seconds, 0.05)) - Math.log10(0.05)) / Math.log10(200 / 0.05)) * (width - left - right);
  const lines: string[] = [];
  let y = 44;
  for (const { trace, speed, comparisons } of groups) {
    lines.push(`<text x="8" y="${y}" class="title">${trace}, ${speed} times as fast</text>`);
    y += 8;
    for (const { policy, ttftP50Seconds, ttftP99Seconds, hitRate } of comparisons) {
      const middle = y + rowHeight / 2;
      const kind = policy.startsWith("ours") ? "ours" : "other";
      lines.push(
        `<text x="${left - 8}" y="${middle + 4}" text-anchor="end" class="${kind}-text">${policy}</text>`,
        `<line x1="${x(ttftP50Seconds).toFixed(1)}" x2="${x(ttftP99Seconds).toFixed(1)}" y1="${middle}" y2="${middle}" class="${kind}-line"/>`,
        `<circle cx="${x(ttftP50Seconds).toFixed(1)}" cy="${middle}" r="4" class="${kind}"/>`,
        `<rect x="${(x(ttftP99Seconds) - 2).toFixed(1)}" y="${middle - 5}" width="4" height="10" class="${kind}"/>`,
        `<text x="${width - 8}" y="${middle + 4}" text-anchor="end">${(100 * hitRate).toFixed(1)}% hit</text>`,
      );
      y += rowHeight;
    }
    y += groupGap;
  }
  const axis = decades.map(
    (seconds) =>
      `<line x1="${x(seconds).toFixed(1)}" x2="${x(seconds).toFixed(1)}" y1="26" y2="${y - groupGap}" class="grid"/><text x="${x(seconds).toFixed(1)}" y="20" text-anchor="middle">${seconds} s</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" viewBox="0 0 ${width} ${y}" font-family="sans-serif" font-size="12">
<title>Time to first token by routing policy</title>
<style>
  svg { background: #fff } text { fill: #333 } .title { font-weight: bold } .grid { stroke: #ddd }
  .ours { fill: #0a6ebd } .ours-line { stroke: #0a6ebd; stroke-width: 2 } .ours-text { fill: #0a6ebd; font-weight: bold }
  .other { fill: #888 } .other-line { stroke: #bbb; stroke-width: 2 }
</style>
<text x="8" y="20">TTFT: dot p50, bar p99</text>
${axis.join("\n")}
${lines.join("\n")}
</svg>
`;
}
