// The bench's set: a private nats-server with the product's configuration, and two peers.
import { type ChildProcess, fork, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { randomId } from "../../lib/contracts/bus.ts";
import { natsServerConfig } from "../../lib/runtime/nats-permissions.ts";
import { CliError } from "../cli-error.ts";
import { natsServerBinary } from "../nats-binary.ts";
import { readNatsPort } from "../stack/nats.ts";
import { inTree } from "../tree.ts";
import { writeCheckpoint } from "./checkpoint.ts";
import { benchService, type Job, type PeerOrder, type PeerReport, receiverId, senderId } from "./jobs.ts";

export interface PairOptions {
  rowBytes: number;
  layers: number;
  kvBlocks: number;
}

export interface Pair {
  readonly pids: { sender: number; receiver: number; server: number };
  run(job: Omit<Job, "id">): Promise<{ seconds: number; bytes: number; credits: number }>;
  /** Whether the receiver's cache holds what the sender's does. */
  cachesEqual(): Promise<boolean>;
  close(): Promise<void>;
}

const reportTimeoutMs = 120_000;
const stopBoundMs = 3_000;

export async function openPair(options: PairOptions): Promise<Pair> {
  const binary = await natsServerBinary(() => undefined);
  const dir = mkdtempSync(join(tmpdir(), "pelagic-bench-"));
  const children: ChildProcess[] = [];
  const close = async () => {
    await Promise.all(children.map(stopChild));
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    writeCheckpoint(dir, options.rowBytes, options.layers, options.kvBlocks * 64);
    const users = (
      [
        ["prefill", senderId],
        ["decode", receiverId],
      ] as const
    ).map(([role, id]) => ({ role, id, user: `bench_${id}`, password: randomId(16) }));
    const configFile = join(dir, "nats.conf");
    const config = natsServerConfig({ service: benchService, host: "127.0.0.1", port: -1, portsFileDir: dir, users });
    writeFileSync(configFile, config, { mode: 0o600 });
    const server = spawn(binary, ["-c", configFile], { stdio: "ignore" });
    children.push(server);
    const natsUrl = `127.0.0.1:${await portOf(dir, server)}`;
    const [sender, receiver] = users.map(({ role, user, password }) => {
      const child = fork(inTree("dist", "services", "cli", "bench-kv", "peer.js"), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
      children.push(child);
      const peer = new PeerProcess(child);
      peer.tell({
        order: "setup",
        setup: { role, natsUrl, user, password, modelDir: dir, kvBlocks: options.kvBlocks, fill: role === "prefill" ? 1 : 2 },
      });
      return peer;
    }) as [PeerProcess, PeerProcess];
    await Promise.all([sender.hear("ready"), receiver.hear("ready")]);
    return {
      pids: { sender: sender.pid, receiver: receiver.pid, server: server.pid ?? 0 },
      close,
      async run(job) {
        const order: PeerOrder = { order: "prepare", job: { ...job, id: randomId(16) } };
        for (const peer of [sender, receiver]) peer.tell(order);
        await Promise.all([sender.hear("prepared"), receiver.hear("prepared")]);
        receiver.tell({ order: "begin" });
        return receiver.hear("done");
      },
      async cachesEqual() {
        for (const peer of [sender, receiver]) peer.tell({ order: "digest" });
        const [a, b] = await Promise.all([sender.hear("digest"), receiver.hear("digest")]);
        return a.digest === b.digest;
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

class PeerProcess {
  readonly pid: number;
  private readonly child: ChildProcess;

  constructor(child: ChildProcess) {
    this.child = child;
    this.pid = child.pid ?? 0;
  }

  tell(order: PeerOrder): void {
    this.child.send(order);
  }

  hear<K extends PeerReport["report"]>(kind: K): Promise<Extract<PeerReport, { report: K }>> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        clearTimeout(timer);
        this.child.off("message", onMessage).off("exit", onExit);
        act();
      };
      const onMessage = (report: PeerReport) => {
        if (report.report === "failed") settle(() => reject(new CliError(`the bench's process failed: ${report.reason}`)));
        else if (report.report === kind) settle(() => resolve(report as Extract<PeerReport, { report: K }>));
      };
      const onExit = () => settle(() => reject(new CliError("one of the bench's processes died")));
      const timer = setTimeout(
        () => settle(() => reject(new CliError(`the bench waited ${reportTimeoutMs} ms for '${kind}'`))),
        reportTimeoutMs,
      );
      this.child.on("message", onMessage).on("exit", onExit);
    });
  }
}

/** A peer ends when it is told to, and so writes the profile that it may have been started for (node --cpu-prof dist/services/cli/main.js ...). */
async function stopChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  if (child.connected) child.send({ order: "quit" } satisfies PeerOrder);
  else child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), stopBoundMs);
  await gone;
  clearTimeout(timer);
}

async function portOf(dir: string, server: ChildProcess): Promise<number> {
  for (let i = 0; i < 500; i++) {
    const port = readNatsPort(dir);
    if (port !== undefined) return port;
    if (server.exitCode !== null) break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new CliError("nats-server did not start");
}
