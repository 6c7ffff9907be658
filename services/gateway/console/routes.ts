// The console as one router, to be mounted at /console: the page and its files, and the JSON that it shows.
import { existsSync } from "node:fs";
import { join } from "node:path";
import express, { type Request, type Response, Router } from "express";
import { type ConsoleRequests, ConsoleSignIn } from "../../lib/contracts/console.ts";
import { anyone } from "../admission/api-keys.ts";
import { PelagicError } from "../../lib/contracts/errors.ts";
import { ExpertSpan } from "../../lib/contracts/messages.ts";
import { ConfigError } from "../../lib/runtime/config.ts";
import { bodyLimits, parseBody, readJsonBody } from "../json-body.ts";
import type { Gateway } from "../gateway.ts";
import { type ConsoleSettings, isLoopback } from "./config.ts";
import { ExpertCountsReader } from "./expert-counts.ts";
import { consoleOverview } from "./overview.ts";
import { hasSession, isKey, sessionCookie, sessionSeconds, sessionValue } from "./session.ts";

export interface ConsoleOptions extends ConsoleSettings {
  gatewayId: string;
  /** What `npm run build` made of services/console. */
  files: string;
  /** Why the gateway answers nobody now; null if it does. */
  notReady(): string | null;
}

const maxSignInBytes = 4096;
const listedRequests = 100;
/** Everything is the gateway's own: no script, style, font or picture comes from elsewhere or stands in the page itself. */
const securityHeaders = {
  "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};

export function consoleRoutes(gateway: Gateway, options: ConsoleOptions): Router {
  if (!existsSync(join(options.files, "index.html"))) {
    throw new ConfigError(`--console (PELAGIC_CONSOLE): on, and ${options.files} holds no page: run npm run build`);
  }
  const { key } = options;
  const nowSeconds = () => Date.now() / 1000;
  const router = Router();
  router.use((request, response, next) => {
    for (const [name, value] of Object.entries(securityHeaders)) response.setHeader(name, value);
    if (key === undefined) refuseOtherHosts(request);
    next();
  });
  router.use("/api", (_request, response, next) => {
    response.setHeader("cache-control", "no-store");
    next();
  });

  router
    .route("/api/session")
    .post(async (request, response) => {
      const { body, release } = await readJsonBody(request, { ...bodyLimits(gateway, request, anyone), maxBytes: maxSignInBytes });
      release();
      const given = parseBody(ConsoleSignIn, body);
      if (key !== undefined) {
        if (!isKey(given.key, key)) throw new PelagicError("invalid_api_key", "this is not the console's key", { param: "key" });
        setCookie(request, response, sessionValue(key, nowSeconds()), sessionSeconds);
      }
      response.status(204).end();
    })
    .delete((request, response) => {
      setCookie(request, response, "", 0);
      response.status(204).end();
    });

  router.use("/api", (request, _response, next) => {
    if (key !== undefined && !hasSession(request.headers.cookie, key, nowSeconds())) {
      throw new PelagicError("invalid_api_key", "the console asks for its key");
    }
    next();
  });
  router.get("/api/overview", (_request, response) => {
    response.json(consoleOverview(gateway, options.gatewayId, options.notReady()));
  });
  const { bus, subjects, clock } = gateway.client.options;
  const experts = new ExpertCountsReader(bus, subjects, () => clock.nowMs());
  router.get("/api/workers/:id/experts/:span", async (request, response) => {
    const { id } = request.params;
    if (!gateway.directory.snapshot().workers.some(({ workerId }) => workerId === id)) {
      throw new PelagicError("not_found", `no worker ${JSON.stringify(id)} has reported`);
    }
    const span = ExpertSpan.safeParse(request.params.span);
    if (!span.success) throw new PelagicError("not_found", "of experts there are counts since the start and late ones");
    response.json(await experts.read(id, span.data));
  });

  router.get("/api/requests", (_request, response) => {
    const requests = gateway.recent
      .list()
      .slice(0, listedRequests)
      .map(({ phases: _, traceId: __, ...request }) => request);
    response.json({ requests } satisfies ConsoleRequests);
  });
  router.get("/api/requests/:id", (request, response) => {
    const timeline = gateway.recent.find(request.params.id);
    if (timeline === undefined) throw new PelagicError("not_found", "no such request among those that ended here last");
    response.json(timeline);
  });

  router.use(servePage(options.files));
  return router;
}

/** The page is asked for again each time, and answered with 304 while it is the same; the files that it names carry a hash in their names. */
function servePage(files: string) {
  return express.static(files, {
    etag: true,
    lastModified: false,
    setHeaders: (response, path) => {
      const hashed = path.startsWith(join(files, "assets"));
      response.setHeader("cache-control", hashed ? "public, max-age=31536000, immutable" : "no-cache");
    },
  });
}

/** Without a key, whoever reaches the port may look; a page from elsewhere that has its own name resolve to this machine must not. */
function refuseOtherHosts(request: Request): void {
  const host = (request.headers.host ?? "").replace(/:\d+$/, "");
  if (!isLoopback(host)) {
    throw new PelagicError(
      "invalid_request",
      "the console without a key is for this machine's own browser: ask for localhost, or give it a key",
    );
  }
}

function setCookie(request: Request, response: Response, value: string, maxAgeSeconds: number): void {
  // Behind a proxy that ends TLS the last leg is plain, and the browser's is not.
  const secure = request.secure || request.headers["x-forwarded-proto"] === "https";
  const path = `${request.baseUrl}/`;
  response.setHeader(
    "set-cookie",
    `${sessionCookie}=${value}; Path=${path}; Max-Age=${maxAgeSeconds}; HttpOnly; SameSite=Strict${secure ? "; Secure" : ""}`,
  );
}
