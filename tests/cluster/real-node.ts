// The machine's one real node, as ./pelagic cluster starts it, for tests.
import { spawnSync } from "node:child_process";
import { afterAll, describe, expect } from "vitest";
import { askQuestion } from "../../services/cli/chat-client.ts";
import { missingBinaries } from "../../services/cli/cluster/binaries.ts";
import { readInstance, stateOf } from "../../services/cli/cluster/instance.ts";
import { machineFacts, whyNoCluster } from "../../services/cli/cluster/machine.ts";
import { asAdmin, kubectl } from "../../services/cli/cluster/start.ts";
import { runCommand } from "../../services/cli/run-command.ts";
import { inTree } from "../../services/cli/tree.ts";

/** With Kubernetes and the images to be built, on two busy cores. */
export const upMs = 3_600_000;
export const stepMs = 300_000;
const cli = [inTree("dist", "services", "cli", "main.js"), "cluster"];

const whyNot = await whyNoNode();

/** Tests that build on each other, on a machine that no node runs on: one that they start ends with them. Where none can run, skipped with the reasons in the name. */
export function describeOnMachine(what: string, tests: () => void): void {
  describe.skipIf(whyNot.length > 0)(`${what}${whyNot.length > 0 ? ` (skipped: ${whyNot.join("; ")})` : ""}`, () => {
    afterAll(clusterDown, stepMs);
    tests();
  });
}

/** Each reason why no test may start a node here. */
async function whyNoNode(): Promise<string[]> {
  const whyNot = whyNoCluster(await machineFacts(missingBinaries().map(({ name }) => name)));
  // One that somebody uses is not ours to end.
  if (stateOf(readInstance()) === "running") whyNot.push("a node runs already: ./pelagic cluster down ends it");
  return whyNot;
}

export async function cluster(...command: string[]): Promise<Record<string, unknown>> {
  const result = await runCommand(process.execPath, [...cli, ...command, "--json"], { timeoutMs: upMs });
  expect(result.exitCode, result.stderr).toBe(0);
  return JSON.parse(result.stdout.trim().split("\n").at(-1) as string) as Record<string, unknown>;
}

/** Whatever comes of it. */
async function clusterDown(): Promise<void> {
  await runCommand(process.execPath, [...cli, "down"], { timeoutMs: stepMs });
}

export async function kube(...args: string[]): Promise<string> {
  const result = await runCommand(kubectl(), [...asAdmin, ...args], { timeoutMs: stepMs });
  expect(result.exitCode, `kubectl ${args.join(" ")}: ${result.stderr}`).toBe(0);
  return result.stdout;
}

export function applyObjects(objects: object[]): void {
  const input = JSON.stringify({ apiVersion: "v1", kind: "List", items: objects });
  const applied = spawnSync(kubectl(), [...asAdmin, "apply", "-f", "-"], { input, encoding: "utf8", timeout: stepMs });
  expect(applied.status, applied.stderr).toBe(0);
}

/** What the embedded model says through a Service on that address: the sum is 663. */
export async function askSum(address: string, timeoutMs: number, model = "plankton"): Promise<string> {
  const answer = await askQuestion({
    baseUrl: `http://${address}:8000`,
    apiKey: undefined,
    model,
    text: "What is 127 + 536?",
    thinking: true,
    temperature: 0,
    maxTokens: 512,
    signal: AbortSignal.timeout(timeoutMs),
  });
  return answer.content;
}
