// A TLS proxy between an operator and the API server that does what networks and overloaded servers do: drops, hangs, delays, answers 410, 429, 500.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Agent, createServer, request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { TestApiServer } from "./api-server.ts";

export interface SeenRequest {
  method: string;
  path: string;
  watch: boolean;
  lease: boolean;
  atMs: number;
}

/** What happens to a request: undefined lets it pass. */
export type Fault = "drop" | "hang" | { delayMs: number } | { status: number; retryAfterSeconds?: number } | undefined;

export interface FaultProxy {
  /** For an operator that is to go through it. */
  kubeconfig: string;
  seen: SeenRequest[];
  /** From now on; without an argument all is well again, and what hung is cut. */
  fault(decide?: (request: SeenRequest) => Fault): void;
  /** Watches that run: cut, left open without a word more, or told that their version is too old. */
  watches(what: "cut" | "freeze" | "expire"): void;
  /** How many run. */
  watching(): number;
  stop(): Promise<void>;
}

interface RunningWatch {
  response: ServerResponse;
  upstream: IncomingMessage;
}

export async function startFaultProxy(server: TestApiServer): Promise<FaultProxy> {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-proxy-"));
  const [key, cert] = [join(dir, "key.pem"), join(dir, "cert.pem")];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  await promisify(execFile)("openssl", [
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-days",
    "2",
    "-keyout",
    key,
    "-out",
    cert,
    ...subject,
  ]);
  const config = JSON.parse(readFileSync(server.kubeconfig, "utf8"));
  const agent = new Agent({ keepAlive: true, ca: readFileSync(config.clusters[0].cluster["certificate-authority"]) });
  const seen: SeenRequest[] = [];
  const sockets = new Set<Duplex>();
  const watches = new Set<RunningWatch>();
  const hanging = new Set<ServerResponse>();
  let decide: (request: SeenRequest) => Fault = () => undefined;

  const proxy = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
    const path = request.url ?? "/";
    const one = {
      method: request.method ?? "",
      path,
      watch: /[?&]watch=true/.test(path),
      lease: path.includes("/leases"),
      atMs: performance.now(),
    };
    seen.push(one);
    const fault = decide(one);
    if (fault === undefined) forward(request, response, one);
    else if (fault === "drop") request.socket.destroy();
    else if (fault === "hang") hanging.add(response);
    else if ("delayMs" in fault) setTimeout(() => forward(request, response, one), fault.delayMs);
    else answer(response, fault);
  });
  const forward = (request: IncomingMessage, response: ServerResponse, { watch }: SeenRequest) => {
    const { host: _, ...headers } = request.headers;
    const outgoing = httpsRequest(new URL(request.url ?? "/", server.url), { method: request.method, headers, agent }, (upstream) => {
      response.writeHead(upstream.statusCode ?? 502, upstream.headers);
      // A watch's answer begins before there is anything to tell.
      response.flushHeaders();
      upstream.pipe(response);
      upstream.on("error", () => response.destroy());
      if (!watch) return;
      const running = { response, upstream };
      watches.add(running);
      response.on("close", () => watches.delete(running));
    });
    outgoing.on("error", () => response.destroy());
    response.on("close", () => outgoing.destroy());
    request.pipe(outgoing);
  };
  proxy.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => undefined);
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  config.clusters[0].cluster = { server: `https://127.0.0.1:${(proxy.address() as AddressInfo).port}`, "certificate-authority": cert };
  const kubeconfig = join(dir, "kubeconfig");
  writeFileSync(kubeconfig, JSON.stringify(config), { mode: 0o600 });

  return {
    kubeconfig,
    seen,
    fault(next) {
      decide = next ?? (() => undefined);
      if (next !== undefined) return;
      for (const response of hanging) response.destroy();
      hanging.clear();
    },
    watches(what) {
      for (const { response, upstream } of watches) {
        if (what === "cut") response.destroy();
        else upstream.unpipe(response);
        if (what === "freeze") upstream.resume();
        if (what === "expire") response.end(`${JSON.stringify({ type: "ERROR", object: statusOf(410) })}\n`);
      }
    },
    watching: () => watches.size,
    async stop() {
      const closed = new Promise((resolve) => proxy.close(resolve));
      for (const socket of sockets) socket.destroy();
      agent.destroy();
      await closed;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function answer(response: ServerResponse, { status, retryAfterSeconds }: { status: number; retryAfterSeconds?: number }): void {
  const retry = retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) };
  response.writeHead(status, { "content-type": "application/json", ...retry }).end(JSON.stringify(statusOf(status)));
}

/** As the API server words it. */
function statusOf(code: number) {
  const reason = { 410: "Expired", 429: "TooManyRequests", 500: "InternalError" }[code];
  return { kind: "Status", apiVersion: "v1", metadata: {}, status: "Failure", reason, code, message: `${reason}: made by a test` };
}
