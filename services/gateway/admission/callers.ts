// Who sends a request and whether their key allows one more: decided from the headers alone, before the body is read.
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { PelagicError } from "../../lib/contracts/errors.ts";
import type { GatewayResponse } from "../http-response.ts";
import { isLoopback } from "../console/config.ts";
import { anyone, type Caller, type KeyRing } from "./api-keys.ts";
import { Usage } from "./rate-limits.ts";

/** One HTTP request of a caller. */
export class Visit {
  readonly caller: Caller;
  private readonly usage: Usage;
  private reserved = 0;

  constructor(caller: Caller, usage: Usage) {
    this.caller = caller;
    this.usage = usage;
  }

  /** Throws `rate_limit_exceeded` where the key has not so many tokens now. */
  reserve(tokens: number, response: ServerResponse): void {
    const { tokens: bucket } = this.usage;
    if (bucket === null) return;
    const now = performance.now();
    const waitMs = bucket.waitMs(tokens, now);
    if (waitMs === Number.POSITIVE_INFINITY) {
      throw new PelagicError(
        "rate_limit_exceeded",
        `the request may take ${tokens} tokens, and its API key has ${bucket.perMinute} a minute: ask for fewer, or for a key with more`,
        {
          final: true,
        },
      );
    }
    if (waitMs > 0) throw exceeded(`${bucket.perMinute} tokens a minute, and the request takes ${tokens}`, waitMs);
    bucket.take(tokens, now);
    this.reserved += tokens;
    setHeaders(response, this.usage);
  }

  /** At the request's end: so many it took in truth. */
  settle(tokens: number): void {
    this.usage.tokens?.take(tokens - this.reserved, performance.now());
    this.reserved = tokens;
  }
}

export class Callers {
  private readonly thisMachineOnly: boolean;
  /** null: there is no keys file, and anyone may ask. */
  private ring: KeyRing | null = null;
  private readonly usages = new Map<string, Usage>();

  /** `thisMachineOnly`: the gateway listens on the loopback, where without keys whoever is on this machine may ask. */
  constructor({ thisMachineOnly }: { thisMachineOnly: boolean }) {
    this.thisMachineOnly = thisMachineOnly;
  }

  use(ring: KeyRing): void {
    this.ring = ring;
    for (const id of this.usages.keys()) if (!ring.ids.has(id)) this.usages.delete(id);
  }

  /** Comes before every route but the one that tells whether the process lives. Throws where the caller may not ask. */
  enter(request: IncomingMessage, response: GatewayResponse): void {
    const caller = this.callerOf(request.headers);
    const usage = this.usageOf(caller);
    const now = performance.now();
    usage.apply(caller.limits, now);
    setHeaders(response, usage);
    response.locals.visit = new Visit(caller, usage);
    // A look at what is served costs nothing.
    if (request.method === "POST") {
      this.begin(caller, usage, now);
      setHeaders(response, usage);
      usage.running++;
      response.on("close", () => usage.running--);
    }
  }

  private begin({ limits }: Caller, usage: Usage, nowMs: number): void {
    if (limits.maxConcurrent !== undefined && usage.running >= limits.maxConcurrent) {
      throw exceeded(`${limits.maxConcurrent} requests at once`, 1_000);
    }
    const waitMs = usage.requests?.waitMs(1, nowMs) ?? 0;
    if (waitMs > 0) throw exceeded(`${usage.requests?.perMinute} requests a minute`, waitMs);
    usage.requests?.take(1, nowMs);
  }

  private callerOf(headers: IncomingHttpHeaders): Caller {
    if (this.ring === null) {
      if (this.thisMachineOnly) refuseOtherSites(headers);
      return anyone;
    }
    const key = keyIn(headers);
    if (key === null) {
      throw new PelagicError("invalid_api_key", "no API key: send Authorization: Bearer KEY, or x-api-key: KEY");
    }
    const caller = this.ring.find(key);
    // Whatever was sent may be somebody's key for another service: it is not repeated.
    if (caller === null)
      throw new PelagicError("invalid_api_key", "the API key is not known here: check it, or ask who runs this gateway for one");
    return caller;
  }

  private usageOf({ id }: Caller): Usage {
    const known = id === null ? undefined : this.usages.get(id);
    if (known !== undefined) return known;
    const usage = new Usage();
    if (id !== null) this.usages.set(id, usage);
    return usage;
  }
}

/** Of the request that this answers. */
export function visitOf(response: GatewayResponse): Visit {
  return response.locals.visit as Visit;
}

export function mayUse(caller: Caller, model: string): boolean {
  return caller.models?.has(model) ?? true;
}

function keyIn({ authorization, "x-api-key": apiKey }: IncomingHttpHeaders): string | null {
  const bearer = authorization === undefined ? null : /^bearer +(\S+) *$/i.exec(authorization);
  if (bearer) return bearer[1] as string;
  return typeof apiKey === "string" && apiKey !== "" ? apiKey : null;
}

function exceeded(limit: string, waitMs: number): PelagicError {
  return new PelagicError("rate_limit_exceeded", `the API key allows ${limit}; try again in ${Math.ceil(waitMs / 100) / 10} s`, {
    retryAfterMs: waitMs,
  });
}

function setHeaders(response: ServerResponse, usage: Usage): void {
  if (response.headersSent) return;
  for (const [name, value] of Object.entries(usage.headers(performance.now()))) response.setHeader(name, value);
}

/** A page from elsewhere in this machine's browser, whose own name was made to mean this machine: only browsers say where a page is from. */
function refuseOtherSites({ host, origin }: IncomingHttpHeaders): void {
  if (origin === undefined || isLoopback((host ?? "").replace(/:\d+$/, ""))) return;
  throw new PelagicError("invalid_api_key", "without API keys this gateway is for this machine: ask for localhost, or give it keys");
}
