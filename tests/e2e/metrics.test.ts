// What every process tells Prometheus and its log about requests: counted, bounded, and never a word of what was said.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { waitFor } from "./support.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 1 });
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
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
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
  }, 60_000);

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
    const decode = await metricsOf("decode-0");
    expect(totalOf(decode, "vllm:generation_tokens_total")).toBe(60);
    expect(totalOf(decode, "vllm:prefix_cache_queries_total")).toBeGreaterThan(1_000);
    expect(totalOf(decode, "vllm:prefix_cache_hits_total")).toBeGreaterThan(500);
    expect(totalOf(decode, "vllm:request_queue_time_seconds_count")).toBe(2);
    expect(totalOf(decode, "pelagic_step_sequences_count")).toBeGreaterThan(20);
    expect(totalOf(decode, "pelagic_kv_transfer_seconds_count")).toBeGreaterThan(0);
    const prefill = await metricsOf("prefill-0");
    expect(prefill.get('pelagic_kv_transfer_bytes_total{direction="sent"}')).toBeGreaterThan(0);
    expect(totalOf(prefill, "pelagic_engine_steps_total")).toBeGreaterThan(0);
  });

  test("the endpoint picker and autoscalers find vLLM's names, at the gateway for its whole pool", async () => {
    await waitFor("the pool is idle", async () => totalOf(await metricsOf("gateway-0"), "vllm:num_requests_running") === 0);
    const [gateway, decode] = [await metricsOf("gateway-0"), await metricsOf("decode-0")];
    for (const metrics of [gateway, decode]) {
      expect(totalOf(metrics, "vllm:num_requests_waiting")).toBe(0);
      expect(totalOf(metrics, "vllm:kv_cache_usage_perc")).toBe(0);
      expect(
        [...metrics.keys()].filter((key) => /^vllm:cache_config_info\{.*block_size="64",num_gpu_blocks="[1-9]\d*"\}/.test(key)),
      ).toHaveLength(1);
    }
    expect(gateway.has(`vllm:num_requests_running{model_name="${stack.modelName}"}`)).toBe(true);
  });

  test("one line of log each, without the prompt or the answer", () => {
    const logs = stack.logsDir;
    const text = readdirSync(logs).map((file) => readFileSync(join(logs, file), "utf8"));
    expect(text.join("")).not.toContain(secret.slice(0, 9));
    const lines = text.join("").split("\n");
    for (const requestId of ["first", "again", "refused"]) {
      expect(lines.filter((line) => line.includes(`"requestId":"${requestId}"`) && line.includes('"msg":"request"'))).toHaveLength(1);
    }
  });
});
