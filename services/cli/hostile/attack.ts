// One attack on a port: bytes, and the answers that are right for them.
import { exchange, type ExchangeOptions } from "./sockets.ts";

export interface Target {
  port: number;
  model: string;
  /** Times that the gateway was given: a client that takes longer over its headers, its request or its reading loses the connection. */
  headersMs: number;
  requestMs: number;
  stallMs: number;
  /** Ended requests by outcome, as the gateway counts them. */
  outcomes(): Promise<Map<string, number>>;
  /** What the gateway holds in memory once its garbage is collected. */
  heldBytes(): Promise<number>;
}

export interface Attack {
  name: string;
  /** null: as it should be. */
  run(target: Target): Promise<string | null>;
}

/** The server looks at its connections now and then. */
export const checkingMs = 3_000;
const answerBoundMs = 20_000;

/** One exchange whose last status must be one of these (none: the connection may be closed without one). */
export function answered(
  name: string,
  statuses: readonly (number | "none")[],
  writes: (target: Target) => Iterable<string | Uint8Array | number>,
  more: Partial<ExchangeOptions> = {},
): Attack {
  return {
    name,
    async run(target) {
      const outcome = await exchange({ port: target.port, writes: writes(target), boundMs: answerBoundMs, answers: 1, ...more });
      const status = outcome.statuses.at(-1) ?? "none";
      if (status === "none" && !outcome.closed) return `no answer within ${outcome.seconds} s`;
      if (!statuses.includes(status)) return `${status}, not ${statuses.join(" or ")}: ${JSON.stringify(outcome.text.slice(0, 300))}`;
      return typeof status === "number" && status >= 400 && !/"message":"/.test(outcome.text) && !/^HEAD /.test(name)
        ? `${status} without the error envelope: ${JSON.stringify(outcome.text.slice(0, 300))}`
        : null;
    },
  };
}

export function request(line: string, headers: string[] = [], body = ""): string {
  return `${[line, "host: x", "connection: close", ...headers].join("\r\n")}\r\n\r\n${body}`;
}

/** A completion that is right but for what a test changes; `body` may be any bytes. */
export function post(
  body: string | Uint8Array,
  headers: string[] = ["content-type: application/json"],
  path = "/v1/completions",
): Uint8Array {
  const bytes = Buffer.from(body as string);
  return Buffer.concat([Buffer.from(request(`POST ${path} HTTP/1.1`, [...headers, `content-length: ${bytes.length}`])), bytes]);
}

/** On a connection that stays open. */
export function posted(path: string, fields: object): string {
  const body = JSON.stringify(fields);
  return `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}
