// The gateway's app on a real port, with keys.
import { request } from "node:http";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { type GatewayUnderTest, say, startGatewayUnderTest, waitFor } from "../../../tests/gateway/gateway-under-test.ts";
import { ErrorBody } from "../../lib/contracts/http.ts";
import { createKey, hashKey, KeyRing, parseKeysFile } from "./api-keys.ts";

let stack: GatewayUnderTest;
beforeEach(async () => {
  stack = await startGatewayUnderTest();
});
afterEach(() => stack.close());

/** Keys by name, with what the file says of each. */
function useKeys<N extends string>(entries: Record<N, object>): Record<N, string> {
  const keys = Object.fromEntries(Object.keys(entries).map((name) => [name, createKey()])) as Record<N, string>;
  const file = { keys: (Object.entries(entries) as [N, object][]).map(([name, more]) => ({ name, sha256: hashKey(keys[name]), ...more })) };
  stack.gateway.callers.use(new KeyRing(parseKeysFile(JSON.stringify(file))));
  return keys;
}

const bearer = (key: string) => ({ authorization: `Bearer ${key}` });
const ask = (headers: Record<string, string>, more: object = {}, signal?: AbortSignal) =>
  fetch(`${stack.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }], ...more }),
    ...(signal && { signal }),
  });
const errorOf = async (response: Response) => ({ status: response.status, ...ErrorBody.parse(await response.json()).error });

describe("without keys, on the loopback", () => {
  /** fetch chooses the header host itself. */
  const statusFor = (headers: Record<string, string>) =>
    new Promise<number | undefined>((resolve, reject) => {
      const body = JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }] });
      const all = { "content-type": "application/json", ...headers };
      const asked = request(`${stack.url}/v1/chat/completions`, { method: "POST", headers: all }, (response) => {
        response.resume().on("end", () => resolve(response.statusCode));
      });
      asked.on("error", reject).end(body);
    });

  it("a page whose name was made to mean this machine may not ask; this machine's own pages and programs may", async () => {
    expect(await statusFor({ host: "evil.example:8000", origin: "http://evil.example:8000" })).toBe(401);
    expect(await statusFor({ host: "127.0.0.1.evil.example", origin: "http://127.0.0.1.evil.example" })).toBe(401);
    for (const host of ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "app.localhost"]) {
      expect(await statusFor({ host }), host).toBe(200);
      expect(await statusFor({ host, origin: `http://${host}` }), host).toBe(200);
    }
    // A program, or a proxy that hands on the name by which it was asked.
    expect(await statusFor({ host: "models.example" })).toBe(200);
    const { alice } = useKeys({ alice: {} });
    expect(await statusFor({ host: "models.example", origin: "http://models.example", ...bearer(alice) })).toBe(200);
  });
});

