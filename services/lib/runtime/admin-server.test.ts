import { afterEach, describe, expect, it } from "vitest";
import { silentLog } from "../contracts/bus.ts";
import { startAdminServer, type AdminServer, type Readiness } from "./admin-server.ts";
import { Counter, createRegistry } from "./metrics.ts";

let server: AdminServer | undefined;
afterEach(() => server?.close());

describe("the admin port", () => {
  it("serves metrics, health, readiness and the process's own routes", async () => {
    const registry = createRegistry();
    new Counter({ name: "pelagic_things_total", help: "Things.", registers: [registry] }).inc(3);
    let readiness: Readiness = { ready: false, reason: "loading" };
    server = await startAdminServer({
      host: "127.0.0.1",
      port: 0,
      registry,
      ready: () => readiness,
      routes: {
        "/status": () => ({ workers: [] }),
        "/broken": () => {
          throw new Error("broken");
        },
      },
      log: silentLog,
    });
    const base = `http://127.0.0.1:${server.port}`;
    const metrics = await (await fetch(`${base}/metrics`)).text();
    expect(metrics).toContain("pelagic_things_total 3");
    expect(metrics).toContain("nodejs_eventloop_lag_seconds");
    expect((await fetch(`${base}/health`)).status).toBe(200);
    const notReady = await fetch(`${base}/ready`);
    expect(notReady.status).toBe(503);
    expect(await notReady.json()).toEqual({ ready: false, reason: "loading" });
    readiness = { ready: true };
    expect((await fetch(`${base}/ready`)).status).toBe(200);
    expect(await (await fetch(`${base}/status?x=1`)).json()).toEqual({ workers: [] });
    expect((await fetch(`${base}/broken`)).status).toBe(500);
    expect((await fetch(`${base}/constructor`)).status).toBe(404);
    expect((await fetch(`${base}/health`, { method: "POST" })).status).toBe(405);
  });
});
