// ./pelagic load against a stack of real processes.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
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

test("load: every request of the wanted lengths is answered, and the report is written", async () => {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-load-"));
  const [out, html] = [join(dir, "report.json"), join(dir, "report.html")];
  const shape = ["--clients", "3", "--requests", "9", "--prompt-tokens", "150", "--output-tokens", "12", "--turns", "2", "--think", "0"];
  const { stdout } = await load("--base-url", `${stack.baseUrl}/v1`, ...shape, "--json", "--out", out, "--html", html);
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

test("load: what is asked of time is told to the gateway, which counts it", async () => {
  const told = ["--slo-ttft", "1000", "--slo-tpot", "0.0007", "--slo-headers"];
  await load("--base-url", `${stack.baseUrl}/v1`, "--clients", "1", "--requests", "2", "--output-tokens", "4", ...told);
  const port = stack.processes.find(({ name }) => name === "gateway-0")?.metricsPort;
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(metrics).toMatch(/pelagic_gateway_slo_total\{slo="ttft",outcome="attained",priority="normal"\} \d/);
  expect(metrics).toMatch(/pelagic_gateway_slo_total\{slo="tpot",/);
}, 60_000);

test("load: a server that is not there, and one without the model, are errors that say so", async () => {
  await expect(load("--base-url", "http://127.0.0.1:9/v1")).rejects.toThrow("lists no models");
  await expect(load("--base-url", `${stack.baseUrl}/v1`, "--model", "nobody")).rejects.toThrow("does not serve nobody");
});
