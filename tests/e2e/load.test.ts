// ./pelagic load against a stack of real processes.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 1 });
}, 120_000);
afterAll(() => stack?.stop());

const load = (...args: string[]) => promisify(execFile)(process.execPath, [inTree("dist", "services", "cli", "main.js"), "load", ...args]);

/** A busy machine may make the generator late: with so much time asked for, that is no reason to refuse. */
const lenient = ["--slo-ttft", "1000"];

test("load: every request of the wanted lengths is answered, and the report is written", async () => {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-load-"));
  const [out, html] = [join(dir, "report.json"), join(dir, "report.html")];
  const shape = ["--clients", "3", "--requests", "9", "--prompt-tokens", "150", "--output-tokens", "12", "--turns", "2", "--think", "0"];
  const { stdout } = await load("--base-url", `${stack.baseUrl}/v1`, ...shape, ...lenient, "--json", "--out", out, "--html", html);
  const report = JSON.parse(stdout);
  expect(report.summary).toMatchObject({ offered: 18, byOutcome: { ok: 18 }, goodput: { good: 18, attains99: true } });
  const { records } = JSON.parse(readFileSync(out, "utf8"));
  for (const { promptTokens, outputTokens, turn } of records) {
    expect(outputTokens).toBe(12);
    expect(promptTokens).toBeGreaterThan(turn === 0 ? 145 : 295);
  }
  // What the first turn left in the cache.
  expect(report.summary.cachedPromptShare).toBeGreaterThan(0.2);
  expect(readFileSync(html, "utf8")).toContain("<svg");
  expect((await load("--compare", out, out)).stdout).toContain("output tokens/s");
}, 90_000);

test("load: a trace is sent whole unless so many of it are asked for, and how many are sent is said", async () => {
  const trace = join(mkdtempSync(join(tmpdir(), "pelagic-trace-")), "trace.jsonl");
  const lines = Array.from({ length: 130 }, (_, i) => JSON.stringify({ timestamp: 5 * i, input_length: 20, output_length: 1 }));
  writeFileSync(trace, lines.join("\n"));
  const replay = (...more: string[]) => load("--base-url", `${stack.baseUrl}/v1`, "--trace", trace, ...lenient, "--json", ...more);
  const whole = await replay();
  expect(JSON.parse(whole.stdout).summary.offered).toBe(130);
  expect(whole.stderr).toContain("130 of the trace's 130 requests");
  const some = await replay("--requests", "3");
  expect(JSON.parse(some.stdout).summary.offered).toBe(3);
  expect(some.stderr).toContain("3 of the trace's 130 requests");
});

test("load: what is asked of time is told to the gateway, which counts it", async () => {
  const told = ["--slo-ttft", "1000", "--slo-tpot", "0.0007", "--slo-headers"];
  await load("--base-url", `${stack.baseUrl}/v1`, "--clients", "1", "--requests", "2", "--output-tokens", "4", ...told);
  const port = stack.processes.find(({ name }) => name === "gateway-0")?.metricsPort;
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(metrics).toMatch(/pelagic_gateway_slo_total\{slo="ttft",outcome="attained",priority="normal",model_name="[^"]+"\} [1-9]/);
  expect(metrics).toMatch(/pelagic_gateway_slo_total\{slo="tpot",/);
}, 60_000);

test("load: a server that is not there, and one without the model, are errors that say so", async () => {
  await expect(load("--base-url", "http://127.0.0.1:9/v1")).rejects.toThrow("lists no models");
  await expect(load("--base-url", `${stack.baseUrl}/v1`, "--model", "nobody")).rejects.toThrow("does not serve nobody");
});
