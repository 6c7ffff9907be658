// What every process tells Prometheus and its log about requests: counted, bounded, and never a word of what was said.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { waitFor, workersOf } from "./support.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 1 });
  // Each process is ready by its own word; until the gateway has heard it, decode prefills.
  await waitFor("the gateway has heard of prefill", async () =>
    (await workersOf(stack)).some(({ workerId, state }) => workerId === "prefill-0" && state === "ready"),
  );
}, 120_000);
afterAll(() => stack?.stop());

const secret = "xylophone-marmalade";
const chat = (body: object, requestId: string) =>
  fetch(`${stack.baseUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": requestId },
    body: JSON.stringify({ model: stack.modelName, ...body }),
  });

async function metricsOf(process: string): Promise<Map<string, number>> {
  const port = stack.processes.find(({ name }) => name === process)?.metricsPort;
  return await metricsAt(`http://127.0.0.1:${port}`);
}

async function metricsAt(base: string): Promise<Map<string, number>> {
  const text = await (await fetch(`${base}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]));
}

/** The sum over a metric's labels. */
function totalOf(metrics: Map<string, number>, name: string): number {
  const found = [...metrics].filter(([key]) => key === name || key.startsWith(`${name}{`));
  expect(found.length, name).toBeGreaterThan(0);
  return found.reduce((sum, [, value]) => sum + value, 0);
}

describe("after some requests", () => {
  const content = `${secret} `.repeat(30);
  beforeAll(async () => {
    for (const requestId of ["first", "again"]) {
      const response = await chat({ messages: [{ role: "user", content }], max_tokens: 30, temperature: 0 }, requestId);
      expect(response.status).toBe(200);
      await response.text();
    }
    expect((await chat({ messages: [{ role: "user", content: secret }], n: 0 }, "refused")).status).toBe(400);
    const headers = { "content-type": "application/json" };
    const tokenized = await fetch(`${stack.baseUrl}/tokenize`, {
      method: "POST",
      headers: { ...headers, "x-request-id": "tokenized" },
      body: JSON.stringify({ prompt: secret }),
    });
    expect(tokenized.status).toBe(200);
    expect((await fetch(`${stack.baseUrl}/v1/${secret}`, { headers: { "x-request-id": "lost" } })).status).toBe(404);
    expect((await fetch(`${stack.baseUrl}/health?${secret}`, { headers: { "x-request-id": "probe" } })).status).toBe(200);
  });

  test("every process counts them", async () => {
    const gateway = await metricsOf("gateway-0");
    for (const name of ["gen_ai_server_time_to_first_token_seconds_count", "gen_ai_server_time_per_output_token_seconds_count"]) {
      expect(totalOf(gateway, name)).toBe(2);
    }
    expect(totalOf(gateway, "pelagic_gateway_inter_token_latency_seconds_count")).toBeGreaterThan(2);
    expect(gateway.get(`pelagic_gateway_requests_total{endpoint="chat",outcome="invalid_request",model_name="${stack.modelName}"}`)).toBe(
      1,
    );
    expect(totalOf(gateway, "pelagic_gateway_resumes_total")).toBe(0);
    for (const phase of ["read body", "admit", "queue", "tokenize", "route", "first token", "stream"]) {
      expect(gateway.get(`pelagic_gateway_phase_seconds_count{phase="${phase}",model_name="${stack.modelName}"}`), phase).toBe(2);
    }
    const decode = await metricsOf("decode-0");
    expect(totalOf(decode, "vllm:generation_tokens_total")).toBe(60);
    expect(totalOf(decode, "vllm:prefix_cache_queries_total")).toBeGreaterThan(1_000);
    expect(totalOf(decode, "vllm:prefix_cache_hits_total")).toBeGreaterThan(500);
    for (const part of ["queue", "prefill", "decode"]) expect(totalOf(decode, `vllm:request_${part}_time_seconds_count`)).toBe(2);
    expect(totalOf(decode, "vllm:num_preemptions_total")).toBe(0);
    expect(totalOf(decode, "pelagic_step_sequences_count")).toBeGreaterThan(20);
    expect(totalOf(decode, "pelagic_kv_transfer_seconds_count")).toBeGreaterThan(0);
    const prefill = await metricsOf("prefill-0");
    expect(prefill.get('pelagic_kv_transfer_bytes_total{direction="sent"}')).toBeGreaterThan(0);
    expect(totalOf(prefill, "pelagic_engine_steps_total")).toBeGreaterThan(0);
    expect(totalOf(prefill, "pelagic_prefilled_tokens_total")).toBeGreaterThan(500);
    for (const part of ["queue", "compute", "send"]) {
      expect(totalOf(prefill, `pelagic_prefill_${part}_seconds_count`)).toBeGreaterThan(0);
    }
  });

  test("the endpoint picker finds the load of the pool where it scrapes: on the port that serves requests", async () => {
    await waitFor("the pool is idle", async () => totalOf(await metricsAt(stack.baseUrl), "vllm:num_requests_running") === 0);
    const seen = await metricsAt(stack.baseUrl);
    const model = `model_name="${stack.modelName}"`;
    const names = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc"];
    for (const name of names) expect(seen.get(`vllm:${name}{${model}}`), name).toBe(0);
    const decode = await metricsOf("decode-0");
    const sizes = `${model},block_size="64",num_gpu_blocks="${decode.get("pelagic_kv_blocks")}"`;
    expect(seen.get(`vllm:cache_config_info{${sizes}}`)).toBe(1);
    expect(decode.get(`vllm:cache_config_info{${sizes}}`)).toBe(1);
    // Nothing else: whoever reaches that port may read it.
    expect(seen.size).toBe(names.length + 1);
  });

  test("autoscalers find vLLM's names on the gateway, with the model as their label", async () => {
    const gateway = await metricsOf("gateway-0");
    const labels = `{model_name="${stack.modelName}"}`;
    const value = (name: string) => gateway.get(`vllm:${name}${labels}`);
    const counts = [
      "time_to_first_token_seconds",
      "request_time_per_output_token_seconds",
      "request_prompt_tokens",
      "request_generation_tokens",
    ];
    for (const name of counts) expect(value(`${name}_count`), name).toBe(2);
    for (const name of ["inter_token_latency_seconds", "time_per_output_token_seconds"]) {
      expect(value(`${name}_count`), name).toBe(totalOf(gateway, "pelagic_gateway_inter_token_latency_seconds_count"));
    }
    // The refused one has a duration, and none by vLLM's name.
    expect(value("e2e_request_latency_seconds_count")).toBe(2);
    expect(totalOf(gateway, "gen_ai_server_request_duration_seconds_count")).toBe(3);
    expect(value("generation_tokens_total")).toBe(60);
    expect(value("request_generation_tokens_sum")).toBe(60);
    expect(value("prompt_tokens_total")).toBeGreaterThan(1_000);
    expect(value("prefix_cache_hits_total")).toBeGreaterThan(500);
    expect(totalOf(gateway, "vllm:request_success_total")).toBe(2);
    expect(gateway.get(`vllm:request_success_total{model_name="${stack.modelName}",finished_reason="length"}`)).toBe(2);
    const buckets = [...gateway].filter(([key]) => key.startsWith("vllm:time_to_first_token_seconds_bucket"));
    expect(buckets.at(-1)).toEqual([`vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="${stack.modelName}"}`, 2]);
    expect(buckets.map(([, count]) => count)).toEqual(buckets.map(([, count]) => count).sort((one, other) => one - other));
  });

  test("one line of log each, without the prompt or the answer", () => {
    const logs = stack.logsDir;
    const text = readdirSync(logs).map((file) => readFileSync(join(logs, file), "utf8"));
    expect(text.join("")).not.toContain(secret.slice(0, 9));
    const lines = text.join("").split("\n");
    expect(lines.filter((line) => line.includes('"probe"'))).toEqual([]);
    for (const requestId of ["first", "again", "refused", "tokenized", "lost"]) {
      expect(lines.filter((line) => line.includes(`"requestId":"${requestId}"`) && line.includes('"msg":"request"'))).toHaveLength(1);
    }
  });
});
