// Balancedness over time as an SVG, a panel for each deployment. Pure.
import type { Course } from "./run.ts";

export interface Panel {
  title: string;
  courses: readonly Course[];
}

const width = 760;
const panelHeight = 150;
const left = 44;
const top = 44;
const gap = 40;
const colours = ["#999", "#c67b12", "#e3b56b", "#7db4de", "#0a6ebd"];

export function drawCourses(panels: readonly Panel[], minutesSkipped: number): string {
  const height = top + panels.length * (panelHeight + gap);
  const names = panels[0]?.courses.map(({ way }) => way.name) ?? [];
  const lines = names.map((name, i) => `<text x="${left + i * 142}" y="18" fill="${colours[i]}">${name}</text>`);
  for (const [index, { title, courses }] of panels.entries()) {
    const y = (value: number) => top + index * (panelHeight + gap) + (1 - value) * panelHeight;
    lines.push(`<text x="${left}" y="${y(1) - 6}" class="title">${title}</text>`);
    for (const value of [0, 0.5, 1]) {
      lines.push(`<line x1="${left}" x2="${width - 8}" y1="${y(value)}" y2="${y(value)}" class="grid"/>`);
      lines.push(`<text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${value}</text>`);
    }
    for (const [i, { balancedness }] of courses.entries()) {
      const step = (width - left - 8) / Math.max(1, balancedness.length - 1);
      const points = balancedness.map((value, at) => `${(left + at * step).toFixed(1)},${y(value).toFixed(1)}`);
      lines.push(`<polyline points="${points.join(" ")}" fill="none" stroke="${colours[i]}" stroke-width="1.5"/>`);
    }
    const last = minutesSkipped + (courses[0]?.balancedness.length ?? 0);
    lines.push(`<text x="${left}" y="${y(0) + 14}">${minutesSkipped} min</text>`);
    lines.push(`<text x="${width - 8}" y="${y(0) + 14}" text-anchor="end">${last} min</text>`);
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<title>Balancedness of experts over time</title>
<style>svg { background: #fff } text:not([fill]) { fill: #333 } .title { font-weight: bold } .grid { stroke: #ddd }</style>
${lines.join("\n")}
</svg>
`;
}
