// The workers: what a step holds, KV blocks, caches, queues.
import type { DashboardSpec, PanelSpec } from "./panels.ts";
import { quantile, rate, sumBy } from "./promql.ts";

const window = "$__rate_interval";
const inScope = 'namespace=~"$namespace",modelservice=~"$modelservice"';

const of = (matchers: string) => {
  const worker = (name: string) => `${name}{${matchers},${inScope}}`;
  const sumRate = (name: string, by = "") => sumBy(by, rate(worker(name), window));
  /** Over all workers of each pool, or of the one. */
  const quantiles = (name: string, legend: string, by = "") =>
    ([0.5, 0.99] as const).map((q) => [quantile(q, by, worker(`${name}_bucket`), window), `${legend} p${q * 100}`.trim()] as const);
  return { worker, sumRate, quantiles };
};

/** What both pools have. */
function bothPools(): PanelSpec[] {
  const { worker, sumRate, quantiles } = of('component=~"$pool"');
  return [
    {
      title: "KV blocks",
      what: "Of 64 tokens each, over all workers. In use up to the top: requests wait or give their blocks up; add workers or cacheMemoryMib.",
      unit: "short",
      stacked: true,
      queries: [
        [
          sumBy(
            "component",
            `${worker("pelagic_kv_blocks")} - ${worker("pelagic_kv_blocks_free")} - ${worker("pelagic_kv_blocks_cached")}`,
          ),
          "in use {{component}}",
        ],
        [sumBy("component", worker("pelagic_kv_blocks_cached")), "cached {{component}}"],
        [sumBy("component", worker("pelagic_kv_blocks_free")), "free {{component}}"],
      ],
    },
    {
      title: "KV blocks in use, by worker",
      what: "Share of each. One far above the others: its requests are long, or it keeps blocks of requests that are gone (PelagicBlocksLeaked).",
      unit: "percentunit",
      max: 1,
      red: { above: 0.95 },
      queries: [[worker("vllm:kv_cache_usage_perc"), "{{pod}}"]],
    },
    {
      title: "Requests",
      what: "Running hold blocks, waiting have none yet. Waiting that does not fall: add workers to this pool.",
      unit: "short",
      queries: [
        [sumBy("component", worker("vllm:num_requests_running")), "running {{component}}"],
        [sumBy("component", worker("vllm:num_requests_waiting")), "waiting {{component}}"],
      ],
    },
    {
      title: "Sequences in a step",
      what: "The batch. Near 1: there is little to do; rising together with step time: the worker is compute bound.",
      unit: "short",
      queries: [
        [
          `${sumRate("pelagic_step_sequences_sum", "component")} / ${sumRate("pelagic_step_sequences_count", "component")}`,
          "mean {{component}}",
        ],
        ...quantiles("pelagic_step_sequences", "{{component}}", "component"),
      ],
    },
    {
      title: "Steps",
      what: "By worker. None while requests run: the engine hangs; see its log and end the process, its requests go on elsewhere.",
      unit: "ops",
      queries: [[rate(worker("pelagic_engine_steps_total"), window), "{{pod}}"]],
    },
    {
      title: "Prompt tokens to compute",
      what: "Not yet computed, by worker. Seconds of work: divide by the tokens a second beside.",
      unit: "short",
      queries: [[worker("pelagic_queued_prefill_tokens"), "{{pod}}"]],
    },
    {
      title: "Prefill speed",
      what: "Tokens a second: computed, and what a worker measures over recent steps while it computes. Computed near measured: the pool is busy.",
      unit: "ops",
      queries: [
        [sumRate("pelagic_prefilled_tokens_total", "component"), "computed {{component}}"],
        [sumBy("component", worker("pelagic_prefill_tokens_per_second")), "measured {{component}}"],
      ],
    },
    {
      title: "Tokens to experts",
      what: "Over all layers. It follows the tokens; an end while tokens flow is a fault of the engine.",
      unit: "ops",
      queries: [[sumRate("pelagic_expert_tokens_total", "component"), "{{component}}"]],
    },
    {
      title: "Memory",
      what: "Resident, by worker. Weights and blocks are fixed: growth is a leak.",
      unit: "bytes",
      queries: [[worker("process_resident_memory_bytes"), "{{pod}}"]],
    },
  ];
}

function decodePanels(): PanelSpec[] {
  const { worker, sumRate, quantiles } = of('component="decode"');
  return [
    {
      title: "Sampled tokens",
      what: "By worker. Falling with as many requests running: steps got slower, see beside.",
      unit: "ops",
      queries: [[rate(worker("vllm:generation_tokens_total"), window), "{{pod}}"]],
    },
    {
      title: "Step time without prefill",
      what: "Over recent steps: the floor of the time per output token. Above the objective: fewer requests a worker, more threads or more workers.",
      unit: "s",
      queries: [[worker("pelagic_decode_step_seconds"), "{{pod}}"]],
    },
    {
      title: "Preemptions",
      what: "Requests that gave their blocks up and are computed again. Any steady rate: too few KV blocks; add workers or cacheMemoryMib.",
      unit: "ops",
      queries: [[rate(worker("vllm:num_preemptions_total"), window), "{{pod}}"]],
    },
    {
      title: "Prompt tokens found in caches",
      what: "Share. A fall: prompts changed, caches are evicted (see cached blocks), or workers are new.",
      unit: "percentunit",
      max: 1,
      queries: [[`${sumRate("vllm:prefix_cache_hits_total")} / ${sumRate("vllm:prefix_cache_queries_total")}`, "hits"]],
    },
    {
      title: "First token",
      what: "Dispatch received to first token sampled, and its parts: to blocks given, from there to the token (rows from prefill included). Queue: too few blocks; prefill: see Latent transfer.",
      unit: "s",
      queries: [
        ...quantiles("pelagic_decode_first_token_seconds", "whole"),
        ...quantiles("vllm:request_queue_time_seconds", "queue"),
        ...quantiles("vllm:request_prefill_time_seconds", "prefill"),
      ],
    },
    {
      title: "First token to end",
      what: "Of requests. It follows the answers' lengths: compare with the time per output token.",
      unit: "s",
      queries: quantiles("vllm:request_decode_time_seconds", ""),
    },
    {
      title: "Ends",
      what: "Of attempts; one that went on elsewhere is an end of its own. Errors: the worker's log has the request's id.",
      unit: "reqps",
      stacked: true,
      queries: [[sumRate("pelagic_requests_total", "outcome"), "{{outcome}}"]],
    },
    {
      title: "Prompt tokens",
      what: "Of ended requests. With the share found in caches it says what is left to compute.",
      unit: "ops",
      queries: [[sumRate("vllm:prompt_tokens_total"), "tokens"]],
    },
    {
      title: "Event loop lag, p99",
      what: "A decode worker that lags delays every answer it writes: give it a core more than its threads.",
      unit: "s",
      queries: [[worker("nodejs_eventloop_lag_p99_seconds"), "{{pod}}"]],
    },
  ];
}

export const prefillDecode: DashboardSpec = {
  uid: "pelagic-prefill-decode",
  title: "Pelagic / Prefill and decode",
  what: "The workers of both pools: batches, KV blocks, caches, queues. Alerts and what to do: docs/alerts.md.",
  variables: ["modelservice", "pool"],
  rows: [
    { title: "Both pools", panels: bothPools() },
    { title: "Decode: requests", panels: decodePanels() },
  ],
};
