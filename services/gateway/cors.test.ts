import OpenAI from "openai";
import { afterEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, say, startGatewayUnderTest } from "../../tests/gateway/gateway-under-test.ts";
import { corsHeaders, corsOrigins } from "./cors.ts";

const page = "https://app.example";

describe("origins", () => {
  it("are none unless named, and are what browsers send", () => {
    expect([...corsOrigins({})]).toEqual([]);
    const named = "https://app.example, http://localhost:5173,tauri://localhost,chrome-extension://abc";
    expect([...corsOrigins({ corsOrigins: named })]).toHaveLength(4);
    for (const wrong of ["app.example", "https://app.example/", "https://App.example", "https://app.example:443", "https://a@b", "null"])
      expect(() => corsOrigins({ corsOrigins: wrong }), wrong).toThrow(/--cors-origins .*scheme:\/\/host/);
  });

  it("are any only where keys are asked for", () => {
    expect(() => corsOrigins({ corsOrigins: "*" })).toThrow(/without --api-keys/);
    expect(
      corsHeaders(corsOrigins({ corsOrigins: "*", apiKeys: "keys.json" }), { method: "GET", headers: { origin: page } }),
    ).toMatchObject({
      "access-control-allow-origin": page,
      vary: "origin",
    });
  });
});

describe("a gateway", () => {
  let stack: GatewayUnderTest;
  afterEach(() => stack.close());
  const preflight = (path = "/v1/chat/completions", origin = page) =>
    fetch(stack.url + path, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os" },
    });
  const corsOf = (response: Response) => [...response.headers.keys()].filter((name) => name.startsWith("access-control-"));

  it("tells a page that was not named nothing", async () => {
    for (const corsOrigins of [undefined, new Set(["https://other.example"])]) {
      stack = await startGatewayUnderTest({ ...(corsOrigins && { corsOrigins }) });
      for (const response of [await preflight(), await fetch(`${stack.url}/v1/models`, { headers: { origin: page } })])
        expect(corsOf(response)).toEqual([]);
      if (corsOrigins === undefined) await stack.close();
    }
  });

  it("lets a page that was named ask and read: preflight, stream, errors; not the console", async () => {
    stack = await startGatewayUnderTest({ corsOrigins: new Set([page]) });
    const may = await preflight();
    expect(may.status).toBe(204);
    expect(Object.fromEntries(may.headers)).toMatchObject({
      "access-control-allow-origin": page,
      "access-control-allow-methods": "GET, POST",
      "access-control-allow-headers": "authorization,x-stainless-os",
      vary: "origin",
    });
    expect(corsOf(await preflight("/console/api"))).toEqual([]);
    stack.decode.script = () => say("hello");
    const seen: (string | null)[] = [];
    const client = new OpenAI({
      baseURL: `${stack.url}/v1`,
      apiKey: "none",
      maxRetries: 0,
      dangerouslyAllowBrowser: true,
      fetch: async (url, init) => {
        const response = await fetch(url as string, {
          ...init,
          headers: { ...Object.fromEntries(new Headers(init?.headers)), origin: page },
        });
        seen.push(response.headers.get("access-control-allow-origin"));
        expect(response.headers.get("access-control-expose-headers")).toContain("x-request-id");
        return response;
      },
    });
    const asked = { model: "test-model", messages: [{ role: "user" as const, content: "hi" }] };
    for await (const _ of await client.chat.completions.create({ ...asked, stream: true }));
    await client.models.list();
    await expect(client.chat.completions.create({ ...asked, n: 0 })).rejects.toMatchObject({ status: 400 });
    await expect(client.models.retrieve("other")).rejects.toMatchObject({ status: 404 });
    expect(seen).toEqual([page, page, page, page]);
  });
});
