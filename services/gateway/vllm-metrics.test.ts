import { expect, test } from "vitest";
import { Registry } from "../lib/runtime/metrics.ts";
import { GatewayMetrics } from "./gateway-metrics.ts";
import type { Pool } from "./vllm-metrics.ts";

const worker = (running: number, waiting: number, free: number, cached: number) => ({
  requests: { running, waiting, maxWaiting: 16 },
  blocks: { total: 100, free, cached },
});

/** The series of vLLM's names, without histograms' buckets. */
async function shown(pool: Pool, work: (metrics: GatewayMetrics) => void = () => {}): Promise<Map<string, number>> {
  const registry = new Registry();
  const metrics = new GatewayMetrics(registry, {
    running: () => 0,
    waiting: () => pool.waiting + 1,
    cancelling: () => 0,
    bodyBytes: () => 0,
    keysUnread: () => false,
    modelsMissing: () => 0,
    pools: () => [pool, { modelName: "other", waiting: 1, workers: [worker(5, 5, 10, 10)] }],
  });
  work(metrics);
  const lines = (await registry.metrics()).split("\n").filter((line) => /^vllm:/.test(line) && !line.includes("_bucket"));
  return new Map(lines.map((line) => [line.slice(5, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]));
}

test("the pool's load is that of all its decode workers and of the gateway's own queue", async () => {
  const metrics = await shown({ modelName: "m", waiting: 7, workers: [worker(3, 2, 40, 30), worker(1, 0, 100, 0)] });
  expect(metrics.get('num_requests_running{model_name="m"}')).toBe(4);
  expect(metrics.get('num_requests_waiting{model_name="m"}')).toBe(9);
  expect(metrics.get('kv_cache_usage_perc{model_name="m"}')).toBeCloseTo(0.15);
  expect(metrics.get('gpu_cache_usage_perc{model_name="m"}')).toBeCloseTo(0.15);
  expect(metrics.get('cache_config_info{model_name="m",block_size="64",num_gpu_blocks="200"}')).toBe(1);
});

test("without a worker nothing is in use, and who waits is told", async () => {
  const metrics = await shown({ modelName: "m", waiting: 7, workers: [] });
  expect(metrics.get('num_requests_waiting{model_name="m"}')).toBe(7);
  expect(metrics.get('kv_cache_usage_perc{model_name="m"}')).toBe(0);
});

test("the gateway's own numbers, by vLLM's names, over all endpoints", async () => {
  const metrics = await shown({ modelName: "m", waiting: 0, workers: [] }, (own) => {
    own.timeToFirstToken.observe({ endpoint: "chat", model_name: "m" }, 0.5);
    own.timeToFirstToken.observe({ endpoint: "messages", model_name: "m" }, 1.5);
    own.timeToFirstToken.observe({ endpoint: "chat", model_name: "other" }, 9);
    own.tokens.inc({ kind: "prompt", model_name: "m" }, 10);
    own.tokens.inc({ kind: "cached", model_name: "m" }, 4);
    // It named no model that is served here.
    own.requests.inc({ endpoint: "chat", outcome: "cancelled", model_name: "" });
    for (const outcome of ["stop", "tool_calls", "length", "cancelled", "worker_lost", "invalid_request", "rate_limit_exceeded"]) {
      own.requests.inc({ endpoint: "chat", outcome, model_name: "m" });
    }
  });
  expect(metrics.get('time_to_first_token_seconds_count{model_name="m"}')).toBe(2);
  expect(metrics.get('time_to_first_token_seconds_sum{model_name="m"}')).toBe(2);
  expect(metrics.get('prefix_cache_queries_total{model_name="m"}')).toBe(10);
  expect(metrics.get('prefix_cache_hits_total{model_name="m"}')).toBe(4);
  expect(metrics.get('time_to_first_token_seconds_sum{model_name="other"}')).toBe(9);
  const ended = [...metrics].filter(([name]) => name.startsWith('request_success_total{model_name="m"'));
  expect([...metrics.keys()].filter((name) => name.includes('model_name=""'))).toEqual([]);
  expect(Object.fromEntries(ended.map(([name, value]) => [/finished_reason="(\w+)"/.exec(name)?.[1], value]))).toEqual({
    ...{ stop: 2, length: 1, abort: 1, error: 1 },
  });
});
