// Reads a request's JSON body within bounds (its own size, the bytes of all bodies held at once, the depth of its nesting) and by its schema.
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { PelagicError } from "../lib/contracts/errors.ts";
import { firstIssue, oversizedField } from "../lib/contracts/http.ts";
import { maxJsonDepth, whereTooDeep } from "./json-depth.ts";

/** Bytes of request bodies that may be held at once. */
export class ByteBudget {
  private readonly limit: number;
  private used = 0;

  constructor(limit: number) {
    this.limit = limit;
  }

  get usedBytes(): number {
    return this.used;
  }

  take(bytes: number): void {
    if (this.used + bytes > this.limit) {
      throw new PelagicError("overloaded", "too many request bytes are being read; try again later", { retryAfterMs: 1_000 });
    }
    this.used += bytes;
  }

  release(bytes: number): void {
    this.used -= bytes;
  }
}

/** `release` gives the body's bytes back to the budget; call it at the request's end: parts of what was read live as long. */
export interface JsonBody {
  body: Record<string, unknown>;
  release(): void;
}

export async function readJsonBody(request: IncomingMessage, maxBytes: number, budget: ByteBudget): Promise<JsonBody> {
  const contentType = request.headers["content-type"] ?? "";
  if (!/^application\/([\w.+-]+\+)?json\s*(;|$)/i.test(contentType)) {
    throw new PelagicError("invalid_request", "send the body as content-type: application/json");
  }
  if ((request.headers["content-encoding"] ?? "identity") !== "identity") {
    throw new PelagicError("invalid_request", "send the body without content-encoding");
  }
  let taken = 0;
  const take = (bytes: number) => {
    if (taken + bytes > maxBytes) throw new PelagicError("request_too_large", `the body is larger than ${maxBytes} bytes`);
    budget.take(bytes);
    taken += bytes;
  };
  let released = false;
  const release = () => {
    if (!released) budget.release(taken);
    released = true;
  };
  try {
    const announced = Number(request.headers["content-length"] ?? 0);
    if (announced > maxBytes) throw new PelagicError("request_too_large", `the body is larger than ${maxBytes} bytes`);
    const chunks: Buffer[] = [];
    // Leaving the loop must not close the connection: the refusal has yet to be sent on it.
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      take(chunk.length);
      chunks.push(chunk);
    }
    return { body: parse(Buffer.concat(chunks)), release };
  } catch (error) {
    release();
    if (error instanceof PelagicError) throw error;
    throw new PelagicError("cancelled", "the client went away while sending the body");
  }
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
  return value as Record<string, unknown>;
}

/** The body as its schema has it; throws `invalid_request` with the field at fault. */
export function parseBody<S extends z.ZodType>(schema: S, body: Record<string, unknown>): z.output<S> {
  const oversized = oversizedField(body);
  if (oversized !== null) throw new PelagicError("invalid_request", `${oversized}: too many entries`, { param: oversized });
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const { param, message } = firstIssue(parsed.error);
  throw new PelagicError("invalid_request", message, { param });
}
