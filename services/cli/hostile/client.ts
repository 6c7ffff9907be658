// One request and its whole answer, over connections that are counted and can all be closed.
import { Agent, request as httpRequest } from "node:http";

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

export class Client {
  private readonly baseUrl: string;
  private readonly agent: Agent;
  private readonly boundMs: number;

  /** `boundMs`: of a whole answer; one that takes longer is an error. */
  constructor(baseUrl: string, connections: number, boundMs: number) {
    this.baseUrl = baseUrl;
    this.agent = new Agent({ keepAlive: true, maxSockets: connections });
    this.boundMs = boundMs;
  }

  /** Rejects where no whole answer comes. */
  send(method: string, path: string, body?: string | Uint8Array, headers: Record<string, string> = {}): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const { hostname, port } = new URL(this.baseUrl);
      const request = httpRequest({
        agent: this.agent,
        hostname,
        port,
        method,
        path,
        headers: {
          ...(body === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(body) }),
          ...headers,
        },
      });
      const timer = setTimeout(() => request.destroy(new Error(`no whole answer within ${this.boundMs} ms`)), this.boundMs);
      const fail = (error: Error) => {
        clearTimeout(timer);
        reject(error);
      };
      request.on("error", fail);
      request.on("response", (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", fail);
        response.on("close", () => {
          clearTimeout(timer);
          if (!response.complete) reject(new Error(`the answer (${response.statusCode}) broke off`));
          else resolve({ status: response.statusCode ?? 0, headers: response.headers, text: Buffer.concat(chunks).toString("utf8") });
        });
      });
      request.end(body);
    });
  }

  close(): void {
    this.agent.destroy();
  }
}
