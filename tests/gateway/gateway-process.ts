// The gateway as a process, over a real nats-server with the product's own permissions, with a scripted decode worker at the other end.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { inTree } from "../../services/cli/tree.ts";
import { type Bus, silentLog } from "../../services/lib/contracts/bus.ts";
import { connectBus } from "../../services/lib/runtime/nats-bus.ts";
import { type NatsUser, natsUserName } from "../../services/lib/runtime/nats-permissions.ts";
import { type Announcement, parseAnnouncement } from "../../services/lib/runtime/process.ts";
import { type NatsTestServer, startNatsTestServer } from "../support/nats-test-server.ts";
import { say } from "./gateway-under-test.ts";
import { ScriptedDecode, testModelName } from "./scripted-decode.ts";

const service = "test";
const user = (role: NatsUser["role"], id: string): NatsUser => ({ role, id, user: natsUserName(service, id), password: "secret" });
const users = [user("gateway", "gateway-0"), user("decode", "decode-0")];

export interface Surroundings {
  /** For files of the test's own; gone at the end. */
  dir: string;
  nats: NatsTestServer;
  bus: Bus;
  decode: ScriptedDecode;
  startGateway(env?: Record<string, string>): Promise<GatewayProcess>;
  close(): Promise<void>;
}

export class GatewayProcess {
  readonly child: ChildProcess;
  /** What it logged. */
  log = "";
  private announced: Announcement | null = null;

  constructor(child: ChildProcess) {
    this.child = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.log += text;
    });
  }

  get port(): number | undefined {
    return this.announced?.port;
  }

  get admin(): string {
    return `http://127.0.0.1:${this.announced?.metricsPort}`;
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  ask(more: object = {}, init: { signal?: AbortSignal; headers?: Record<string, string> } = {}): Promise<Response> {
    return fetch(this.url("/v1/chat/completions"), {
      method: "POST",
      headers: { "content-type": "application/json", ...init.headers },
      body: JSON.stringify({ model: testModelName, messages: [{ role: "user", content: "hi" }], ...more }),
      signal: init.signal,
    });
  }

  async ready(): Promise<void> {
    for await (const line of createInterface({ input: this.child.stdout as NodeJS.ReadableStream })) {
      this.announced = parseAnnouncement(line) ?? null;
      if (this.announced !== null) break;
    }
    // It ended: whoever waits hears of that.
    if (this.announced === null) return;
    for (let i = 0; (await fetch(`${this.admin}/ready`)).status !== 200; i++) {
      if (i > 100) throw new Error("the gateway did not become ready");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

export async function startSurroundings(): Promise<Surroundings> {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-gateway-"));
  const nats = await startNatsTestServer({ users, service });
  writeFileSync(join(dir, "gateway.json"), JSON.stringify({ user: users[0]?.user, password: "secret" }), { mode: 0o600 });
  const bus = await connectBus({ servers: nats.url, user: users[1]?.user, password: "secret", name: "decode-0", log: silentLog });
  const decode = new ScriptedDecode({ bus, script: () => say("why</think>\n\n663") });
  const children: ChildProcess[] = [];
  return {
    dir,
    nats,
    bus,
    decode,
    startGateway: async (env = {}) => {
      const child = spawn(process.execPath, [inTree("dist", "services", "gateway", "main.js")], {
        env: {
          ...process.env,
          PELAGIC_SERVICE: service,
          PELAGIC_NATS_URL: nats.url,
          PELAGIC_NATS_CREDENTIALS_FILE: join(dir, "gateway.json"),
          PELAGIC_GATEWAY_ID: "gateway-0",
          PELAGIC_MODEL: `${testModelName}=${embeddedModel()}`,
          PELAGIC_DRAIN_MS: "5000",
          PELAGIC_LOG_LEVEL: "warn",
          PELAGIC_API_KEYS: "",
          ...env,
        },
        stdio: ["ignore", "pipe", "pipe"],
      });
      children.push(child);
      const gateway = new GatewayProcess(child);
      const ended = once(child, "close");
      await gateway.ready();
      if (gateway.port === undefined) throw new Error(`the gateway exited with ${(await ended)[0]}: ${gateway.log}`);
      return gateway;
    },
    close: async () => {
      for (const child of children) child.kill("SIGKILL");
      decode.kill();
      await bus.close();
      await nats.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
