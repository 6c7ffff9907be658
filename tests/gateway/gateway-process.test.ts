// The gateway as a process, over a real nats-server with the product's own permissions, with a scripted decode worker at the other end.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import { type Bus, silentLog } from "../../services/lib/contracts/bus.ts";
import { connectBus } from "../../services/lib/runtime/nats-bus.ts";
import { type NatsUser, natsUserName } from "../../services/lib/runtime/nats-permissions.ts";
import { type Announcement, parseAnnouncement } from "../../services/lib/runtime/process.ts";
import { type NatsTestServer, startNatsTestServer } from "../support/nats-test-server.ts";
import { say, waitFor } from "./gateway-under-test.ts";
import { ScriptedDecode, testModelName } from "./scripted-decode.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

const service = "test";
const user = (role: NatsUser["role"], id: string): NatsUser => ({ role, id, user: natsUserName(service, id), password: "secret" });
const users = [user("gateway", "gateway-0"), user("decode", "decode-0")];

let dir: string;
let nats: NatsTestServer;
let bus: Bus;
let decode: ScriptedDecode;
let gateway: ChildProcess;
let ports: Announcement;

async function startGateway(): Promise<void> {
  gateway = spawn(process.execPath, [inTree("dist", "services", "gateway", "main.js")], {
    env: {
      ...process.env,
      PELAGIC_SERVICE: service,
      PELAGIC_NATS_URL: nats.url,
      PELAGIC_NATS_CREDENTIALS_FILE: join(dir, "gateway.json"),
      PELAGIC_GATEWAY_ID: "gateway-0",
      PELAGIC_MODEL: embeddedModel(),
      PELAGIC_MODEL_NAME: testModelName,
      PELAGIC_DRAIN_MS: "5000",
      PELAGIC_LOG_LEVEL: "warn",
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: gateway.stdout as NodeJS.ReadableStream })) {
    const announcement = parseAnnouncement(line);
    if (announcement === undefined) continue;
    ports = announcement;
    break;
  }
  for (let i = 0; (await fetch(url("/ready"))).status !== 200; i++) {
    if (i > 100) throw new Error("the gateway did not become ready");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const url = (path: string) => `http://127.0.0.1:${ports.port}${path}`;
const ask = (more: object = {}, signal?: AbortSignal) =>
  fetch(url("/v1/chat/completions"), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: testModelName, messages: [{ role: "user", content: "hi" }], ...more }),
    signal,
  });

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-gateway-"));
  nats = await startNatsTestServer({ users, service });
  writeFileSync(join(dir, "gateway.json"), JSON.stringify({ user: users[0]?.user, password: "secret" }), { mode: 0o600 });
  bus = await connectBus({ servers: nats.url, user: users[1]?.user, password: "secret", name: "decode-0", log: silentLog });
  decode = new ScriptedDecode({ bus, script: () => say("why</think>\n\n663") });
  await startGateway();
});

afterAll(async () => {
  gateway?.kill("SIGKILL");
  decode?.kill();
  await bus?.close();
  await nats?.stop();
  rmSync(dir, { recursive: true, force: true });
});

describe("the gateway process", () => {
  it("answers, and shows its state and metrics on its own port", async () => {
    const answer = (await (await ask()).json()) as { choices: { message: { content: string } }[] };
    expect(answer.choices[0]?.message.content).toBe("663");
    const admin = `http://127.0.0.1:${ports.metricsPort}`;
    expect(await (await fetch(`${admin}/status`)).json()).toMatchObject({
      gateway: { id: "gateway-0", requests: { running: 0 } },
      workers: [{ workerId: "decode-0", state: "ready", blocks: { total: 100 } }],
    });
    expect(await (await fetch(`${admin}/metrics`)).text()).toContain('pelagic_gateway_requests_total{endpoint="chat",outcome="stop"} 1');
    expect((await fetch(`${admin}/ready`)).status).toBe(200);
    expect((await fetch(url("/metrics"))).status).toBe(404);
  });

  it("answers what is no request in the same envelope", async () => {
    const send = async (text: string) => {
      const socket = connect({ host: "127.0.0.1", port: ports.port as number });
      socket.write(text);
      const chunks: Buffer[] = [];
      for await (const chunk of socket) chunks.push(chunk as Buffer);
      const [head, body] = Buffer.concat(chunks).toString().split("\r\n\r\n") as [string, string];
      return { status: head.split(" ")[1], code: (JSON.parse(body) as { error: { code: string } }).error.code };
    };
    expect(await send("no HTTP\r\n\r\n")).toEqual({ status: "400", code: "invalid_request" });
    expect(await send(`GET / HTTP/1.1\r\nx: ${"y".repeat(40_000)}\r\n\r\n`)).toEqual({ status: "431", code: "request_too_large" });
  });

  it("cancels at decode when the client leaves", async () => {
    decode.script = () => say("a".repeat(2_000), { gapMs: 5 });
    const controller = new AbortController();
    const response = await ask({ stream: true }, controller.signal);
    controller.abort();
    const left = performance.now();
    await waitFor(() => decode.cancelled.length > 0);
    expect(performance.now() - left).toBeLessThan(500);
    await response.text().catch(() => undefined);
  });

  it("loses no request to a NATS that is killed and comes back", async () => {
    decode.script = () => say("a".repeat(300), { gapMs: 10 });
    const requests = Array.from({ length: 4 }, async () => (await ask({ stream: true, thinking: { type: "disabled" } })).text());
    await new Promise((resolve) => setTimeout(resolve, 700));
    await nats.kill();
    await new Promise((resolve) => setTimeout(resolve, 500));
    await nats.start();
    for (const text of await Promise.all(requests)) {
      const content = text
        .split("\n\n")
        .filter((event) => event.startsWith("data: {"))
        .map((event) => (JSON.parse(event.slice(6)) as { choices: { delta: { content?: string } }[] }).choices[0]?.delta.content ?? "")
        .join("");
      expect(content).toBe("a".repeat(300));
      expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    }
  });

  it("does not take workers for lost because it stood still itself", async () => {
    decode.script = () => say("a".repeat(300), { gapMs: 10 });
    const response = await ask({ stream: true });
    gateway.kill("SIGSTOP");
    await new Promise((resolve) => setTimeout(resolve, 4_500));
    gateway.kill("SIGCONT");
    expect(await response.text()).not.toContain('"error"');
  });

  it("finishes what it streams on SIGTERM, and takes nothing new", async () => {
    decode.script = () => say("a".repeat(100), { gapMs: 10 });
    const response = await ask({ stream: true });
    const exited = once(gateway, "exit");
    gateway.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, 200));
    await expect(ask()).rejects.toThrow();
    expect((await response.text()).endsWith("data: [DONE]\n\n")).toBe(true);
    expect(await exited).toEqual([0, null]);
  });

  it("ends a stream that takes too long with a named error", async () => {
    await startGateway();
    decode.script = () => say("a".repeat(4_000), { gapMs: 10 });
    const response = await ask({ stream: true });
    const exited = once(gateway, "exit");
    gateway.kill("SIGTERM");
    const text = await response.text();
    expect(text).toContain('"code":"shutting_down"');
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(await exited).toEqual([0, null]);
    await waitFor(() => decode.attempts.size === 0);
  });
});
