// What Grafana and Prometheus would ask: every query of dashboards and rules, with the variables filled in.
import { alertGroups } from "../../operators/dashboards/alerts.ts";
import { type DashboardSpec, variableQueries } from "../../operators/dashboards/panels.ts";
import { recordingGroups } from "../../operators/dashboards/rules.ts";
import type { Prometheus } from "./prometheus.ts";

export interface Query {
  where: string;
  expression: string;
}

export function panelQueries(dashboard: DashboardSpec): Query[] {
  return dashboard.rows.flatMap(({ panels }) =>
    panels.flatMap(({ title, queries }) =>
      queries.map(([expression, legend]) => ({ where: `${dashboard.title}: ${title}: ${legend}`, expression })),
    ),
  );
}

/** Of alerts: what they compare, since whoever is well gives no result. */
export function ruleQueries(): Query[] {
  const recorded = recordingGroups.flatMap(({ rules }) =>
    rules.flatMap(({ record, expr }) => [
      { where: `rule ${record}`, expression: expr },
      { where: `recorded ${record}`, expression: record },
    ]),
  );
  const compared = alertGroups.flatMap(({ alerts }) =>
    alerts.flatMap(({ name, when }) => when.map(({ value }) => ({ where: `alert ${name}`, expression: value }))),
  );
  return [...recorded, ...compared];
}

const rateInterval = "15s";

/** One value of each variable, as Grafana writes them in; its own $__rate_interval, too. */
export function filledIn(expression: string, variables: Record<string, string>): string {
  const filled = expression
    .replaceAll("$__rate_interval", rateInterval)
    .replaceAll(/\$(\w+)/g, (whole, name: string) => variables[name] ?? whole);
  if (filled.includes("$")) throw new Error(`a variable without a value: ${filled}`);
  return filled;
}

/** Those that had no finite value at any second in between. */
export async function withoutData(prometheus: Prometheus, queries: readonly Query[], fromMs: number, toMs: number): Promise<string[]> {
  const empty: string[] = [];
  for (const { where, expression } of queries) {
    const range = { query: expression, start: String(fromMs / 1000), end: String(toMs / 1000), step: "1" };
    const { result } = await prometheus.get<{ result: { values: [number, string][] }[] }>("query_range", range);
    if (!result.some(({ values }) => values.some(([, value]) => Number.isFinite(Number(value))))) empty.push(`${where}: ${expression}`);
  }
  return empty;
}

/** The values that a dashboard's variable offers. */
export async function offered(
  prometheus: Prometheus,
  name: keyof typeof variableQueries,
  variables: Record<string, string>,
): Promise<string[]> {
  const [, selector, label] = /^label_values\((.*), (\w+)\)$/.exec(variableQueries[name]) as unknown as [string, string, string];
  return prometheus.get<string[]>(`label/${label}/values`, { "match[]": filledIn(selector, variables) });
}
