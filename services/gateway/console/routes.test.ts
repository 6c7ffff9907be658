// The console's router over the gateway with a scripted decode worker, and a page of two lines.
import { request } from "node:http";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, startGatewayUnderTest, waitFor } from "../../../tests/gateway/gateway-under-test.ts";
import { ConsoleExperts, ConsoleOverview, ConsoleRequests } from "../../lib/contracts/console.ts";
import { ErrorBody } from "../../lib/contracts/http.ts";
import { RequestTimeline } from "../../lib/contracts/timeline.ts";
import { KeyRing } from "../admission/api-keys.ts";
import { consoleRoutes } from "./routes.ts";

const files = mkdtempSync(join(tmpdir(), "pelagic-console-"));
mkdirSync(join(files, "assets"));
writeFileSync(join(files, "index.html"), "<!doctype html><title>Pelagic</title>");
writeFileSync(join(files, "assets", "index-abc.js"), "export {};");
afterAll(() => rmSync(files, { recursive: true }));

let stack: GatewayUnderTest | undefined;
afterEach(() => stack?.close());

async function start(key?: string): Promise<(path: string, init?: RequestInit) => Promise<Response>> {
  const options = { gatewayId: "gateway-0", files, notReady: () => null, ...(key === undefined ? {} : { key }) };
  const started = await startGatewayUnderTest({ console: (gateway) => consoleRoutes(gateway, options) });
  stack = started;
  return (path, init) => fetch(`${started.url}/console${path}`, { redirect: "manual", ...init });
}
/** With headers that fetch would not send, or add to. */
function rawStatus(path: string, headers: Record<string, string>): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const sent = request(`${stack?.url}/console${path}`, { headers }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    sent.on("error", reject).end();
  });
}
const errorOf = async (response: Response) => ({ status: response.status, ...ErrorBody.parse(await response.json()).error });

describe("the page", () => {
  it("is asked for anew each time, its files never again, and loads nothing from elsewhere", async () => {
    const get = await start();
    expect((await get("")).headers.get("location")).toBe("/console/");
    const page = await get("/");
    expect(await page.text()).toContain("<title>Pelagic</title>");
    expect(page.headers.get("cache-control")).toBe("no-cache");
    expect(page.headers.get("content-security-policy")).toMatch(/^default-src 'self';/);
    expect(page.headers.get("content-security-policy")).not.toContain("unsafe");
    expect(await rawStatus("/", { "if-none-match": page.headers.get("etag") as string })).toBe(304);
    const script = await get("/assets/index-abc.js");
    expect(script.headers.get("cache-control")).toBe("public, max-age=31536000, immutable");
    expect(script.headers.get("x-content-type-options")).toBe("nosniff");
  });

  it("is all there is: other paths, and paths out of its folder, are not found", async () => {
    const get = await start();
    for (const path of ["/nothing", "/assets/", "/..%2f..%2fpackage.json", "/%2e%2e/package.json"]) {
      expect(await errorOf(await get(path)), path).toMatchObject({ status: 404, code: "not_found" });
    }
  });

  it("without a key is for requests to this machine by its own name", async () => {
    await start();
    expect(await rawStatus("/api/overview", { host: "elsewhere.example" })).toBe(400);
    expect(await rawStatus("/api/overview", { host: "localhost:80" })).toBe(200);
  });
});

