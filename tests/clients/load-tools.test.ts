// Published load tools, unmodified, run to a report against a real stack: nothing fails, and what they count is what was asked.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { envOf, runPython } from "../support/python.ts";

let stack: Stack;
let dir: string;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-load-tools-"));
  stack = await startStack({ prefill: 1, decode: 1 });
}, 120_000);
afterAll(async () => {
  await stack?.stop();
  if (dir) rmSync(dir, { recursive: true, force: true });
});

const timeoutMs = 240_000;
const json = (...path: string[]) => JSON.parse(readFileSync(join(dir, ...path), "utf8"));
/** In one unit: the first token comes before the last, and neither takes no time. */
function expectOrder(first: number, each: number, whole: number): void {
  for (const value of [first, each]) expect(value).toBeGreaterThan(0);
  expect(first).toBeLessThan(whole);
}

const aiperf = await envOf("aiperf");
describe.skipIf(aiperf.missing)(`aiperf${aiperf.missing}`, () => {
  test.each(["chat", "completions"])("%s", { timeout: timeoutMs + 10_000 }, async (kind) => {
    const target = ["--url", stack.baseUrl, "--model", stack.modelName, "--tokenizer", stack.model, "--endpoint-type", kind, "--streaming"];
    const load = ["--request-count", "12", "--concurrency", "2", "--isl", "200", "--isl-stddev", "0", "--osl", "40"];
    const options = ["--extra-inputs", "ignore_eos:true", "--ui", "none", "--output-artifact-dir", join(dir, kind)];
    // Offline, it takes no folder for a tokenizer's name. It fetches nothing either way.
    const env = { HF_HUB_OFFLINE: "" };
    await runPython(aiperf, ["-m", "aiperf", "profile", ...target, ...load, ...options], { timeoutMs, env });
    const report = json(kind, "profile_export_aiperf.json");
    expect(report).toMatchObject({ request_count: { avg: 12 }, request_error_rate: { avg: 0 }, error_summary: [], is_complete: true });
    expect(report.usage_completion_tokens).toMatchObject({ min: 40, max: 40 });
    // Beside what it counts itself there is a conversation's template.
    const added = report.usage_prompt_tokens.avg - report.input_sequence_length.avg;
    if (kind === "completions") expect(added).toBe(0);
    else expect(added).toBeGreaterThan(0);
    expect(added).toBeLessThan(8);
    expectOrder(report.time_to_first_token.avg, report.inter_token_latency.avg, report.request_latency.avg);
  });
});

const guidellm = await envOf("guidellm");
describe.skipIf(guidellm.missing)(`guidellm${guidellm.missing}`, () => {
  test("chat", { timeout: timeoutMs + 10_000 }, async () => {
    const run = ["-m", "guidellm", "run", "--disable-progress", "--backend", `kind=openai_http,target=${stack.baseUrl}`];
    const load = ["--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=12"];
    const data = ["--tokenizer", `kind=hf_auto,model=${stack.model}`, "--data", "kind=synthetic_text,prompt_tokens=200,output_tokens=40"];
    const output = ["--output", `kind=json,path=${join(dir, "guidellm.json")}`];
    const env = { PYTHONPATH: inTree("tests", "clients", "python", "stand-ins"), USE_TORCH: "0" };
    await runPython(guidellm, [...run, ...load, ...data, ...output], { timeoutMs, env });
    const { metrics } = json("guidellm.json").benchmarks[0];
    expect(metrics.request_totals).toMatchObject({ successful: 12, errored: 0 });
    expect(metrics.output_token_count.successful).toMatchObject({ min: 40, max: 40 });
    expect(metrics.prompt_token_count.successful.mean).toBeGreaterThan(200);
    const mean = (name: string) => metrics[name].successful.mean;
    expectOrder(mean("time_to_first_token_ms"), mean("inter_token_latency_ms"), mean("request_latency") * 1000);
    expect(mean("time_to_first_output_token_ms")).toBeGreaterThan(mean("time_to_first_token_ms"));
  });
});

const inferencePerf = await envOf("inference-perf", "inference-perf-itself");
describe.skipIf(inferencePerf.missing)(`inference-perf${inferencePerf.missing}`, () => {
  // It makes up prompts of random tokens, which are no text where tokens are bytes; these two take them from text.
  const shareGpt = Array.from({ length: 20 }, (_, i) => ({
    conversations: [
      { from: "human", value: `What is ${i + 10} + ${2 * i + 11}? ${"Say it twice. ".repeat(10)}` },
      { from: "gpt", value: "The sum is what it is, and it is said twice." },
    ],
  }));
  const lengths = (mean: number) => ({ min: mean - 10, max: mean + 10, mean, std_dev: 3, total_count: 12 });
  const kinds = {
    completion: { type: "synthetic", input_distribution: lengths(200), output_distribution: lengths(40) },
    chat: { type: "shareGPT" },
  };
  test.each(["completion", "chat"] as const)("%s", { timeout: timeoutMs + 10_000 }, async (kind) => {
    const folder = join(dir, `inference-perf-${kind}`);
    mkdirSync(folder);
    writeFileSync(join(folder, "talks.json"), JSON.stringify(shareGpt));
    const config = {
      api: { type: kind, streaming: true },
      server: { type: "vllm", model_name: stack.modelName, base_url: stack.baseUrl, ignore_eos: true },
      tokenizer: { pretrained_model_name_or_path: stack.model },
      data: { ...kinds[kind], ...(kind === "chat" && { path: join(folder, "talks.json") }) },
      load: { type: "constant", stages: [{ rate: 2, duration: 6 }], num_workers: 1 },
      storage: { local_storage: { path: join(folder, "reports") } },
    };
    // JSON is YAML.
    writeFileSync(join(folder, "config.yaml"), JSON.stringify(config));
    const main = ["-c", "from inference_perf import main_cli; main_cli()", "-c", join(folder, "config.yaml")];
    await runPython(inferencePerf, main, { timeoutMs });
    const report = json(`inference-perf-${kind}`, "reports", "summary_lifecycle_metrics.json");
    expect(report.failures.count).toBe(0);
    expect(report.successes.count).toBe(12);
    const { latency, output_tokens: output, prompt_tokens: prompt } = report.successes;
    expect(output.min).toBeGreaterThanOrEqual(kind === "chat" ? 10 : 30);
    expect(prompt.total).toBeGreaterThan(12 * 150);
    expectOrder(latency.time_to_first_token.mean, latency.time_per_output_token.mean, latency.request_latency.mean);
    const { reports, global } = json(`inference-perf-${kind}`, "reports", "validation.json");
    for (const { errors } of [global, ...(Object.values(reports) as { errors: unknown[] }[])]) expect(errors).toEqual([]);
  });
});
