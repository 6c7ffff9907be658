// How the tokens are shared among experts, and experts among ranks. A series for each layer, never for each expert: of these a large model has 15,000, which
// ./pelagic experts and the console show.
import type { DashboardSpec, PanelSpec } from "./panels.ts";
import { rate, sumBy } from "./promql.ts";

const window = "$__rate_interval";
const inScope = 'namespace=~"$namespace",modelservice=~"$modelservice"';
const worker = (name: string) => `${name}{component=~"$pool",${inScope}}`;
const rank = (name: string) => `${name}{component="decode",${inScope}}`;

function layers(): PanelSpec[] {
  return [
    {
      title: "Busiest expert, by layer",
      what: "Its tokens of late over an equal share, layers down, time across. One layer red for long: its experts want copies (redundant experts), or the traffic is of one topic.",
      unit: "none",
      kind: "status-history",
      colours: { from: 1, to: 4, scheme: "high is bad" },
      queries: [[`max by (layer) (${worker("pelagic_expert_highest_load")})`, "layer {{layer}}"]],
    },
    {
      title: "Balancedness, by layer",
      what: "Mean rank load over largest for the tokens of late: every rank waits for the most loaded one. 1 is even; low in few layers: a plan made for these loads helps them.",
      unit: "percentunit",
      kind: "status-history",
      colours: { from: 0, to: 1, scheme: "low is bad" },
      queries: [[`min by (layer) (${rank("pelagic_expert_balancedness")})`, "layer {{layer}}"]],
    },
  ];
}

function ranks(): PanelSpec[] {
  return [
    {
      title: "Balancedness",
      what: "Over the layers. What experts cost a step is about the inverse of the mean: at 0.5 twice what even ranks would need.",
      unit: "percentunit",
      max: 1,
      queries: [
        [`avg(${rank("pelagic_expert_balancedness")})`, "mean"],
        [`min(${rank("pelagic_expert_balancedness")})`, "worst layer"],
      ],
    },
    {
      title: "Rows computed",
      what: "By each rank's experts, for all ranks. One far above the others: the plan does not fit the load; one at none: it is not in the group.",
      unit: "ops",
      queries: [[rate(rank("pelagic_rank_computed_rows_total"), window), "{{pod}}"]],
    },
    {
      title: "Waiting for other ranks",
      what: "Share of time. High on all but one: that one is slow, or holds the busiest experts.",
      unit: "percentunit",
      queries: [[rate(rank("pelagic_rank_wait_seconds_total"), window), "{{pod}}"]],
    },
    {
      title: "Ranks in the group",
      what: "As each sees it; 0: it has none, and computes nothing. Below the number of ranks: see which is not ready, and its log.",
      unit: "short",
      queries: [[rank("pelagic_rank_group_members"), "{{pod}}"]],
    },
    {
      title: "Where rows go",
      what: "Copies of rows sent to ranks that hold their experts. Many far ones: groups of experts are not kept on nodes.",
      unit: "ops",
      stacked: true,
      queries: [[sumBy("to", rate(rank("pelagic_rank_copies_total"), window)), "{{to}}"]],
    },
    {
      title: "Bytes between ranks",
      what: "Sent by each. It follows the rows; near what the network carries, ranks wait for it.",
      unit: "Bps",
      queries: [[rate(rank("pelagic_rank_sent_bytes_total"), window), "{{pod}}"]],
    },
  ];
}

export const experts: DashboardSpec = {
  uid: "pelagic-experts",
  title: "Pelagic / Experts",
  what: "How tokens are shared among experts, and the experts' load among ranks. Expert by expert: ./pelagic experts, and the console.",
  variables: ["modelservice", "pool"],
  rows: [
    { title: "Layers", panels: layers() },
    { title: "Ranks that share experts", panels: ranks() },
  ],
};
