// What is compared: the product's planner, a static split, and one HPA for each pool.
import type { AutoscaleConfig } from "../config.ts";
import { type AutoscaleState, planAutoscale } from "../plan.ts";
import type { Series } from "../metrics-text.ts";
import { snapshotOf } from "../scrape.ts";
import { Hpa } from "./hpa.ts";
import type { Policy, Replicas } from "./world.ts";

export function planner(config: AutoscaleConfig): Policy {
  let state: AutoscaleState | null = null;
  return (observed) => {
    const decision = planAutoscale(snapshotOf(observed), config, state);
    state = decision.state;
    return { prefill: decision.prefill.replicas, decode: decision.decode.replicas };
  };
}

export function staticSplit(replicas: Replicas): Policy {
  return () => replicas;
}

/** What an HPA reads of each pool: requests that wait, as docs/observability.md says to ask Prometheus for, or those that are worked on, too. */
export const hpaMetrics = {
  waiting: ["vllm:num_requests_waiting", "pelagic_gateway_requests_waiting"],
  "waiting and running": ["vllm:num_requests_waiting", "vllm:num_requests_running", "pelagic_gateway_requests_waiting"],
};
export type HpaMetric = keyof typeof hpaMetrics;

/** One for each pool. What waits in gateways is decode's. */
export function hpas(metric: HpaMetric, targets: Replicas, { prefill, decode }: Pick<AutoscaleConfig, "prefill" | "decode">): Policy {
  const hpa = {
    prefill: new Hpa({ ...prefill, target: targets.prefill }),
    decode: new Hpa({ ...decode, target: targets.decode }),
  };
  return ({ now, ...pools }) => {
    const desired = (pool: keyof Replicas, processes: Series[]) => {
      const total = processes.reduce((sum, series) => sum + hpaMetrics[metric].reduce((more, name) => more + sumIn(series, name), 0), 0);
      const ready = pools[pool].replicas.filter(({ state }) => state === "ready").length;
      return hpa[pool].desired(now.atSeconds, total, pools[pool].wanted, ready);
    };
    return {
      prefill: desired("prefill", [...now.prefill.values()]),
      decode: desired("decode", [...now.decode.values(), ...now.gateways.values()]),
    };
  };
}

function sumIn(series: Series, name: string): number {
  return (series.get(name) ?? []).reduce((total, { value }) => total + value, 0);
}
