// Prometheus metrics of a worker. Names follow vLLM's where autoscalers and dashboards know them, with its label for the model.
import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import { kvBlockTokens } from "../contracts/block-key.ts";
import { layerLoad } from "../expert-load/layer-load.ts";
import type { DecodeWorker } from "./decode-worker.ts";
import type { RowServer } from "./row-server.ts";
import type { WorkerCore } from "./worker-core.ts";

const secondsBuckets = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function observeWorker(core: WorkerCore, registry: Registry): void {
  const { model_name } = vllmLabels(core);
  const gauge = (name: string, help: string, read: () => number) => {
    const labels: Record<string, string> = name.startsWith("vllm:") ? { model_name } : {};
    return new Gauge({
      name,
      help,
      labelNames: Object.keys(labels),
      registers: [registry],
      collect() {
        this.set(labels, read());
      },
    });
  };
  const { blocks } = core.engine;
  gauge("pelagic_kv_blocks", "KV blocks of this worker (64 tokens each)", () => blocks.total);
  gauge("pelagic_kv_blocks_free", "KV blocks that hold nothing", () => blocks.free);
  gauge("pelagic_kv_blocks_cached", "KV blocks kept for their prefix, evictable", () => blocks.cached);
  gauge("vllm:num_requests_running", "Requests that hold KV blocks", () => core.engine.stats().running);
  gauge("vllm:num_requests_waiting", "Requests that wait for KV blocks or budget", () => core.engine.stats().waiting);
  gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use by requests, 0 to 1", () => 1 - blocks.available / blocks.total);
  // What the Gateway API's endpoint picker computes free tokens with.
  new Gauge({
    name: "vllm:cache_config_info",
    help: "Sizes of the KV cache, as labels",
    labelNames: ["model_name", "block_size", "num_gpu_blocks"],
    registers: [registry],
  }).set({ model_name, block_size: String(kvBlockTokens), num_gpu_blocks: String(blocks.total) }, 1);
  gauge("pelagic_queued_prefill_tokens", "Prompt tokens not yet computed", () => core.engine.stats().queuedPrefillTokens);
  gauge("pelagic_prefill_tokens_per_second", "Measured over recent steps", () => core.engine.stats().prefillTokensPerSecond);
  gauge("pelagic_decode_step_seconds", "Measured over recent steps without prefill", () => core.engine.stats().decodeStepSeconds);
  const { layerCount, moeLayerCount = 0, logicalExpertCount = 0 } = core.runner.info;
  new Gauge({
    name: "pelagic_expert_highest_load",
    help: "Tokens of late of a layer's busiest expert over an equal share",
    labelNames: ["layer"],
    registers: [registry],
    collect() {
      const late = core.loads?.late() ?? [];
      for (let layer = 0; layer < moeLayerCount; layer++) {
        const { highest } = layerLoad([...late.slice(layer * logicalExpertCount, (layer + 1) * logicalExpertCount)]);
        this.set({ layer: layerCount - moeLayerCount + layer }, highest);
      }
    },
  });
  const counter = (name: string, help: string) => new Counter({ name, help, labelNames: ["model_name"], registers: [registry] });
  const preemptions = counter("vllm:num_preemptions_total", "Requests that gave their blocks up");
  const generated = counter("vllm:generation_tokens_total", "Sampled tokens");
  const steps = new Counter({ name: "pelagic_engine_steps_total", help: "Steps; a native call may make several", registers: [registry] });
  const prefilled = new Counter({
    name: "pelagic_prefilled_tokens_total",
    help: "Rows computed for what comes after them",
    registers: [registry],
  });
  const experts = new Counter({ name: "pelagic_expert_tokens_total", help: "Tokens routed to experts, all layers", registers: [registry] });
  const batch = new Histogram({
    name: "pelagic_step_sequences",
    help: "Sequences in a step",
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256],
    registers: [registry],
  });
  preemptions.inc({ model_name }, 0);
  generated.inc({ model_name }, 0);
  let seen = { preemptions: 0, steps: 0, prefilledTokens: 0, sampledTokens: 0 };
  core.engine.onStep = ({ expertCounts: counts, sequences }) => {
    batch.observe(sequences);
    const stats = core.engine.stats();
    preemptions.inc({ model_name }, stats.preemptions - seen.preemptions);
    generated.inc({ model_name }, stats.sampledTokens - seen.sampledTokens);
    prefilled.inc(stats.prefilledTokens - seen.prefilledTokens);
    steps.inc(stats.steps - seen.steps);
    seen = stats;
    experts.inc(counts.reduce((sum, n) => sum + n, 0));
  };
}

