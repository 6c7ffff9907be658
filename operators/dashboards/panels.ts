// Panels and dashboards as Grafana's JSON, a panel a line: what differs from Grafana's own defaults and nothing else. Its published builders write
// every default, which is half of such a file, and come as eleven megabytes.

export interface PanelSpec {
  title: string;
  /** What it shows, and what to do when it looks wrong. */
  what: string;
  /** Grafana's name of it. */
  unit: "s" | "short" | "percentunit" | "reqps" | "ops" | "Bps" | "bytes" | "none";
  /** Expression and name of its series. */
  queries: readonly (readonly [expression: string, legend: string])[];
  kind?: "stat" | "status-history";
  /** Of a status history: where its colours begin and end. */
  colours?: { from: number; to: number; scheme: "low is bad" | "high is bad" };
  stacked?: boolean;
  /** Red from here on, or, of what should be high, below it. */
  red?: { above: number } | { below: number };
  max?: number;
}

export interface DashboardSpec {
  uid: string;
  title: string;
  what: string;
  variables: readonly ("model" | "modelservice" | "pool")[];
  rows: readonly { title: string; panels: readonly PanelSpec[] }[];
}

const gridColumns = 24;
const panelsInLine = 3;
const panelHeight = 7;
/** Of Grafana 11; later ones bring it up to date as they load it. */
const schemaVersion = 39;
const crosshair = 1;
const onTimeRangeChanged = 2;
const alphabetical = 1;
const datasource = { uid: "$datasource" };

/** The queries that offer the variables' values. All of them matches where the label is missing, too. */
export const variableQueries = {
  namespace: 'label_values(process_start_time_seconds{component!=""}, namespace)',
  model: 'label_values(vllm:num_requests_running{component="gateway",namespace=~"$namespace"}, model_name)',
  modelservice: 'label_values(pelagic_kv_blocks{namespace=~"$namespace"}, modelservice)',
  pool: 'label_values(pelagic_kv_blocks{namespace=~"$namespace"}, component)',
} as const;

export function dashboardJson({ uid, title, what, variables, rows }: DashboardSpec): string {
  const head = {
    uid,
    title,
    description: what,
    tags: ["pelagic"],
    schemaVersion,
    editable: true,
    refresh: "30s",
    time: { from: "now-1h", to: "now" },
    graphTooltip: crosshair,
    links: [{ type: "dashboards", title: "Pelagic", tags: ["pelagic"], keepTime: true, includeVars: true }],
    templating: {
      list: [
        { type: "datasource", name: "datasource", label: "Data source", query: "prometheus" },
        ...(["namespace", ...variables] as const).map(variable),
      ],
    },
  };
  const lines = panelsOf(rows).map((panel) => JSON.stringify(panel));
  return `${JSON.stringify(head).slice(0, -1)},"panels":[\n${lines.join(",\n")}\n]}\n`;
}

function variable(name: keyof typeof variableQueries): object {
  return {
    type: "query",
    name,
    datasource,
    query: { query: variableQueries[name], refId: name },
    refresh: onTimeRangeChanged,
    sort: alphabetical,
    multi: true,
    includeAll: true,
    allValue: ".*",
    current: { text: ["All"], value: ["$__all"] },
  };
}

function panelsOf(rows: DashboardSpec["rows"]): object[] {
  const panels: object[] = [];
  let y = 0;
  for (const row of rows) {
    panels.push({
      type: "row",
      id: panels.length + 1,
      title: row.title,
      collapsed: false,
      panels: [],
      gridPos: { x: 0, y, w: gridColumns, h: 1 },
    });
    y += 1;
    for (let first = 0; first < row.panels.length; first += panelsInLine) {
      // The last line of a row is as wide as the others.
      const line = row.panels.slice(first, first + panelsInLine);
      const w = gridColumns / line.length;
      line.forEach((panel, at) => {
        panels.push({ ...panelJson(panel), id: panels.length + 1, gridPos: { x: at * w, y, w, h: panelHeight } });
      });
      y += panelHeight;
    }
  }
  return panels;
}

/** Points of each series in a status history: it draws each of them. */
const historyPoints = 60;

function panelJson({ kind, title, what, unit, queries, stacked, red, max, colours }: PanelSpec): object {
  const isStat = kind === "stat";
  const thresholds = red && {
    thresholds: {
      mode: "absolute",
      steps: [
        { value: null, color: "above" in red ? "green" : "red" },
        "above" in red ? { value: red.above, color: "red" } : { value: red.below, color: "green" },
      ],
    },
  };
  const custom = (stacked || (red && !isStat)) && {
    custom: {
      ...(stacked && { fillOpacity: 30, stacking: { mode: "normal" } }),
      ...(red && { thresholdsStyle: { mode: "dashed" } }),
    },
  };
  const coloured = colours && {
    min: colours.from,
    max: colours.to,
    color: { mode: colours.scheme === "low is bad" ? "continuous-RdYlGr" : "continuous-GrYlRd" },
  };
  return {
    type: kind ?? "timeseries",
    title,
    description: what,
    datasource,
    targets: queries.map(([expr, legendFormat], at) => ({
      refId: String.fromCharCode(65 + at),
      expr,
      legendFormat,
      ...(isStat && { instant: true, range: false }),
    })),
    ...(kind === "status-history" && { maxDataPoints: historyPoints }),
    fieldConfig: {
      defaults: { unit, ...(!isStat && { min: 0 }), ...custom, ...(max !== undefined && { max }), ...thresholds, ...coloured },
      overrides: [],
    },
    ...(isStat && { options: { graphMode: "none" } }),
    ...(kind === "status-history" && { options: { showValue: "never", legend: { showLegend: false } } }),
  };
}
