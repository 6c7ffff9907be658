// What is compared: the product's planner, a static split, and one HPA for each pool.
import type { AutoscaleConfig } from "../config.ts";
import { type AutoscaleState, planAutoscale } from "../plan.ts";
import { type Observed, type Scrape, snapshotOf } from "../scrape.ts";
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

/** Each on what waits for its pool: as docs/observability.md says to ask Prometheus for. */
export function hpas(target: number, { prefill, decode }: Pick<AutoscaleConfig, "prefill" | "decode">): Policy {
  const ofPrefill = new Hpa({ ...prefill, target });
  const ofDecode = new Hpa({ ...decode, target });
  return ({ now, ...pools }) => {
    const one = (hpa: Hpa, pool: "prefill" | "decode", total: number) =>
      hpa.desired(now.atSeconds, total, pools[pool].wanted, ready(pools[pool]));
    return {
      prefill: one(ofPrefill, "prefill", sum(now, "prefill", "vllm:num_requests_waiting")),
      decode: one(
        ofDecode,
        "decode",
        sum(now, "decode", "vllm:num_requests_waiting") + sum(now, "gateways", "pelagic_gateway_requests_waiting"),
      ),
    };
  };
}

const ready = ({ pods }: Observed["prefill"]) => pods.filter(({ state }) => state === "ready").length;

function sum(scrape: Scrape, group: "gateways" | "prefill" | "decode", name: string): number {
  return [...scrape[group].values()].flatMap((series) => series.get(name) ?? []).reduce((total, { value }) => total + value, 0);
}
