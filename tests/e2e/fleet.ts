// Gateways and workers as processes of a test's own over a real nats-server, started and stopped one by one, as a cluster would.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { inTree } from "../../services/cli/tree.ts";
import { type NatsUser, natsUserName } from "../../services/lib/runtime/nats-permissions.ts";
import { type Announcement, parseAnnouncement } from "../../services/lib/runtime/process.ts";
import { type NatsTestServer, startNatsTestServer } from "../support/nats-test-server.ts";

export const fleetService = "fleet";
const startMs = 60_000;
type Role = "gateway" | "prefill" | "decode";

export class FleetProcess {
  readonly id: string;
  /** What it logged. */
  log = "";
  private readonly child: ChildProcess;
  private announced: Announcement | undefined;
  readonly ended: Promise<number | null>;

  constructor(id: string, child: ChildProcess) {
    this.id = id;
    this.child = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.log += text;
    });
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on("line", (line) => {
      this.announced ??= parseAnnouncement(line);
    });
    this.ended = new Promise((resolve) => child.once("close", (code) => resolve(code)));
  }

  get admin(): string {
    return `http://127.0.0.1:${this.announced?.metricsPort}`;
  }

  get url(): string {
    return `http://127.0.0.1:${this.announced?.port}`;
  }

  /** Until /ready says so. */
  async ready(): Promise<this> {
    const until = performance.now() + startMs;
    while (performance.now() < until) {
      if (this.child.exitCode !== null) throw new Error(`${this.id} exited with ${this.child.exitCode}: ${this.log}`);
      const status =
        this.announced === undefined
          ? 0
          : await fetch(`${this.admin}/ready`).then(
              (answer) => answer.status,
              () => 0,
            );
      if (status === 200) return this;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${this.id} is not ready: ${this.log}`);
  }

  /** SIGTERM, and its end. */
  async stop(): Promise<void> {
    this.child.kill("SIGTERM");
    await this.ended;
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
  }
}

export class Fleet {
  readonly nats: NatsTestServer;
  readonly dir = mkdtempSync(join(tmpdir(), "pelagic-fleet-"));
  private readonly processes: FleetProcess[] = [];

  private constructor(nats: NatsTestServer) {
    this.nats = nats;
  }

  static async start(): Promise<Fleet> {
    // A user for each role, as in a cluster.
    const users = (["gateway", "prefill", "decode"] as const).map(
      (role): NatsUser => ({ role, user: natsUserName(fleetService, role), password: "secret" }),
    );
    const fleet = new Fleet(await startNatsTestServer({ users, service: fleetService }));
    for (const { role, user, password } of users)
      writeFileSync(join(fleet.dir, `${role}.json`), JSON.stringify({ user, password }), { mode: 0o600 });
    return fleet;
  }

  gateway(id: string, env: Record<string, string> = {}): FleetProcess {
    return this.process(id, "gateway", { PELAGIC_GATEWAY_ID: id, PELAGIC_MODEL: "", PELAGIC_API_KEYS: "", ...env });
  }

  worker(id: string, role: "prefill" | "decode", model: { folder: string; name: string }): FleetProcess {
    return this.process(id, role, {
      PELAGIC_WORKER_ID: id,
      PELAGIC_MODEL: model.folder,
      PELAGIC_MODEL_NAME: model.name,
      PELAGIC_THREADS: "1",
      PELAGIC_KV_BLOCKS: "256",
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.processes.map((one) => one.kill()));
    await this.nats.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }

  private process(id: string, role: Role, env: Record<string, string>): FleetProcess {
    const child = spawn(process.execPath, [inTree("dist", "services", role, "main.js")], {
      env: {
        ...process.env,
        PELAGIC_SERVICE: fleetService,
        PELAGIC_NATS_URL: this.nats.url,
        PELAGIC_NATS_CREDENTIALS_FILE: join(this.dir, `${role}.json`),
        PELAGIC_METRICS_HOST: "127.0.0.1",
        PELAGIC_DRAIN_MS: "20000",
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const one = new FleetProcess(id, child);
    this.processes.push(one);
    return one;
  }
}