export function observeRowServer(worker: RowServer, registry: Registry): void {
  const { bytes, ended } = transferMetrics(registry, "sent");
  const resent = new Counter({ name: "pelagic_kv_resent_frames_total", help: "Frames sent again on request", registers: [registry] });
  const seconds = (name: string, help: string) => new Histogram({ name, help, buckets: secondsBuckets, registers: [registry] });
  const queue = seconds("pelagic_prefill_queue_seconds", "Request for rows to KV blocks given");
  const compute = seconds("pelagic_prefill_compute_seconds", "From there to the last row computed");
  const send = seconds("pelagic_prefill_send_seconds", "From there to the last frame sent: what of the transfer no computing hid");
  worker.onTransferEnd = (end) => {
    bytes.inc({ direction: "sent" }, end.bytes);
    ended.inc({ direction: "sent", outcome: end.outcome });
    resent.inc(end.resentFrames);
    if (end.timings === undefined) return;
    queue.observe(end.timings.queueSeconds);
    compute.observe(end.timings.computeSeconds);
    send.observe(end.timings.sendSeconds);
  };
}

export function observeDecode(worker: DecodeWorker, core: WorkerCore, registry: Registry): void {
  const { bytes, ended } = transferMetrics(registry, "received");
  const labels = vllmLabels(core);
  const counter = (name: string, help: string) => {
    const made = new Counter({ name: `vllm:${name}`, help, labelNames: ["model_name"], registers: [registry] });
    made.inc(labels, 0);
    return made;
  };
  const seconds = (name: string, help: string) => {
    const made = new Histogram({ name: `vllm:${name}`, help, labelNames: ["model_name"], buckets: secondsBuckets, registers: [registry] });
    made.zero(labels);
    return made;
  };
  const transferSeconds = new Histogram({
    name: "pelagic_kv_transfer_seconds",
    help: "From the request for rows to the last of them, their computation included",
    buckets: secondsBuckets,
    registers: [registry],
  });
  worker.onTransferEnd = (end) => {
    bytes.inc({ direction: "received" }, end.bytes);
    ended.inc({ direction: "received", outcome: end.outcome });
    transferSeconds.observe(end.seconds);
  };
  const requests = new Counter({ name: "pelagic_requests_total", help: "Ended requests", labelNames: ["outcome"], registers: [registry] });
  const ttft = new Histogram({
    name: "pelagic_decode_first_token_seconds",
    help: "Dispatch received to first token sampled",
    buckets: secondsBuckets,
    registers: [registry],
  });
  const queue = seconds("request_queue_time_seconds", "Dispatch received to KV blocks given");
  const prefill = seconds("request_prefill_time_seconds", "From there to the first token, rows from elsewhere included");
  const decode = seconds("request_decode_time_seconds", "From there to the end");
  const prompts = counter("prompt_tokens_total", "Prompt tokens of ended requests");
  const queries = counter("prefix_cache_queries_total", "Prompt tokens looked for in caches");
  const hits = counter("prefix_cache_hits_total", "Prompt tokens found in caches");
  worker.onEnd = (end) => {
    requests.inc({ outcome: end.outcome });
    prompts.inc(labels, end.promptTokens);
    const { queueSeconds, firstTokenSeconds, totalSeconds } = end.timings;
    if (queueSeconds === undefined) return;
    queue.observe(labels, queueSeconds);
    queries.inc(labels, end.promptTokens);
    hits.inc(labels, end.cacheHitTokens);
    if (firstTokenSeconds === undefined || totalSeconds === undefined) return;
    ttft.observe(firstTokenSeconds);
    prefill.observe(labels, firstTokenSeconds - queueSeconds);
    decode.observe(labels, totalSeconds - firstTokenSeconds);
  };
  new Gauge({
    name: "pelagic_kv_receive_credit_bytes",
    help: "Frame bytes granted to senders and not yet received",
    registers: [registry],
    collect() {
      this.set(worker.receivingBytes);
    },
  });
}

function vllmLabels(core: WorkerCore): { model_name: string } {
  return { model_name: core.modelName };
}

/** A decode worker receives, and sends to peers: both directions are labels of one metric, made by whoever comes first. */
function transferMetrics(registry: Registry, direction: "received" | "sent") {
  const counter = (name: string, help: string, labelNames: string[]) =>
    (registry.getSingleMetric(name) as Counter | undefined) ?? new Counter({ name, help, labelNames, registers: [registry] });
  const bytes = counter("pelagic_kv_transfer_bytes_total", "Latent bytes moved between workers", ["direction"]);
  const ended = counter("pelagic_kv_transfers_total", "Ended transfers", ["direction", "outcome"]);
  // A rate is asked for of what was there before the first one, too.
  bytes.inc({ direction }, 0);
  for (const outcome of direction === "sent" ? ["complete", "aborted", "failed"] : ["complete", "failed"])
    ended.inc({ direction, outcome }, 0);
  return { bytes, ended };
}
