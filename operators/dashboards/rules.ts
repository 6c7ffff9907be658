// Recording and alert rules as the file that Prometheus reads.
import { stringify } from "yaml";
import { type Alert, alertGroups, expressionOf } from "./alerts.ts";
import { clientFaults, failures, type Objective, objectives, tpotSeconds, ttftSeconds } from "./objectives.ts";
import { orZero, rate, series, sumBy } from "./promql.ts";

export interface RecordingRule {
  record: string;
  expr: string;
  labels?: Record<string, string>;
}

const modelRate = (name: string, more = "") => sumBy("namespace, model_name", rate(series(name, "gateway", more), "5m"));
const aboveBound = (name: string, bound: number) => `(${modelRate(`${name}_count`)} - ${modelRate(`${name}_bucket`, `le="${bound}"`)})`;
const counted = modelRate("pelagic_gateway_requests_total", `outcome!~"${clientFaults}"`);
const ttft = "gen_ai_server_time_to_first_token_seconds";
const tpot = "gen_ai_server_time_per_output_token_seconds";

/** Requests a second that an objective is asked of, and those that miss it. */
const asked: Record<Objective, { all: string; bad: string }> = {
  availability: { all: counted, bad: orZero(modelRate("pelagic_gateway_requests_total", `outcome=~"${failures}"`), counted) },
  ttft: { all: modelRate(`${ttft}_count`), bad: aboveBound(ttft, ttftSeconds) },
  tpot: { all: modelRate(`${tpot}_count`), bad: aboveBound(tpot, tpotSeconds) },
};

const names = Object.keys(objectives) as Objective[];
const budget = (slo: Objective) => Number((1 - objectives[slo]).toFixed(6));
const spent = "pelagic:slo_spent:rate5m";
const all = "pelagic:slo_all:rate5m";

/** By the age of what they look at: long windows are asked for less often. */
export const recordingGroups: { name: string; interval: string; rules: RecordingRule[] }[] = [
  {
    name: "pelagic-slo",
    interval: "30s",
    rules: [
      ...names.map((slo) => ({ record: all, labels: { slo }, expr: asked[slo].all })),
      // In units of what the objective allows: 1 for each request is the whole budget.
      ...names.map((slo) => ({ record: spent, labels: { slo }, expr: `${asked[slo].bad} / ${budget(slo)}` })),
      { record: "pelagic:slo_burn:ratio5m", expr: `${spent} / ${all}` },
      ...["30m", "1h", "6h"].map(burnOver),
    ],
  },
  { name: "pelagic-slo-days", interval: "5m", rules: ["3d", "30d"].map(burnOver) },
];

function burnOver(window: string): RecordingRule {
  return { record: `pelagic:slo_burn:ratio${window}`, expr: `sum_over_time(${spent}[${window}]) / sum_over_time(${all}[${window}])` };
}

export function rulesYaml(): string {
  const alerts = alertGroups.map(({ name, alerts }) => ({ name, rules: alerts.map(alertRule) }));
  return `# Generated from operators/dashboards (npm run generate).\n${stringify({ groups: [...recordingGroups, ...alerts] }, { lineWidth: 0, aliasDuplicateObjects: false })}`;
}

function alertRule(alert: Alert) {
  return {
    alert: alert.name,
    expr: expressionOf(alert),
    for: alert.for,
    labels: { severity: alert.severity },
    annotations: { summary: alert.summary, description: alert.description, runbook: `docs/alerts.md#${alert.name.toLowerCase()}` },
  };
}
