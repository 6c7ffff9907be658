import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { NatsTestServer } from "../support/nats-test-server.ts";
import { type GatewayProcess, startSurroundings, type Surroundings } from "./gateway-process.ts";
import { say, waitFor } from "./gateway-under-test.ts";
import type { ScriptedDecode } from "./scripted-decode.ts";

/** Against hanging, not against slowness. */
const hangMs = 60_000;

let surroundings: Surroundings;
let nats: NatsTestServer;
let decode: ScriptedDecode;
let gateway: GatewayProcess;
const ask: GatewayProcess["ask"] = (more, init) => gateway.ask(more, init);

beforeAll(async () => {
  surroundings = await startSurroundings();
  ({ nats, decode } = surroundings);
  gateway = await surroundings.startGateway();
});
afterAll(() => surroundings?.close());

describe("the gateway process", () => {
  it("answers, and shows its state and metrics on its own port", async () => {
    const answer = (await (await ask()).json()) as { choices: { message: { content: string } }[] };
    expect(answer.choices[0]?.message.content).toBe("663");
    const { admin } = gateway;
    expect(await (await fetch(`${admin}/status`)).json()).toMatchObject({
      gateway: { id: "gateway-0", requests: { running: 0 } },
      workers: [{ workerId: "decode-0", state: "ready", blocks: { total: 100 } }],
    });
    expect(await (await fetch(`${admin}/metrics`)).text()).toContain(
      'pelagic_gateway_requests_total{endpoint="chat",outcome="stop",model_name="test-model"} 1',
    );
    expect((await fetch(`${admin}/ready`)).status).toBe(200);
    // Where users are, the load of the pool, for an endpoint picker, and nothing more.
    const seen = await (await fetch(gateway.url("/metrics"))).text();
    expect(seen).toContain("vllm:num_requests_waiting{");
    expect(seen).not.toMatch(/pelagic_|gen_ai_|nodejs_|process_/);
  });

  it("answers what is no request in the same envelope", async () => {
    const send = async (text: string) => {
      const socket = connect({ host: "127.0.0.1", port: gateway.port as number });
      socket.write(text);
      const chunks: Buffer[] = [];
      for await (const chunk of socket) chunks.push(chunk as Buffer);
      const [head, body] = Buffer.concat(chunks).toString().split("\r\n\r\n") as [string, string];
      return { status: head.split(" ")[1], code: (JSON.parse(body) as { error: { code: string } }).error.code };
    };
    expect(await send("no HTTP\r\n\r\n")).toEqual({ status: "400", code: "invalid_request" });
    expect(await send(`GET / HTTP/1.1\r\nx: ${"y".repeat(40_000)}\r\n\r\n`)).toEqual({ status: "431", code: "request_too_large" });
  });

  it.each([true, false])("cancels at decode once when the client leaves (streamed: %s)", async (stream) => {
    // No end but the cancellation's.
    decode.script = () => say("a".repeat(10), { hangAfter: 2 });
    const [cancelled, dispatched] = [decode.cancelled.length, decode.dispatches.length];
    const counted = async () => {
      const metrics = await (await fetch(`${gateway.admin}/metrics`)).text();
      return Number(/^pelagic_gateway_requests_total\{endpoint="chat",outcome="cancelled",.*\} (\d+)$/m.exec(metrics)?.[1] ?? 0);
    };
    const before = await counted();
    const controller = new AbortController();
    const answer = ask({ stream }, { signal: controller.signal }).then((response) => response.text());
    answer.catch(() => undefined);
    // Its own: ends of earlier ones may still be to be acknowledged.
    await waitFor(() => decode.dispatches.length > dispatched, hangMs);
    const attemptId = decode.dispatches.at(-1)?.body.attemptId ?? "";
    controller.abort();
    await expect(answer).rejects.toThrow();
    await waitFor(() => !decode.attempts.has(attemptId), hangMs);
    // Whatever is asked later comes to decode behind anything that is still on its way.
    decode.script = () => say("663");
    expect((await ask()).status).toBe(200);
    // The same one again is a question that was not answered in time.
    expect(new Set(decode.cancelled.slice(cancelled))).toEqual(new Set([attemptId]));
    expect(decode.dispatches.length - dispatched).toBe(2);
    expect((await counted()) - before).toBe(1);
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
    gateway.child.kill("SIGSTOP");
    await new Promise((resolve) => setTimeout(resolve, 4_500));
    gateway.child.kill("SIGCONT");
    expect(await response.text()).not.toContain('"error"');
  });

  it("finishes what it streams on SIGTERM, and takes nothing new", async () => {
    decode.script = () => say("a".repeat(100), { gapMs: 10 });
    const response = await ask({ stream: true });
    const exited = once(gateway.child, "exit");
    gateway.child.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, 200));
    await expect(ask()).rejects.toThrow();
    expect((await response.text()).endsWith("data: [DONE]\n\n")).toBe(true);
    expect(await exited).toEqual([0, null]);
  });

  it("tells who is still sending a body on SIGTERM to come back", async () => {
    gateway = await surroundings.startGateway();
    const exited = once(gateway.child, "exit");
    const body = JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }] });
    const socket = connect({ host: "127.0.0.1", port: gateway.port as number });
    const head = `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n`;
    socket.write(`${head}expect: 100-continue\r\n\r\n`);
    expect(String((await once(socket, "data"))[0])).toContain("100 Continue");
    socket.write(body.slice(0, 10));
    gateway.child.kill("SIGTERM");
    const listens = () =>
      new Promise<boolean>((resolve) => {
        const other = connect({ host: "127.0.0.1", port: gateway.port as number });
        other.on("error", () => resolve(false)).on("connect", () => resolve(other.destroy() !== null));
      });
    while (await listens()) await new Promise((resolve) => setTimeout(resolve, 20));
    await new Promise((resolve) => setTimeout(resolve, 200));
    socket.write(body.slice(10));
    const answer = String((await once(socket, "data"))[0]);
    expect(answer).toMatch(/^HTTP\/1.1 503 /);
    expect(answer).toContain('"code":"shutting_down"');
    expect(await exited).toEqual([0, null]);
    socket.destroy();
  });

  it("ends a stream that takes too long with a named error", async () => {
    gateway = await surroundings.startGateway();
    decode.script = () => say("a".repeat(4_000), { gapMs: 10 });
    const response = await ask({ stream: true });
    const exited = once(gateway.child, "exit");
    gateway.child.kill("SIGTERM");
    const text = await response.text();
    expect(text).toContain('"code":"shutting_down"');
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(await exited).toEqual([0, null]);
    await waitFor(() => decode.attempts.size === 0);
  });
});