describe("with a keys file", () => {
  it("everything but /health wants a key, by either header", async () => {
    const { alice } = useKeys({ alice: {} });
    for (const headers of [
      {},
      bearer("sk-other"),
      { authorization: `Basic ${alice}` },
      { "x-api-key": "" },
      { "x-api-key": `${alice}x` },
    ]) {
      const refused = await ask(headers as Record<string, string>);
      expect(refused.headers.get("www-authenticate")).toBe("Bearer");
      expect(await errorOf(refused)).toMatchObject({ status: 401, code: "invalid_api_key" });
    }
    expect(stack.decode.dispatches).toHaveLength(0);
    for (const path of ["/v1/models", "/models/test-model", "/ready", "/version", "/openapi.json", "/nothing", "/tokenize"]) {
      expect((await fetch(stack.url + path)).status).toBe(401);
    }
    expect((await fetch(`${stack.url}/health`)).status).toBe(200);
    for (const headers of [bearer(alice), { authorization: `bearer  ${alice}` }, { "x-api-key": alice }]) {
      expect((await ask(headers)).status).toBe(200);
    }
    await expect(new OpenAI({ baseURL: `${stack.url}/v1`, apiKey: "sk-none" }).models.list()).rejects.toMatchObject({
      status: 401,
      code: "invalid_api_key",
    });
    // Anthropic's client sends x-api-key, and reads its own envelope.
    const message = { model: "test-model", max_tokens: 20, messages: [{ role: "user" as const, content: "hi" }] };
    expect(await new Anthropic({ baseURL: stack.url, apiKey: alice }).messages.create(message)).toMatchObject({ role: "assistant" });
    await expect(new Anthropic({ baseURL: stack.url, apiKey: "none" }).messages.create(message)).rejects.toMatchObject({
      status: 401,
      error: { type: "error", error: { type: "authentication_error" } },
    });
  });

  it("a refused body is not read, however long", async () => {
    useKeys({ alice: {} });
    const refused = await fetch(`${stack.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: new ReadableStream({ pull: (controller) => controller.enqueue(Buffer.alloc(65_536, 32)) }),
      duplex: "half",
    } as RequestInit).catch(() => null);
    // A client that insists on sending may see the connection close before the answer.
    if (refused !== null) expect(refused.status).toBe(401);
    expect(stack.gateway.bodyBudget.usedBytes).toBe(0);
  });

  it("a key's models are the only ones that it sees", async () => {
    const { narrow, other } = useKeys({ narrow: { models: ["test-model"] }, other: { models: ["another"] } });
    expect((await ask(bearer(narrow))).status).toBe(200);
    const models = async (key: string) =>
      (await (await fetch(`${stack.url}/v1/models`, { headers: bearer(key) })).json()) as { data: object[] };
    expect((await models(narrow)).data).toHaveLength(1);
    expect((await models(other)).data).toEqual([]);
    const scope = await errorOf(await ask(bearer(other)));
    expect(scope).toMatchObject({ status: 404, code: "model_not_found", param: "model" });
    const unknown = await errorOf(await ask(bearer(other), { model: "nowhere" }));
    expect(unknown.message.replace("nowhere", "test-model")).toBe(scope.message);
    expect(await errorOf(await fetch(`${stack.url}/v1/models/test-model`, { headers: bearer(other) }))).toMatchObject({ status: 404 });
    const tokenize = await fetch(`${stack.url}/tokenize`, {
      method: "POST",
      headers: { "content-type": "application/json", ...bearer(other) },
      body: JSON.stringify({ prompt: "x" }),
    });
    expect(await errorOf(tokenize)).toMatchObject({ status: 404, code: "model_not_found" });
  });

  it("requests a minute: those above are refused with the time to wait, and cost nothing", async () => {
    const { alice, bob } = useKeys({ alice: { requestsPerMinute: 2 }, bob: {} });
    const first = await ask(bearer(alice));
    expect([first.headers.get("x-ratelimit-limit-requests"), first.headers.get("x-ratelimit-remaining-requests")]).toEqual(["2", "1"]);
    expect((await ask(bearer(alice))).status).toBe(200);
    const dispatched = stack.decode.dispatches.length;
    const refused = await ask(bearer(alice));
    expect(refused.headers.get("x-ratelimit-remaining-requests")).toBe("0");
    const waitMs = Number(refused.headers.get("retry-after-ms"));
    expect(waitMs).toBeGreaterThan(0);
    expect(waitMs).toBeLessThanOrEqual(30_000);
    expect(Number(refused.headers.get("retry-after"))).toBe(Math.ceil(waitMs / 1000));
    expect(await errorOf(refused)).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    expect(stack.decode.dispatches).toHaveLength(dispatched);
    // What is served may be asked for, and others are not concerned.
    expect((await fetch(`${stack.url}/v1/models`, { headers: bearer(alice) })).status).toBe(200);
    const others = await ask(bearer(bob));
    expect(others.status).toBe(200);
    expect(others.headers.get("x-ratelimit-limit-requests")).toBeNull();
  });

  it("tokens a minute: what an answer took in truth counts", async () => {
    const { alice } = useKeys({ alice: { tokensPerMinute: 400 } });
    stack.decode.script = () => say("abc");
    const remaining = async (more: object = {}) => {
      const response = await ask(bearer(alice), more);
      await response.text();
      return { status: response.status, left: Number(response.headers.get("x-ratelimit-remaining-tokens")) };
    };
    // 7 of the prompt and 256 for an answer without bound; then 7 and 4 in truth.
    expect(await remaining()).toEqual({ status: 200, left: 137 });
    // 7 and all of 300; more than a minute has is a minute's.
    const second = await remaining({ max_tokens: 300 });
    expect(second.status).toBe(200);
    expect(second.left).toBeGreaterThanOrEqual(82);
    expect(second.left).toBeLessThan(126);
    const tooLong = await ask(bearer(alice), { max_tokens: 10, messages: [{ role: "user", content: "x".repeat(500) }] });
    expect(tooLong.headers.get("x-should-retry")).toBe("false");
    expect(tooLong.headers.get("retry-after")).toBeNull();
    expect(await errorOf(tooLong)).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    // Longer than it was taken to be: the key is overdrawn.
    stack.decode.script = () => say("a".repeat(600));
    expect((await remaining()).status).toBe(200);
    const dispatched = stack.decode.dispatches.length;
    expect(await errorOf(await ask(bearer(alice), { max_tokens: 1 }))).toMatchObject({ status: 429 });
    expect(stack.decode.dispatches).toHaveLength(dispatched);
  });

  it("tokens a minute: what answers may take by their own word is kept for them; the others' growth is seen while they grow", async () => {
    const { alice, bob } = useKeys({ alice: { tokensPerMinute: 1_000 }, bob: { tokensPerMinute: 1_000 } });
    const gone = new AbortController();
    const begin = (key: string, more: object) => ask(bearer(key), { stream: true, ...more }, gone.signal);
    stack.decode.script = () => say("a".repeat(2_000), { hangAfter: 3, tokensPerDelta: 3 });
    const first = await Promise.all([begin(alice, { max_tokens: 400 }), begin(alice, { max_tokens: 400 })]);
    expect(first.map(({ status }) => status)).toEqual([200, 200]);
    expect(await errorOf(await begin(alice, { max_tokens: 400 }))).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    // Whoever asks for more than a minute has gets in where the minute is whole.
    expect((await begin(bob, { max_tokens: 5_000 })).status).toBe(200);
    expect((await begin(bob, { max_tokens: 1 })).status).toBe(429);
    gone.abort();
    await waitFor(() => stack.gateway.admission.running === 0);

    const { carol } = useKeys({ carol: { tokensPerMinute: 1_000 } });
    stack.decode.script = () => say("a".repeat(2_000), { hangAfter: 900, tokensPerDelta: 900 });
    const long = new AbortController();
    const growing = await ask(bearer(carol), { stream: true }, long.signal);
    expect(growing.status).toBe(200);
    await growing.body?.getReader().read();
    stack.decode.script = () => say("a");
    let refused: Response | null = null;
    for (let i = 0; i < 40 && refused === null; i++) {
      const response = await ask(bearer(carol));
      if (response.status === 429) refused = response;
      else await response.text();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(refused?.status).toBe(429);
    long.abort();
  });

  it("tokens of a request that nobody took are given back", async () => {
    const { alice } = useKeys({ alice: { tokensPerMinute: 400 } });
    stack.decode.busy = true;
    for (let i = 0; i < 3; i++) expect(await errorOf(await ask(bearer(alice)))).toMatchObject({ status: 503, code: "overloaded" });
    stack.decode.busy = false;
    expect((await ask(bearer(alice))).status).toBe(200);
  });

  it("requests at once", async () => {
    const { alice } = useKeys({ alice: { maxConcurrent: 1 } });
    stack.decode.script = () => say("slow", { gapMs: 50 });
    const first = ask(bearer(alice));
    await waitFor(() => stack.gateway.admission.running === 1);
    expect(await errorOf(await ask(bearer(alice)))).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    expect(await (await first).json()).toMatchObject({ object: "chat.completion" });
    // The connection tells the gateway that its answer is out.
    for (let i = 0; (await ask(bearer(alice))).status !== 200; i++) expect(i).toBeLessThan(100);
  });

  it("each key has cached blocks of its own, unless a group shares", async () => {
    const keys = useKeys({ a: {}, b: {}, c: { cacheGroup: "team" }, d: { cacheGroup: "team" } });
    for (const key of Object.values(keys)) await ask(bearer(key));
    await ask(bearer(keys.c), { user_id: "u" });
    const salts = stack.decode.dispatches.map(({ body }) => body.cacheSalt);
    expect(salts[2]).toBe(salts[3]);
    expect(new Set(salts).size).toBe(4);
    expect(salts).not.toContain("");
  });

  it("a key that is no longer in the file is refused, and one that is new is known", async () => {
    const { old } = useKeys({ old: { requestsPerMinute: 100 } });
    expect((await ask(bearer(old))).status).toBe(200);
    const { next } = useKeys({ next: {} });
    expect((await ask(bearer(old))).status).toBe(401);
    expect((await ask(bearer(next))).status).toBe(200);
  });
});