describe("the API", () => {
  it("wants no API key, and what is not the console's does", async () => {
    const get = await start();
    stack?.gateway.callers.use(new KeyRing([]));
    expect((await get("/")).status).toBe(200);
    expect((await get("/api/overview")).status).toBe(200);
    expect((await get("/nothing")).status).toBe(401);
    expect((await fetch(`${stack?.url}/v1/models`)).status).toBe(401);
  });

  it("has the workers as the gateway sees them", async () => {
    const get = await start();
    const response = await get("/api/overview");
    expect(response.headers.get("cache-control")).toBe("no-store");
    const overview = ConsoleOverview.parse(await response.json());
    expect(overview.gateway).toMatchObject({
      gatewayId: "gateway-0",
      requests: { running: 0, mostRunning: 100 },
    });
    expect(overview.gateway.models).toMatchObject([{ chats: true, contextTokens: 8192 }]);
    expect(overview.workers).toMatchObject([
      { workerId: "decode-0", role: "decode", state: "ready", blocks: { total: 100, free: 100, cached: 0 } },
    ]);
  });

  it("has what a worker's experts got, or that it does not say", async () => {
    const get = await start();
    const counts = async () => ConsoleExperts.parse(await (await get("/api/workers/decode-0/experts/start")).json());
    expect((await counts()).tokens).toBeNull();
    expect(await errorOf(await get("/api/workers/nobody/experts/start"))).toMatchObject({ status: 404, code: "not_found" });
    await stack?.close();
    const again = await start();
    (stack as GatewayUnderTest).decode.expertCounts = [
      [1, 2, 3],
      [4, 5, 6],
    ];
    const late = ConsoleExperts.parse(await (await again("/api/workers/decode-0/experts/late")).json());
    expect(late).toMatchObject({
      span: "late",
      tokens: [
        [0, 1, 1],
        [2, 2, 3],
      ],
      balancedness: [0.5, 1],
    });
    expect(await errorOf(await again("/api/workers/decode-0/experts/never"))).toMatchObject({ status: 404 });
    const experts = ConsoleExperts.parse(await (await again("/api/workers/decode-0/experts/start")).json());
    expect(experts).toMatchObject({
      span: "start",
      workerId: "decode-0",
      firstLayer: 1,
      expertsPerToken: 2,
      tokens: [
        [1, 2, 3],
        [4, 5, 6],
      ],
    });
  });

  it("has the last requests, and where the time of each went", async () => {
    const get = await start();
    const answer = await fetch(`${stack?.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-request-id": "mine-1" },
      body: JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }] }),
    });
    await answer.text();
    await fetch(`${stack?.url}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" });
    await waitFor(() => stack?.gateway.recent.list().length === 2);
    const { requests } = ConsoleRequests.parse(await (await get("/api/requests")).json());
    expect(requests.map(({ outcome }) => outcome)).toEqual(["invalid_request", "stop"]);
    expect(requests[1]).toMatchObject({ requestId: "mine-1", decodeWorkerId: "decode-0", completionTokens: 6 });
    const timeline = RequestTimeline.parse(await (await get("/api/requests/mine-1")).json());
    expect(timeline).toMatchObject({ requestId: "mine-1", outcome: "stop" });
    expect(timeline.phases.length).toBeGreaterThan(2);
    expect(await errorOf(await get("/api/requests/nobody"))).toMatchObject({ status: 404, code: "not_found" });
  });

  it("asks for the key, where there is one, and knows whoever gave it", async () => {
    const key = "correct horse battery";
    const get = await start(key);
    const signIn = (body: object) =>
      get("/api/session", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    expect((await get("/")).status).toBe(200);
    expect(await errorOf(await get("/api/overview"))).toMatchObject({ status: 401, code: "invalid_api_key" });
    expect(await errorOf(await get("/api/workers/decode-0/experts/start"))).toMatchObject({ status: 401 });
    expect(await errorOf(await get("/api/requests"))).toMatchObject({ status: 401 });
    expect(await errorOf(await signIn({ key: "wrong" }))).toMatchObject({ status: 401, param: "key" });
    expect(await errorOf(await signIn({}))).toMatchObject({ status: 400, param: "key" });
    const response = await signIn({ key });
    expect(response.status).toBe(204);
    const set = response.headers.get("set-cookie") as string;
    expect(set).toMatch(/; Path=\/console\/; Max-Age=\d+; HttpOnly; SameSite=Strict$/);
    const cookie = set.split(";", 1)[0] as string;
    expect((await get("/api/overview", { headers: { cookie } })).status).toBe(200);
    expect((await get("/api/session", { method: "DELETE" })).headers.get("set-cookie")).toContain("Max-Age=0");
  });
});
