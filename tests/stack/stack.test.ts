import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { identifyProcess, isRunning, type ProcessIdentity } from "../../services/cli/stack/process-table.ts";
import { cleanUpLeftovers, listInstances } from "../../services/cli/stack/run-dir.ts";
import { startStack, type Stack, type StackOptions } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { silentLog } from "../../services/lib/contracts/bus.ts";
import { connectBus } from "../../services/lib/runtime/nats-bus.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

const child = inTree("tests", "stack", "child.mjs");
const scripts = { gateway: child, prefill: child, decode: child };

const stacks: Stack[] = [];
afterEach(async () => {
  await Promise.all(stacks.splice(0).map((stack) => stack.stop()));
});

async function start(options: StackOptions = {}): Promise<Stack> {
  const stack = await startStack({ scripts, ...options });
  stacks.push(stack);
  return stack;
}

function identities(stack: Stack): ProcessIdentity[] {
  return stack.processes.map(({ pid }) => identifyProcess(pid as number));
}

describe("a stack", () => {
  it("starts its processes with what they need, private to the user, and leaves nothing when stopped", async () => {
    const stack = await start({ prefill: 1, decode: 2, threads: 1, kvBlocks: 64, env: { PELAGIC_ISA: "scalar" } });
    expect(stack.processes.map(({ name }) => name)).toEqual(["nats", "prefill-0", "decode-0", "decode-1", "gateway-0"]);
    expect(await (await fetch(stack.baseUrl)).text()).toBe(String(stack.processes[4]?.pid));
    const decode = stack.processes[2];
    const env = (await (await fetch(`http://127.0.0.1:${decode?.metricsPort}/env`)).json()) as Record<string, string>;
    expect(env).toMatchObject({
      PELAGIC_WORKER_ID: "decode-0",
      PELAGIC_NATS_URL: stack.natsUrl,
      PELAGIC_MODEL: embeddedModel(),
      PELAGIC_MODEL_NAME: basename(embeddedModel()),
      PELAGIC_THREADS: "1",
      PELAGIC_KV_BLOCKS: "64",
      PELAGIC_ISA: "scalar",
    });
    const runDir = dirname(stack.logsDir);
    expect(statSync(runDir).mode & 0o777).toBe(0o700);
    for (const file of ["instance.json", "nats/nats.conf", "credentials/decode-0.json", "logs/decode-0.log"]) {
      expect(statSync(join(runDir, file)).mode & 0o077, file).toBe(0);
    }
    const running = identities(stack);
    await stack.stop();
    expect(running.filter(isRunning)).toEqual([]);
    expect(existsSync(runDir)).toBe(false);
  });

  it("gives credentials to act on the bus in the place of a gateway", async () => {
    const stack = await start({ gateways: 0 });
    expect(() => stack.baseUrl).toThrow();
    const { user, password, processId } = stack.credentialsFor("gateway");
    const bus = await connectBus({ servers: stack.natsUrl, user, password, name: processId, log: silentLog });
    expect(bus.connected).toBe(true);
    await bus.close();
    const other = await start({ gateways: 0 });
    await expect(connectBus({ servers: other.natsUrl, user, password, name: "x", log: silentLog })).rejects.toThrow(/refuses user/);
  });

  it("starts a killed process again: the gateway and NATS on their old ports", async () => {
    const stack = await start();
    const before = identities(stack);
    const { baseUrl, natsUrl } = stack;
    for (const { kill } of stack.processes) kill("SIGKILL");
    await vi.waitFor(
      async () => {
        expect(await (await fetch(baseUrl)).text()).toBe(String(stack.processes[3]?.pid));
        expect((await fetch(`${stack.adminUrl}/ready`)).status).toBe(200);
      },
      { timeout: 10_000, interval: 100 },
    );
    expect(stack.natsUrl).toBe(natsUrl);
    expect(before.filter(isRunning)).toEqual([]);
    expect(identities(stack).filter(isRunning)).toHaveLength(4);
  });

  it("stops, says why and keeps the logs when a process dies again and again", async () => {
    const stack = await start({ restartPolicy: { deaths: 2, windowMs: 60_000, firstPauseMs: 10, longestPauseMs: 20 } });
    const decode = stack.processes[2];
    const running = identities(stack);
    let failure: Error | undefined;
    void stack.failed.then((error) => {
      failure = error;
    });
    await vi.waitFor(
      () => {
        decode?.kill("SIGKILL");
        expect(failure?.message).toMatch(/^decode-0 killed by SIGKILL again and again/);
      },
      { timeout: 15_000, interval: 100 },
    );
    expect(running.filter(isRunning)).toEqual([]);
    expect(readdirSync(dirname(stack.logsDir))).toEqual(["logs"]);
    rmSync(dirname(stack.logsDir), { recursive: true });
  });

  it.each([
    ["exits", /^(prefill|decode|gateway)-0 exited with 1: process failed: Error: no weights here \(logs: /],
    ["never-ready", /is not ready in time: still thinking \(logs: /],
  ])("fails the start, with everything stopped, when a process %s", async (behaviour, message) => {
    const pids: number[] = [];
    const starting = start({
      env: { PELAGIC_BEHAVIOUR: behaviour },
      readyTimeoutMs: 3_000,
      onEvent: (event) => event.event === "started" && pids.push(event.pid),
    });
    const error = (await starting.catch((thrown: unknown) => thrown)) as Error;
    expect(error.message).toMatch(message);
    expect(pids.length).toBeGreaterThan(1);
    expect(pids.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
    const logs = /\(logs: (.*)\)$/.exec(error.message)?.[1] as string;
    expect(readdirSync(dirname(logs))).toEqual(["logs"]);
    rmSync(dirname(logs), { recursive: true });
  });

  it("says what is wrong before anything starts", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    await expect(start({ port })).rejects.toThrow(/is taken: choose another one with --port/);
    server.close();
    const dir = mkdtempSync(join(tmpdir(), "pelagic-model-"));
    await expect(start({ model: join(dir, "absent") })).rejects.toThrow(/is not a folder/);
    await expect(start({ model: dir })).rejects.toThrow(/has no config.json, no tokenizer.json, no \*.safetensors/);
    for (const name of ["config.json", "tokenizer.json"]) writeFileSync(join(dir, name), "{}");
    await expect(start({ model: dir })).rejects.toThrow(/has no \*.safetensors:/);
    rmSync(dir, { recursive: true });
  });

  it("dies with its owner, even when that is killed, and the next one cleans up", async () => {
    const owner = spawn(process.execPath, [inTree("tests", "stack", "owner.mjs")], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await once(owner.stdout.setEncoding("utf8"), "data")) as [string];
    const { processes, logsDir } = JSON.parse(line) as { processes: { name: string; pid: number }[]; logsDir: string };
    const running = processes.map(({ pid }) => identifyProcess(pid));
    expect(running.filter(isRunning)).toHaveLength(4);
    owner.kill("SIGKILL");
    await once(owner, "exit");
    await vi.waitFor(() => expect(running.filter(isRunning)).toEqual([]));
    const runDir = dirname(logsDir);
    expect(listInstances().some((instance) => instance.runDir === runDir)).toBe(true);
    await cleanUpLeftovers();
    expect(existsSync(runDir)).toBe(false);
  });

  it("logs each process apart", async () => {
    const stack = await start();
    const log = readFileSync(join(stack.logsDir, "nats.log"), "utf8");
    expect(log).toContain("Server is ready");
    expect(log).not.toContain(stack.credentialsFor("decode").password);
  });
});
