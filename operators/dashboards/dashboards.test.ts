// What can be said of dashboards and rules without a Prometheus; tests/e2e and tests/cluster ask a real one.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { alertGroups, expressionOf } from "./alerts.ts";
import { dashboards, observabilityFiles } from "./generated.ts";
import { dashboardJson } from "./panels.ts";
import { recordingGroups } from "./rules.ts";

const alerts = alertGroups.flatMap((group) => group.alerts);
const recorded = recordingGroups.flatMap(({ rules }) => rules);
const panels = Object.values(dashboards).flatMap(({ rows }) => rows.flatMap((row) => row.panels));
const expressions = [
  ...panels.flatMap(({ queries }) => queries.map(([expression]) => expression)),
  ...recorded.map(({ expr }) => expr),
  ...alerts.map(expressionOf),
];

interface PanelJson {
  id: number;
  type: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: { refId: string }[];
}

describe("dashboards", () => {
  it("are small: they are carried with the chart", () => {
    const bytes = Object.entries(observabilityFiles()).filter(([path]) => path.endsWith(".json"));
    expect(bytes.reduce((sum, [, text]) => sum + text.length, 0)).toBeLessThan(60_000);
  });

  it.each(Object.entries(dashboards))("%s has panels that neither share an id nor overlap", (_, spec) => {
    const { panels } = JSON.parse(dashboardJson(spec)) as { panels: PanelJson[] };
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, cell) => `${x + (cell % w)} ${y + Math.floor(cell / w)}`),
    );
    expect(new Set(cells).size).toBe(cells.length);
    expect(Math.max(...panels.map(({ gridPos }) => gridPos.x + gridPos.w))).toBe(24);
    for (const { targets = [] } of panels) expect(new Set(targets.map(({ refId }) => refId)).size).toBe(targets.length);
  });

  it("say of each panel what to do, and name only alerts that exist", () => {
    const known = new Set(alerts.map(({ name }) => name));
    for (const { title, what } of panels) {
      expect(what.length, title).toBeGreaterThan(30);
      for (const [name] of what.matchAll(/Pelagic[A-Z]\w+/g)) expect(known).toContain(name);
    }
    for (const { runbook } of alerts) for (const [name] of runbook.matchAll(/Pelagic[A-Z]\w+/g)) expect(known).toContain(name);
  });

  it("ask only for metrics that docs/observability.md has, or that are recorded", () => {
    const rows = readFileSync("docs/observability.md", "utf8").matchAll(/^\| `([a-z0-9_:]+)` \| (\w+) \|/gm);
    const known = new Set(recorded.map(({ record }) => record));
    for (const [, name, kind] of rows) {
      if (kind === "histogram") for (const part of ["bucket", "sum", "count"]) known.add(`${name}_${part}`);
      else known.add(name as string);
    }
    for (const expression of expressions) {
      for (const [name] of expression.matchAll(/\b(?:pelagic|vllm|gen_ai)[:_][a-zA-Z0-9_:]+/g)) expect(known, expression).toContain(name);
    }
  });
});
