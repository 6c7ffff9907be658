// The commands over the real product: up, status, ask and down with the embedded model, in the background and in the foreground.
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { identifyProcess, isRunning } from "../../services/cli/stack/process-table.ts";
import { listInstances } from "../../services/cli/stack/run-dir.ts";
import { inTree } from "../../services/cli/tree.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

const main = inTree("dist", "services", "cli", "main.js");
const question = "What is 127 + 536?";
const boundMs = 120_000;

interface UpReport {
  address: string;
  adminAddress: string;
  answer: string;
  ttftSeconds: number;
  right: boolean;
  logs: string;
}

const ports: number[] = [];
const foreground: ChildProcess[] = [];
afterEach(() => {
  for (const child of foreground.splice(0)) child.kill("SIGKILL");
  // Where a test failed half way; fails itself where all is down already.
  for (const port of ports.splice(0)) pelagic("down", "--port", String(port));
});

function pelagic(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8", timeout: boundMs });
  return { code: status, stdout, stderr };
}

function upDetached(): UpReport & { port: number } {
  const { code, stdout, stderr } = pelagic("up", "--port", "0", "--detach", "--json");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const report = JSON.parse(stdout.trim().split("\n").at(-1) as string) as UpReport;
  const port = Number(new URL(report.address).port);
  ports.push(port);
  return { ...report, port };
}

function processesOn(port: number) {
  const instance = listInstances().find((one) => one.port === port);
  if (!instance) throw new Error(`no instance on port ${port}`);
  return { runDir: instance.runDir, supervisor: instance.supervisor, all: [instance.supervisor, ...instance.processes] };
}

describe("the commands", () => {
  it("two instances run side by side, answer, show themselves, and stop without a trace", { timeout: boundMs }, () => {
    const [first, second] = [upDetached(), upDetached()];
    expect(first.answer).toContain("663");
    expect(first.right).toBe(true);
    expect(first.ttftSeconds).toBeGreaterThan(0);
    expect(second.port).not.toBe(first.port);

    const status = JSON.parse(pelagic("status", "--port", String(first.port), "--json").stdout) as {
      workers: { workerId: string; state: string; blocks: { total: number } }[];
    };
    expect(status.workers.map(({ workerId, state }) => [workerId, state]).sort()).toEqual([
      ["decode-0", "ready"],
      ["prefill-0", "ready"],
    ]);
    expect(status.workers[0]?.blocks.total).toBeGreaterThan(0);
    expect(pelagic("status", "--port", String(first.port)).stdout).toMatch(/decode-0\s+decode\s+ready/);
    expect(pelagic("status").stderr).toMatch(/several instances run here/);

    const keysFile = join(mkdtempSync(join(tmpdir(), "pelagic-")), "keys.json");
    const made = (name: string, model: string) => pelagic("keys", "create", name, "--file", keysFile, "--model", model);
    const mistyped = made("alice", "planktn");
    expect(mistyped).toMatchObject({ code: 0, stdout: expect.stringMatching(/^sk-pelagic-/) as string });
    expect(mistyped.stderr).toContain("warning: --model planktn: what runs here serves plankton\n");
    expect(made("bob", "plankton").stderr).not.toContain("warning");
    rmSync(dirname(keysFile), { recursive: true });

    const asked = JSON.parse(pelagic("ask", question, "--port", String(first.port), "--json").stdout) as Record<string, unknown>;
    expect(asked).toMatchObject({ question, finishReason: "stop" });
    expect(asked.content).toContain("663");
    expect(asked.reasoning).not.toBe("");
    const plain = pelagic("ask", question, "--port", String(second.port), "--no-think");
    expect(plain.code).toBe(0);
    expect(plain.stdout).not.toContain("\u001b");

    for (const { port } of [first, second]) {
      const { runDir, all } = processesOn(port);
      expect(all.filter(isRunning)).toHaveLength(5);
      expect(pelagic("down", "--port", String(port)).code).toBe(0);
      expect(all.filter(isRunning)).toEqual([]);
      expect(existsSync(runDir)).toBe(false);
    }
  });

  it("down cleans up after a supervisor that was killed", { timeout: boundMs }, () => {
    const { port } = upDetached();
    const { runDir, supervisor, all } = processesOn(port);
    process.kill(supervisor.pid, "SIGKILL");
    expect(pelagic("down", "--port", String(port)).code).toBe(0);
    expect(all.filter(isRunning)).toEqual([]);
    expect(existsSync(runDir)).toBe(false);
  });

  it("Ctrl-C stops a foreground instance in order and leaves nothing", { timeout: boundMs }, async () => {
    const child = spawn(process.execPath, [main, "up", "--port", "0"], { stdio: ["ignore", "pipe", "pipe"] });
    foreground.push(child);
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => (output += chunk));
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => (output += chunk));
    await vi.waitFor(() => expect(output + (child.exitCode ?? "")).toContain("Ctrl-C stops it."), { timeout: boundMs / 2 });
    expect(output).toMatch(/663 {3}\(first token after \d/);
    const logs = /logs +(\S+)/.exec(output)?.[1] as string;
    const curl = /try +(curl .*)/.exec(output)?.[1] as string;
    expect(spawnSync("bash", ["-c", `${curl} --silent --max-time 60`], { encoding: "utf8" }).stdout).toContain("[DONE]");
    const port = Number(/address +http:\/\/127\.0\.0\.1:(\d+)/.exec(output)?.[1]);
    const { all } = processesOn(port);
    child.kill("SIGINT");
    const [code] = await once(child, "exit");
    expect(code).toBe(0);
    expect(all.filter(isRunning)).toEqual([]);
    expect(existsSync(dirname(logs))).toBe(false);
  });

  it("ask starts a private stack where nothing runs, and stops it", { timeout: boundMs }, () => {
    const before = listInstances().map(({ runDir }) => runDir);
    const { code, stdout } = pelagic("ask", question, "--json", "--model", embeddedModel());
    expect(code).toBe(0);
    expect((JSON.parse(stdout) as { content: string }).content).toContain("663");
    expect(listInstances().filter(({ runDir, supervisor }) => !before.includes(runDir) && !isRunning(supervisor))).toEqual([]);
    expect(isRunning(identifyProcess(process.pid))).toBe(true);
  });
});
