// Streams and their connections, on a real port: silence, leaving, and what Node's server is not asked to do by itself.
import { once } from "node:events";
import type { AddressInfo, Socket } from "node:net";
import { connect } from "node:net";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { afterEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, say, startGatewayUnderTest, waitFor } from "../../tests/gateway/gateway-under-test.ts";
import { PelagicError } from "../lib/contracts/errors.ts";
import { ErrorBody } from "../lib/contracts/http.ts";
import { createHandler } from "./http-app.ts";
import { createHttpServer, type HttpServerOptions } from "./http-server.ts";

let stack: GatewayUnderTest;
afterEach(() => stack.close());

const messages = [{ role: "user" as const, content: "hi" }];
const body = (more: object = {}) => JSON.stringify({ model: "test-model", messages, ...more });
const ask = (more: object = {}) =>
  fetch(`${stack.url}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: body(more) });

describe("a stream in which nothing comes", () => {
  const start = async () => {
    stack = await startGatewayUnderTest({ limits: { keepAliveMs: 20 } });
  };

  /** A published client takes response.created first, or none. */
  async function expectFailedResponse(tokens: number[], texts: string[]): Promise<void> {
    stack.decode.script = () => ({ tokens, error: new PelagicError("internal", "broken"), gapMs: 200 });
    const openai = new OpenAI({ baseURL: `${stack.url}/v1`, apiKey: "none" });
    const types: string[] = [];
    let output: string[] = [];
    for await (const event of openai.responses.stream({ model: "test-model", input: "hi" })) {
      types.push(event.type);
      if (event.type !== "response.failed") continue;
      output = event.response.output.flatMap((item) =>
        item.type === "message" ? item.content.flatMap((part) => (part.type === "output_text" ? [part.text] : [])) : [],
      );
    }
    expect([types[0], types.at(-1)]).toEqual(["response.created", "response.failed"]);
    expect(types.filter((type) => type === "response.created")).toHaveLength(1);
    expect(output).toEqual(texts);
  }

  it("gets comments before its first token and between later ones, whole, and they are no part of it", async () => {
    await start();
    stack.decode.script = () => say("ab</think>c", { gapMs: 150 });
    const response = await ask({ stream: true });
    expect(JSON.parse(response.headers.get("x-pelagic-route") ?? "")).toMatchObject({ decode: "decode-0" });
    const events = (await response.text()).split("\n\n");
    expect(events[0]).toBe(": keep-alive");
    const first = events.findIndex((event) => event.startsWith("data: "));
    expect(events.slice(first).filter((event) => event === ": keep-alive").length).toBeGreaterThan(1);
    expect(events.pop()).toBe("");
    expect(events.at(-1)).toBe("data: [DONE]");
    for (const event of events) expect(event).toMatch(/^(: keep-alive|data: (\{.*\}|\[DONE\]))$/);
    const openai = new OpenAI({ baseURL: `${stack.url}/v1`, apiKey: "none" });
    expect(
      (await openai.chat.completions.stream({ model: "test-model", messages }).finalChatCompletion()).choices[0]?.message.content,
    ).toBe("c");
    const anthropic = new Anthropic({ baseURL: stack.url, apiKey: "none" });
    const message = await anthropic.messages.stream({ model: "test-model", max_tokens: 20, messages }).finalMessage();
    expect(message.content.at(-1)).toMatchObject({ type: "text", text: "abc" });
  });

  it("has no headers while it can still be refused, and ends by an event once it has", async () => {
    await start();
    stack.decode.busy = true;
    const refused = await ask({ stream: true });
    expect([refused.status, refused.headers.get("content-type")]).toEqual([503, "application/json"]);
    stack.decode.busy = false;
    stack.decode.script = () => ({ tokens: [], error: new PelagicError("internal", "broken"), gapMs: 200 });
    const response = await ask({ stream: true });
    expect(response.status).toBe(200);
    const events = (await response.text()).split("\n\n");
    expect(events.slice(-3, -1)).toEqual([expect.stringContaining('"code":"internal"'), "data: [DONE]"]);
    await expectFailedResponse([], []);
    await expectFailedResponse(say("</think>ab", { reason: "length" }).tokens, ["ab"]);
    // Not streamed: nothing goes out before the answer is known.
    expect((await ask({})).status).toBe(500);
  });
});

describe("the server", () => {
  async function serve(more: Partial<HttpServerOptions> = {}) {
    stack = await startGatewayUnderTest();
    const { server, answering, lastAnswers } = createHttpServer(createHandler(stack.gateway), {
      maxConnections: 10,
      headersMs: 200,
      requestMs: 200,
      ...more,
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const sockets: Socket[] = [];
    const open = async () => {
      const socket = connect({ host: "127.0.0.1", port });
      socket.on("error", () => undefined);
      sockets.push(socket);
      await once(socket, "connect");
      return socket;
    };
    const close = async () => {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    };
    return { open, close, answering, lastAnswers };
  }
  /** All that comes until the connection is closed. */
  const rest = async (socket: Socket) => {
    let text = "";
    socket.setEncoding("utf8").on("data", (chunk) => {
      text += chunk;
    });
    if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
    return text;
  };
  const errorIn = (text: string) => {
    const [head, json] = text.split("\r\n\r\n") as [string, string];
    return { status: head.split(" ")[1], ...ErrorBody.parse(JSON.parse(json)).error };
  };
  const head = (length: number) =>
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n`;

  it("that leaves answers whoever asks once more on a connection that lives, and says that it is the last time", async () => {
    const { open, close, lastAnswers } = await serve();
    const socket = await open();
    const asked = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    socket.write(asked);
    const [before] = (await once(socket, "data")) as [Buffer];
    expect(before.toString()).toMatch(/^HTTP\/1.1 200/);
    expect(before.toString()).not.toMatch(/\r\nconnection: close/i);
    lastAnswers();
    const last = rest(socket);
    socket.write(asked);
    expect(await last).toMatch(/^HTTP\/1.1 200.*\r\nconnection: close/is);
    await close();
  });

  it("waits for headers and bodies no longer than it says, and holds nothing of those that do not come", async () => {
    const { open, close } = await serve();
    const [headers, slowBody, silent] = [await open(), await open(), await open()];
    headers.write(head(10));
    slowBody.write(`${head(10)}\r\n{`);
    const answers = await Promise.all([rest(headers), rest(slowBody), rest(silent)]);
    for (const answer of answers) expect(errorIn(answer)).toMatchObject({ status: "408", code: "invalid_request" });
    await waitFor(() => stack.gateway.bodyBudget.usedBytes === 0);
    expect(stack.gateway.admission.running).toBe(0);
    await close();
  });

  it("refuses requests on more connections than it takes, in the envelope and with the time to come back", async () => {
    const { open, close } = await serve({ maxConnections: 2, headersMs: 10_000, requestMs: 10_000 });
    const get = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    const [first, , third] = [await open(), await open(), await open()];
    third.write(get);
    const refused = await rest(third);
    expect(refused).toMatch(/\r\nretry-after: 1\r\n/i);
    expect(errorIn(refused)).toMatchObject({ status: "503", code: "overloaded" });
    first.write(get);
    expect(String((await once(first, "data"))[0])).toContain("200 OK");
    await close();
  });

  it("writes no refusal into an answer that is on its way", async () => {
    const { open, close } = await serve({ headersMs: 10_000, requestMs: 10_000 });
    stack.decode.script = () => say("a".repeat(400), { gapMs: 5 });
    const socket = await open();
    const sent = body({ stream: true });
    const text = rest(socket);
    socket.write(`${head(Buffer.byteLength(sent))}\r\n${sent}`);
    await waitFor(() => stack.decode.dispatches.length === 1);
    await new Promise((resolve) => socket.once("data", resolve));
    socket.write("this is no HTTP\r\n\r\n");
    expect((await text).match(/HTTP\/1\.1/g)).toHaveLength(1);
    // Whoever sends that reads no further: its request ends.
    await waitFor(() => stack.decode.cancelled.length === 1);
    await close();
  });

  it("answers requests that come before their turn in order, and one that leaves takes all of its own with it", async () => {
    const { open, close, answering } = await serve({ headersMs: 10_000, requestMs: 10_000 });
    const sent = body({ stream: true });
    const request = `${head(Buffer.byteLength(sent))}\r\n${sent}`;
    const patient = await open();
    const text = rest(patient);
    patient.write(`${request}${request}GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
    expect((await text).split("HTTP/1.1 200 OK").map((answer) => /\[DONE\]|"pelagic"/.exec(answer)?.[0])).toEqual([
      undefined,
      "[DONE]",
      "[DONE]",
      '"pelagic"',
    ]);
    // Longer than what is kept for a reader.
    stack.decode.script = () => say("a".repeat(4_000), { tokensPerDelta: 40, gapMs: 5 });
    const leaving = await open();
    leaving.write(request.repeat(3));
    await once(leaving, "data");
    leaving.destroy();
    await waitFor(() => answering() === 0 && stack.gateway.admission.running === 0 && stack.gateway.bodyBudget.usedBytes === 0);
    await waitFor(() => stack.gateway.client.running === 0);
    await close();
  });
});
