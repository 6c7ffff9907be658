// Prometheus's text format as series. Lines that are none are left out: what is missing is missing in the snapshot, too.

export interface Sample {
  labels: Readonly<Record<string, string>>;
  value: number;
}

/** One process's samples by metric name; of histograms: name_bucket, name_sum, name_count. */
export type Series = ReadonlyMap<string, readonly Sample[]>;

const sampleLine = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+([^ \t]+)(?:[ \t]+-?\d+)?[ \t]*$/;
const label = /([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,[ \t]*|$)/y;

/** `wanted`: what is not is left out, since a process has many more than anybody reads. */
export function parseMetrics(text: string, wanted: (name: string) => boolean = () => true): Series {
  const series = new Map<string, Sample[]>();
  for (const line of text.split("\n")) {
    if (line.startsWith("#") || !wanted(/^[^{ \t]*/.exec(line)?.[0] as string)) continue;
    const match = sampleLine.exec(line.trimEnd());
    if (match === null) continue;
    const labels = parseLabels(match[2] ?? "");
    const value = parseNumber(match[3] as string);
    if (labels === null || value === null) continue;
    const name = match[1] as string;
    const samples = series.get(name);
    if (samples === undefined) series.set(name, [{ labels, value }]);
    else samples.push({ labels, value });
  }
  return series;
}

function parseLabels(text: string): Record<string, string> | null {
  const labels: Record<string, string> = {};
  label.lastIndex = 0;
  while (label.lastIndex < text.length) {
    const match = label.exec(text);
    if (match === null) return null;
    labels[match[1] as string] = (match[2] as string).replace(/\\(.)/g, (_, escaped: string) => (escaped === "n" ? "\n" : escaped));
  }
  return labels;
}

function parseNumber(text: string): number | null {
  if (/^[+-]?Inf$/i.test(text)) return text.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  const value = Number(text);
  return Number.isNaN(value) ? null : value;
}
