// Reads a request's JSON body within bounds (its own size, the bytes of all bodies held at once, the depth of its nesting) and by its schema.
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { PelagicError } from "../lib/contracts/errors.ts";
import { firstIssue, oversizedField } from "../lib/contracts/http.ts";
import { httpLimits } from "../lib/contracts/http-fields.ts";
import type { Caller } from "./admission/api-keys.ts";
import type { Gateway } from "./gateway.ts";
import { mayWait } from "../lib/fair-queue/fair-order.ts";
import { maxJsonDepth, whereTooDeep } from "./json-depth.ts";
import { writtenInteger } from "./json-integer.ts";

/** Bytes of request bodies that may be held at once. However much one caller sends, others find a place (mayWait, of bytes). */
export class ByteBudget {
  private readonly limit: number;
  private readonly usedBy = new Map<string, number>();
  private used = 0;

  constructor(limit: number) {
    this.limit = limit;
  }

  get usedBytes(): number {
    return this.used;
  }

  take(caller: string, bytes: number): void {
    if (!mayWait(this.ofCaller(caller) + bytes, this.used + bytes, this.limit)) {
      throw new PelagicError("overloaded", "too many request bytes are being read; try again later", { retryAfterMs: 1_000 });
    }
    this.count(caller, bytes);
  }

  release(caller: string, bytes: number): void {
    this.count(caller, -bytes);
  }

  private count(caller: string, bytes: number): void {
    const now = this.ofCaller(caller) + bytes;
    if (now === 0) this.usedBy.delete(caller);
    else this.usedBy.set(caller, now);
    this.used += bytes;
  }

  private ofCaller(caller: string): number {
    return this.usedBy.get(caller) ?? 0;
  }
}

export interface BodyLimits {
  maxBytes: number;
  budget: ByteBudget;
  /** Whose share of the budget it takes. */
  caller: string;
  /** What has more than slowBytes here and brings no more than that in so long is refused: it would hold its share for nothing. */
  slowMs?: number;
}

const slowBytes = 65_536;

/** Who has no key is known by the address. */
export function bodyLimits({ limits, bodyBudget }: Gateway, { socket }: IncomingMessage, { id }: Caller): BodyLimits {
  return { maxBytes: limits.maxBodyBytes, budget: bodyBudget, caller: id ?? socket.remoteAddress ?? "" };
}

/** `release` gives the body's bytes back to the budget; call it at the request's end: parts of what was read live as long. */
export interface JsonBody {
  body: Record<string, unknown>;
  release(): void;
}

export async function readJsonBody(request: IncomingMessage, limits: BodyLimits): Promise<JsonBody> {
  const { maxBytes, budget, caller } = limits;
  const contentType = request.headers["content-type"] ?? "";
  if (!/^application\/([\w.+-]+\+)?json\s*(;|$)/i.test(contentType)) {
    throw new PelagicError("invalid_request", "send the body as content-type: application/json");
  }
  if ((request.headers["content-encoding"] ?? "identity") !== "identity") {
    throw new PelagicError("invalid_request", "send the body without content-encoding");
  }
  let taken = 0;
  const take = (bytes: number) => {
    if (taken + bytes > maxBytes) throw new PelagicError("request_too_large", `the body is too large: at most ${maxBytes} bytes`);
    budget.take(caller, bytes);
    taken += bytes;
  };
  let released = false;
  const release = () => {
    if (!released) budget.release(caller, taken);
    released = true;
  };
  try {
    const announced = Number(request.headers["content-length"] ?? 0);
    if (announced > maxBytes) throw new PelagicError("request_too_large", `the body is too large: at most ${maxBytes} bytes`);
    const chunks: Buffer[] = [];
    await read(request, limits.slowMs ?? 10_000, (chunk) => {
      take(chunk.length);
      chunks.push(chunk);
    });
    return { body: parse(Buffer.concat(chunks)), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Without closing the connection at a refusal, which has yet to be sent on it. */
function read(request: IncomingMessage, slowMs: number, take: (chunk: Buffer) => void): Promise<void> {
  let [all, before] = [0, 0];
  return new Promise<void>((resolve, reject) => {
    // At once: a request that has ended closes, too.
    const stop = () => {
      clearInterval(timer);
      for (const [name, listener] of Object.entries(on)) request.off(name, listener);
      request.pause();
    };
    const fail = (error: unknown) => {
      stop();
      reject(error);
    };
    const timer = setInterval(() => {
      if (all > slowBytes && all - before < slowBytes) {
        fail(new PelagicError("invalid_request", `the body came too slowly: fewer than ${slowBytes} bytes in ${slowMs / 1000} s`));
      }
      before = all;
    }, slowMs);
    const onData = (chunk: Buffer) => {
      all += chunk.length;
      try {
        take(chunk);
      } catch (error) {
        fail(error);
      }
    };
    const onEnd = () => {
      stop();
      resolve();
    };
    const onGone = () => fail(new PelagicError("cancelled", "the client went away while sending the body"));
    const on = { data: onData, end: onEnd, error: onGone, close: onGone };
    for (const [name, listener] of Object.entries(on)) request.on(name, listener);
    // It is gone already.
    if (request.destroyed && !request.readableEnded) onGone();
  });
}

function parse(bytes: Buffer): Record<string, unknown> {
  const deep = whereTooDeep(bytes);
  if (deep !== null) {
    const what = deep === "" ? "the body" : deep.slice(0, 100);
    throw new PelagicError("invalid_request", `${what}: nested deeper than ${maxJsonDepth} levels`, {
      param: deep.slice(0, 100) || undefined,
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    // Not the parser's words: they quote the prompt.
    throw new PelagicError("invalid_request", "the body is not valid JSON in UTF-8");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new PelagicError("invalid_request", "the body must be a JSON object");
  }
  const body = value as Record<string, unknown>;
  const { seed } = body;
  // Clients draw it from 64 bits; what JSON.parse gives is the nearest float64, one for thousands of them.
  if (typeof seed === "number" && Number.isInteger(seed) && !Number.isSafeInteger(seed))
    body.seed = writtenInteger(bytes, "seed") ?? BigInt(seed);
  return body;
}

/** The body as its schema has it; throws `invalid_request` with the field at fault. */
export function parseBody<S extends z.ZodType>(schema: S, body: Record<string, unknown>): z.output<S> {
  const oversized = oversizedField(body);
  if (oversized !== null)
    throw new PelagicError("invalid_request", `${oversized}: too many entries: at most ${httpLimits.messages}`, { param: oversized });
  const { logit_bias: bias } = body;
  // The one wrong key that a schema of records passes over.
  if (typeof bias === "object" && bias !== null && Object.hasOwn(bias, "__proto__")) {
    throw new PelagicError("invalid_request", "logit_bias: __proto__ is no token id", { param: "logit_bias" });
  }
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const { param, message } = firstIssue(parsed.error);
  throw new PelagicError("invalid_request", message, { param });
}
