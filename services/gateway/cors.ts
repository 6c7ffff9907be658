// Which web pages may ask from a browser (CORS). Off unless origins are named: a gateway without keys on a laptop must not answer whatever page is
// open there. Nothing here lets anyone in: keys are asked for as ever, and no cookie counts.
import type { IncomingMessage, ServerResponse } from "node:http";
import { ConfigError } from "../lib/runtime/config.ts";

export type CorsOrigins = ReadonlySet<string>;

const anyOrigin = "*";
/** Beside those that every page may read. */
const exposedHeaders = [
  ...["x-request-id", "x-pelagic-route", "x-pelagic-not-kept", "retry-after", "retry-after-ms", "x-should-retry"],
  ...["limit", "remaining", "reset"].flatMap((what) => [`x-ratelimit-${what}-requests`, `x-ratelimit-${what}-tokens`]),
].join(", ");
/** So long a browser need not ask again. */
const preflightSeconds = 600;

/** Comma-separated. Throws a ConfigError. */
export function corsOrigins({ corsOrigins: text, apiKeys }: { corsOrigins?: string; apiKeys?: string }): CorsOrigins {
  const field = "--cors-origins (PELAGIC_CORS_ORIGINS)";
  const origins = (text ?? "").split(",").map((one) => one.trim());
  const given = new Set(origins.filter((one) => one !== ""));
  if (given.has(anyOrigin) && apiKeys === undefined)
    throw new ConfigError(`${field}: *: without --api-keys (PELAGIC_API_KEYS) every web page could use this gateway; name the origins`);
  for (const origin of given) {
    if (origin !== anyOrigin && !isOrigin(origin))
      throw new ConfigError(`${field}: ${origin}: no origin; write it as browsers do, scheme://host or scheme://host:port in lower case`);
  }
  return given;
}

function isOrigin(text: string): boolean {
  // Browsers' extensions and apps in a shell of their own have schemes of their own.
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^/?#\s@]+$/.test(text)) return false;
  return !/^https?:/.test(text) || (URL.canParse(text) && new URL(text).origin === text);
}

/** What the answer to this request says to its browser; null: nothing, as it is not a page's or not one that was named. */
export function corsHeaders(
  origins: CorsOrigins,
  { method, headers }: Pick<IncomingMessage, "method" | "headers">,
): Record<string, string> | null {
  const { origin } = headers;
  if (origin === undefined || !(origins.has(origin) || origins.has(anyOrigin))) return null;
  const allowed = { "access-control-allow-origin": origin, vary: "origin" };
  if (!isPreflight(method, headers)) return { ...allowed, "access-control-expose-headers": exposedHeaders };
  const wanted = headers["access-control-request-headers"];
  return {
    ...allowed,
    "access-control-allow-methods": "GET, POST",
    // Client libraries send headers of their own.
    ...(wanted !== undefined && { "access-control-allow-headers": wanted }),
    // A page of the internet that asks this machine or its network: named is named.
    ...(headers["access-control-request-private-network"] === "true" && { "access-control-allow-private-network": "true" }),
    "access-control-max-age": String(preflightSeconds),
  };
}

function isPreflight(method: string | undefined, headers: IncomingMessage["headers"]): boolean {
  return method === "OPTIONS" && headers["access-control-request-method"] !== undefined;
}

/** Sets the headers; true: it was a browser's question whether it may ask, and is answered. */
export function answerCors(origins: CorsOrigins, request: IncomingMessage, response: ServerResponse): boolean {
  // The console is for its own page alone.
  if (origins.size === 0 || /^\/console(\/|$|\?)/.test(request.url ?? "")) return false;
  const headers = corsHeaders(origins, request);
  if (headers === null) return false;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  if (!isPreflight(request.method, request.headers)) return false;
  response.statusCode = 204;
  response.end();
  return true;
}
