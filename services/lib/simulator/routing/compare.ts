// Each policy over the same trace at the same load: how much was found cached, how long first tokens took, how evenly work was spread.
import { Cluster, type ClusterConfig, nodeScale } from "./cluster.ts";
import { policies } from "./policies.ts";
import type { TraceRequest } from "./trace.ts";

export interface Comparison {
  policy: string;
  requests: number;
  /** Prompt tokens that nobody computed. */
  hitRate: number;
  ttftP50Seconds: number;
  ttftP99Seconds: number;
  /** Mean over requests: a prompt that decode prefills is taken from its other requests' steps. */
  tpotSeconds: number;
  /** Largest over mean, of prefill's busy time and of decode's tokens. */
  prefillImbalance: number;
  decodeImbalance: number;
}

export function comparePolicies(trace: readonly TraceRequest[], config: ClusterConfig = nodeScale): Comparison[] {
  return Object.entries(policies).map(([policy, make]) => {
    const cluster = new Cluster(config);
    const measured = cluster.run(trace, make());
    const prompt = trace.reduce((sum, { promptTokens }) => sum + promptTokens - 1, 0);
    const computed = measured.reduce((sum, { computedTokens }) => sum + computedTokens, 0);
    const ttft = measured.map(({ ttftSeconds }) => ttftSeconds).sort((a, b) => a - b);
    return {
      policy,
      requests: measured.length,
      hitRate: 1 - computed / prompt,
      ttftP50Seconds: quantile(ttft, 0.5),
      ttftP99Seconds: quantile(ttft, 0.99),
      tpotSeconds: measured.reduce((sum, { tpotSeconds }) => sum + tpotSeconds, 0) / measured.length,
      prefillImbalance: imbalance(cluster.prefillWorkers.map(({ busyMs }) => busyMs)),
      decodeImbalance: imbalance(cluster.decodeWorkers.map(({ generatedTokens }) => generatedTokens)),
    };
  });
}

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] as number;
}

function imbalance(values: readonly number[]): number {
  return Math.max(...values) / (values.reduce((sum, value) => sum + value, 0) / values.length);
}
