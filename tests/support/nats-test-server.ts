// A real nats-server for one test, on a random loopback port, that can be killed and started again on the same port.
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { natsServerBinary } from "../../services/cli/nats-binary.ts";
import { forgetNatsPort, readNatsPort } from "../../services/cli/stack/nats.ts";
import { natsServerConfig, type NatsUser } from "../../services/lib/runtime/nats-permissions.ts";

export interface NatsTestServer {
  url: string;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** After kill(): same port, same users. */
  start(): Promise<void>;
  /** Kills it and removes its files. */
  stop(): Promise<void>;
}

export interface NatsTestOptions {
  /** With users: the product's own configuration for this service. Without: a bare server. */
  users?: NatsUser[];
  service?: string;
  maxPayloadBytes?: number;
}

export async function startNatsTestServer(options: NatsTestOptions = {}): Promise<NatsTestServer> {
  const binary = await natsServerBinary(() => undefined);
  const dir = mkdtempSync(join(tmpdir(), "pelagic-nats-"));
  const configFile = join(dir, "nats.conf");
  const config = options.users
    ? natsServerConfig({ service: options.service ?? "test", host: "127.0.0.1", port: -1, portsFileDir: dir, users: options.users })
    : JSON.stringify({ host: "127.0.0.1", port: -1, ports_file_dir: dir, max_payload: options.maxPayloadBytes ?? 1024 * 1024 });
  writeFileSync(configFile, config, { mode: 0o600 });

  let port: number | undefined;
  let child: ChildProcess | undefined;

  const start = async () => {
    child = spawn(binary, ["-c", configFile, ...(port === undefined ? [] : ["-p", String(port)])], { stdio: "ignore" });
    port = await waitForPort(dir, child);
  };
  const kill = async () => {
    const dying = child;
    if (!dying || dying.exitCode !== null || dying.signalCode !== null) return;
    await new Promise<void>((resolve) => {
      dying.once("exit", () => resolve());
      dying.kill("SIGKILL");
    });
    forgetNatsPort(dir);
  };
  await start();
  return {
    url: `127.0.0.1:${port}`,
    kill,
    start,
    stop: async () => {
      await kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function waitForPort(dir: string, child: ChildProcess): Promise<number> {
  for (let i = 0; i < 500; i++) {
    const port = readNatsPort(dir);
    if (port !== undefined) return port;
    if (child.exitCode !== null) break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  child.kill("SIGKILL");
  throw new Error("nats-server did not start");
}
