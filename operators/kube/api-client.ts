// Calls to the API server. Where it is, how it is trusted and who we are come from @kubernetes/client-node; the calls are our own
// (docs/decisions/0705-own-calls-to-the-api-server.md): one kept connection for many of them, a bound on each, plain JSON in and out.
import { Agent, type RequestOptions, request as httpsRequest } from "node:https";
import { Agent as HttpAgent, type IncomingMessage, request as httpRequest } from "node:http";
import type { KubeConfig } from "@kubernetes/client-node";
import { TokenBucket } from "./token-bucket.ts";

export class ApiError extends Error {
  override name = "ApiError";
  constructor(
    /** Of HTTP; 0: no answer. */
    readonly status: number,
    /** The API server's own word (Conflict, Invalid, Expired); empty where it gave none. */
    readonly reason: string,
    message: string,
    readonly retryAfterMs?: number,
  ) {
    super(message);
  }
}

export interface ApiCall {
  /** For metrics: the plural of what it is about. */
  resource: string;
  query?: Record<string, string | number | boolean>;
  body?: unknown;
  contentType?: string;
  timeoutMs?: number;
  signal?: AbortSignal;
  /** Not held back by the calls of others: those of the Lease, and who has waited already. */
  paced?: boolean;
}

export interface ApiStream {
  /** Each line as it came; ends where the server ends it, throws where it is cut. */
  lines: AsyncIterable<string>;
}

export interface ApiObserver {
  called(method: string, resource: string, status: number, seconds: number): void;
}

const callTimeoutMs = 30_000;
const maxBodyBytes = 128 * 1024 * 1024;
const maxLineBytes = 8 * 1024 * 1024;
/** What an operator of some hundred objects needs at its busiest, far below what hurts an API server. */
const callsPerSecond = 50;
const burst = 100;

export class ApiClient {
  private readonly bucket = new TokenBucket(callsPerSecond, burst, performance.now());
  private agent: { trust: string; agent: Agent | HttpAgent } | undefined;

  constructor(
    private readonly config: KubeConfig,
    private readonly observer: ApiObserver,
  ) {}

  /** Waits for its turn among all calls of this process. */
  async pace(signal?: AbortSignal): Promise<void> {
    await this.bucket.take(signal);
  }

  async call<T>(method: string, path: string, call: ApiCall): Promise<T> {
    if (!call.paced) await this.pace(call.signal);
    const begunMs = performance.now();
    const timeout = AbortSignal.timeout(call.timeoutMs ?? callTimeoutMs);
    const signal = call.signal === undefined ? timeout : AbortSignal.any([timeout, call.signal]);
    let status = 0;
    try {
      const response = await this.send(method, path, call, signal);
      status = response.statusCode ?? 0;
      const text = await readAll(response);
      if (status >= 300) throw errorOf(response, text);
      return JSON.parse(text) as T;
    } catch (error) {
      if (error instanceof ApiError) throw error;
      const what = timeout.aborted && !call.signal?.aborted ? "no answer in time" : error instanceof Error ? error.message : String(error);
      throw new ApiError(0, "", `${method} ${path}: ${what}`);
    } finally {
      this.observer.called(method, call.resource, status, (performance.now() - begunMs) / 1000);
    }
  }

