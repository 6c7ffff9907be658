// One prom-client registry for each process, never the global one: tests run several processes' parts in one.
import { collectDefaultMetrics, Counter, type Histogram, Registry } from "prom-client";

export { Counter, Gauge, Histogram, Registry } from "prom-client";

/** Buckets for time to first token, queue and request times, in seconds (vLLM's and OpenTelemetry's range). */
export const latencyBucketsSeconds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
];

/** Buckets for the time between two tokens, in seconds. */
export const tokenBucketsSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];

/** A registry with Node's own metrics (memory, event loop lag, garbage collection) in it. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

/** What a bus calls for each message that it drops. */
export function countDropped(registry: Registry): () => void {
  const counter = new Counter({
    name: "pelagic_bus_dropped_messages_total",
    help: "Messages from the bus that were malformed or damaged",
    registers: [registry],
  });
  return () => counter.inc();
}

export type Labels = Partial<Record<string, string | number>>;

/**
 * The same numbers under another name, read when they are asked for: nothing is counted twice. `relabel` says under which labels a series goes; those
 * that come together are added up, null leaves one out.
 */
export function alsoAs(
  registry: Registry,
  original: Counter<string> | Histogram<string>,
  name: string,
  relabel: (labels: Labels) => Labels | null,
): void {
  const get = async () => {
    const { name: from, help, type, aggregator, values } = await original.get();
    const series = new Map<string, { value: number; labels: Labels; metricName: string }>();
    for (const { value, labels, ...rest } of values) {
      const own = relabel(labels);
      if (own === null) continue;
      // Of a histogram: its buckets, sum and count, each with its own name, and the bucket as a label.
      const metricName = "metricName" in rest ? String(rest.metricName).replace(from, name) : name;
      const { le } = labels as { le?: number };
      const kept = { ...(le !== undefined && { le }), ...own };
      const key = `${metricName} ${JSON.stringify(kept)}`;
      const before = series.get(key)?.value ?? 0;
      series.set(key, { value: before + value, labels: kept, metricName });
    }
    return { name, help, type, aggregator, values: [...series.values()] };
  };
  // A registry asks a metric for its name and for what `get` says.
  registry.registerMetric({ name, get } as unknown as Counter);
}
