// A process's own small HTTP port, apart from any user's traffic: /metrics, /health, /ready, and JSON that the process adds.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Registry } from "prom-client";
import type { Log } from "../contracts/bus.ts";

export interface Readiness {
  ready: boolean;
  /** Why not, for a person. */
  reason?: string;
}

export interface AdminServerOptions {
  host: string;
  /** 0: any free port. */
  port: number;
  registry: Registry;
  ready: () => Readiness;
  /** GET path to the JSON that it answers. */
  routes?: Record<string, () => unknown>;
  log: Log;
}

export interface AdminServer {
  port: number;
  close(): Promise<void>;
}

export async function startAdminServer(options: AdminServerOptions): Promise<AdminServer> {
  const server = createServer((request, response) => {
    answer(request, response, options).catch((error: unknown) => {
      options.log.error({ path: request.url, error: error instanceof Error ? error.message : String(error) }, "admin request failed");
      if (!response.headersSent) sendJson(response, 500, { error: "internal" });
      else response.destroy();
    });
  });
  server.requestTimeout = 10_000;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, resolve);
  });
  // Never the reason that a process stays alive.
  server.unref();
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, options: AdminServerOptions): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    sendJson(response, 405, { error: "only GET" });
    return;
  }
  const path = (request.url ?? "/").split("?", 1)[0] as string;
  if (path === "/metrics") {
    const text = await options.registry.metrics();
    response.writeHead(200, { "content-type": options.registry.contentType }).end(text);
  } else if (path === "/health") {
    sendJson(response, 200, { status: "ok" });
  } else if (path === "/ready") {
    const readiness = options.ready();
    sendJson(response, readiness.ready ? 200 : 503, readiness);
  } else {
    const route = options.routes && Object.hasOwn(options.routes, path) ? options.routes[path] : undefined;
    if (route) sendJson(response, 200, await route());
    else sendJson(response, 404, { error: "not found" });
  }
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(`${JSON.stringify(body)}\n`);
}
