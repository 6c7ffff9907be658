// A streamed chat completion over HTTP: keeps connections, notes when bytes came, and looks at them only when asked to.
import { Agent, request } from "node:http";
import { CliError } from "../cli-error.ts";
import type { Arrival } from "./received.ts";

export interface HttpTarget {
  /** Ends in /v1/chat/completions. */
  url: string;
  headers?: Record<string, string>;
}

export interface RawAnswer {
  sentMs: number;
  endMs: number;
  body: Buffer;
  arrivals: Arrival[];
}

const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY, maxFreeSockets: Number.POSITIVE_INFINITY });

export function closeHttpConnections(): void {
  agent.destroy();
}

/** Rejects where the answer is no stream, is cut off, or has not ended within the bound. */
export function askHttp({ url, headers }: HttpTarget, body: string, timeoutMs: number): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const sentMs = performance.now();
    const call = request(url, {
      method: "POST",
      agent,
      headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...headers },
    });
    const fail = (what: string) => {
      clearTimeout(timer);
      call.destroy();
      reject(new CliError(`${url}: ${what}`));
    };
    const timer = setTimeout(() => fail(`no end within ${timeoutMs} ms`), timeoutMs);
    call.on("error", (error) => fail(error.message));
    call.on("response", (response) => {
      const chunks: Buffer[] = [];
      const arrivals: Arrival[] = [];
      let bytes = 0;
      response.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        chunks.push(chunk);
        arrivals.push({ atMs: performance.now(), bytes });
      });
      response.on("error", (error) => fail(error.message));
      response.on("end", () => {
        clearTimeout(timer);
        const answer = Buffer.concat(chunks);
        if (response.statusCode !== 200) fail(`${response.statusCode}: ${answer.toString("utf8", 0, 300)}`);
        else resolve({ sentMs, endMs: performance.now(), body: answer, arrivals });
      });
    });
    call.end(body);
  });
}
