// What a rank sends to others and waits for, for Prometheus: docs/observability.md.
import { Counter, Gauge, type Registry } from "prom-client";
import type { RankCounters } from "../native.ts";
import type { RankedRunner } from "./ranked-runner.ts";

export function observeRanks(runner: RankedRunner, registry: Registry): void {
  const registers = [registry];
  new Gauge({
    name: "pelagic_rank_group_members",
    help: "Ranks of the group that stands, this one included; 0: there is none",
    registers,
    collect() {
      this.set(runner.groupMembers);
    },
  });
  const { layerCount, moeLayerCount = 0 } = runner.info;
  new Gauge({
    name: "pelagic_expert_balancedness",
    help: "Mean rank load over largest, of the group's tokens of late; shown by the rank that leads",
    labelNames: ["layer"],
    registers,
    collect() {
      this.reset();
      for (const [i, value] of (runner.balancedness() ?? []).entries()) this.set({ layer: layerCount - moeLayerCount + i }, value);
    },
  });
  new Gauge({
    name: "pelagic_expert_plan_version",
    help: "Version of the expert plan that this rank has taken layers of last",
    registers,
    collect() {
      this.set(runner.placement.version);
    },
  });
  const counter = (name: string, help: string, label: string, read: (counters: RankCounters) => [value: string, total: number][]) => {
    const seen = new Map<string, number>();
    new Counter({
      name,
      help,
      labelNames: [label],
      registers,
      collect() {
        for (const [value, total] of read(runner.counters)) {
          this.inc({ [label]: value }, total - (seen.get(value) ?? 0));
          seen.set(value, total);
        }
      },
    });
  };
  const plain = (name: string, help: string, read: () => number) => {
    let seen = 0;
    new Counter({
      name,
      help,
      registers,
      collect() {
        const total = read();
        this.inc(total - seen);
        seen = total;
      },
    });
  };
  counter("pelagic_rank_steps_total", "Steps of the group, by whether this rank had rows in them", "rows", ({ steps, emptySteps }) => [
    ["some", steps - emptySteps],
    ["none", emptySteps],
  ]);
  counter(
    "pelagic_rank_copies_total",
    "Rows of MoE layers sent to ranks that hold their experts, once to each",
    "to",
    ({ keptCopies, nodeCopies, farCopies }) => [
      ["itself", keptCopies],
      ["node", nodeCopies],
      ["far", farCopies],
    ],
  );
  counter(
    "pelagic_rank_nodes_reached_total",
    "Rows of MoE layers by the number of nodes that hold their experts",
    "nodes",
    ({ nodesReached }) => nodesReached.flatMap((rows, nodes) => (nodes === 0 ? [] : [[String(nodes), rows]])),
  );
  plain("pelagic_rank_computed_rows_total", "Rows that this rank's experts computed, for all ranks", () => runner.counters.computedRows);
  plain(
    "pelagic_rank_critical_computed_rows_total",
    "Rows of the rank whose experts had most, in each layer of each step of the group",
    () => runner.counters.criticalComputedRows,
  );
  plain("pelagic_rank_sent_bytes_total", "Bytes sent to other ranks", () => runner.counters.sentBytes);
  plain("pelagic_rank_card_bytes_total", "Bytes sent from card to card beside them", () => runner.counters.cardBytes);
  plain("pelagic_rank_wait_seconds_total", "Time that steps waited for messages of other ranks", () => runner.counters.waitSeconds);
  plain("pelagic_rank_expert_seconds_total", "Processor time of this rank's experts", () => runner.counters.expertSeconds);
  plain(
    "pelagic_rank_critical_expert_seconds_total",
    "Processor time of the rank whose experts took most, in each layer of each step of the group",
    () => runner.counters.criticalExpertSeconds,
  );
  plain(
    "pelagic_rank_critical_step_seconds_total",
    "The same, and of the rank that took most for all else of a step",
    () => runner.counters.criticalStepSeconds,
  );
  plain(
    "pelagic_experts_loaded_total",
    "Copies of experts that this rank has loaded since its start, for new plans",
    () => runner.placement.loadedExperts,
  );
  plain("pelagic_expert_loaded_bytes_total", "Bytes of the checkpoint read for them", () => runner.placement.loadedBytes);
}