  /** An answer that goes on: a watch. `signal` ends it; bounding its silence is the caller's. */
  async stream(path: string, call: ApiCall & { signal: AbortSignal }): Promise<ApiStream> {
    await this.pace(call.signal);
    const begunMs = performance.now();
    let status = 0;
    try {
      const response = await this.send("GET", path, call, call.signal);
      status = response.statusCode ?? 0;
      if (status !== 200) throw errorOf(response, await readAll(response));
      return { lines: linesOf(response) };
    } catch (error) {
      if (error instanceof ApiError) throw error;
      throw new ApiError(0, "", `watch ${path}: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.observer.called("WATCH", call.resource, status, (performance.now() - begunMs) / 1000);
    }
  }

  close(): void {
    this.agent?.agent.destroy();
  }

  private async send(method: string, path: string, call: ApiCall, signal: AbortSignal): Promise<IncomingMessage> {
    const server = this.config.getCurrentCluster()?.server;
    if (server === undefined) throw new ApiError(0, "", "the kubeconfig names no cluster");
    const url = new URL(server.replace(/\/+$/, "") + path);
    for (const [key, value] of Object.entries(call.query ?? {})) url.searchParams.set(key, String(value));
    const options: RequestOptions = {};
    // Each time: tokens of service accounts are renewed in place.
    await this.config.applyToHTTPSOptions(options);
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    const headers = {
      ...(options.headers as Record<string, string> | undefined),
      accept: "application/json",
      "user-agent": "pelagic-operator",
      ...(body !== undefined && { "content-type": call.contentType ?? "application/json", "content-length": Buffer.byteLength(body) }),
    };
    const request = url.protocol === "http:" ? httpRequest : httpsRequest;
    return new Promise((resolve, reject) => {
      const outgoing = request(url, { method, headers, auth: options.auth, agent: this.agentFor(options), signal });
      outgoing.on("response", resolve);
      outgoing.on("error", reject);
      outgoing.end(body);
    });
  }

  /** The library makes one for each call, hence a TLS handshake for each: kept as long as what it trusts stays the same. */
  private agentFor(options: RequestOptions): Agent | HttpAgent {
    const cluster = this.config.getCurrentCluster();
    // Through a proxy only the library's own knows the way.
    if (cluster?.proxyUrl !== undefined) return options.agent as Agent;
    const { ca, cert, key, pfx, passphrase, servername, rejectUnauthorized } = options;
    const trust = JSON.stringify([ca, cert, key, pfx, passphrase, servername, rejectUnauthorized].map(String));
    if (this.agent?.trust !== trust) {
      const kept = { keepAlive: true, timeout: 60_000 };
      const tls = { ca, cert, key, pfx, passphrase, servername, rejectUnauthorized };
      const given = Object.fromEntries(Object.entries(tls).filter(([, value]) => value !== undefined));
      this.agent = {
        trust,
        agent: cluster?.server.startsWith("http:") ? new HttpAgent(kept) : new Agent({ ...kept, ...given }),
      };
    }
    return this.agent.agent;
  }
}

async function readAll(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBodyBytes) throw new Error(`an answer of more than ${maxBodyBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

async function* linesOf(response: IncomingMessage): AsyncIterable<string> {
  let rest: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      yield Buffer.concat([...rest, chunk.subarray(from, end)]).toString("utf8");
      rest = [];
      bytes = 0;
      from = end + 1;
    }
    if (from < chunk.length) rest.push(chunk.subarray(from));
    bytes += chunk.length - from;
    if (bytes > maxLineBytes) throw new Error(`a line of more than ${maxLineBytes} bytes`);
  }
  if (!response.complete) throw new Error("cut off");
}

function errorOf(response: IncomingMessage, text: string): ApiError {
  let said: { reason?: unknown; message?: unknown; details?: { retryAfterSeconds?: unknown } } = {};
  try {
    said = JSON.parse(text);
  } catch {
    // A proxy's own page.
  }
  const status = response.statusCode ?? 0;
  const seconds = Number(response.headers["retry-after"] ?? said.details?.retryAfterSeconds ?? 0);
  const message = typeof said.message === "string" ? said.message : `HTTP ${status}`;
  return new ApiError(status, typeof said.reason === "string" ? said.reason : "", message, retryAfterMs(seconds));
}

/** As asked for, within reason. */
function retryAfterMs(seconds: number): number | undefined {
  return Number.isFinite(seconds) && seconds > 0 ? Math.min(seconds, 60) * 1000 : undefined;
}
