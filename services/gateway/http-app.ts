// The gateway's routes. Every failure, also of routing and parsing, is the error envelope.
import { randomUUID } from "node:crypto";
import type { IncomingMessage, RequestListener } from "node:http";
import express, { type Express, type NextFunction, type Request, type RequestHandler, type Response, type Router } from "express";
import { PelagicError } from "../lib/contracts/errors.ts";
import type { ModelList, Ready } from "../lib/contracts/http.ts";
import { apiVersion, openApiDocument } from "../lib/contracts/openapi.ts";
import { visitOf } from "./admission/callers.ts";
import { answerCors, type CorsOrigins } from "./cors.ts";
import type { Gateway } from "./gateway.ts";
import { type Endpoint, endpointPaths } from "./gateway-metrics.ts";
import { sendError } from "./http-error.ts";
import type { GatewayResponse } from "./http-response.ts";
import { chooseModel, visibleModels } from "./model-choice.ts";
import { servedContext, whyNotReady } from "./readiness.ts";
import { serveGeneration } from "./serve-generation.ts";
import { describeModel, type ServedModel } from "./served-model.ts";
import { messagesError, messagesModel, messagesModelList } from "./messages-format.ts";
import { countTokens, detokenize, tokenize } from "./tokenize.ts";

/** What a client may choose as its request id: printable ASCII. On the bus a stricter form is needed; others get an id of ours there. */
const clientRequestId = /^[\x21-\x7e]{1,128}$/;
const busRequestId = /^[A-Za-z0-9_-]{1,64}$/;

/** What probes, scrapers and the console's page ask for all the time. */
const unlogged = /^\/(health|ready|metrics|console(\/.*)?)$/;

const generationRoutes = (Object.keys(endpointPaths) as Endpoint[]).map((endpoint) => ({
  endpoint,
  paths: [...endpointPaths[endpoint]] as string[],
  errorForm: endpoint === "messages" ? messagesError : undefined,
}));

/**
 * Requests for answers go round Express where they name a path as it stands above: the prototypes that it gives a response make every write to it
 * dearer, and a stream has many. What happens to them is the same.
 */
export function createHandler(gateway: Gateway, console?: Router, origins: CorsOrigins = new Set()): RequestListener {
  const app = createApp(gateway, console);
  const byPath = new Map(generationRoutes.flatMap((route) => route.paths.map((path) => [path, route] as const)));
  return (request, plain) => {
    if (answerCors(origins, request, plain)) return;
    const route = request.method === "POST" ? byPath.get(request.url ?? "") : undefined;
    if (route === undefined) {
      app(request, plain);
      return;
    }
    const { endpoint, errorForm, paths } = route;
    const response: GatewayResponse = Object.assign(plain, { locals: errorForm === undefined ? {} : { errorForm } });
    void (async () => {
      begin(gateway, request, response, () => paths[0] as string);
      gateway.callers.enter(request, response);
      await serveGeneration(gateway, endpoint, request, response);
    })().catch((error: unknown) => fail(gateway, response, error));
  };
}

function createApp(gateway: Gateway, console?: Router): Express {
  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.set("query parser", false);
  app.use((request, response, next) => {
    begin(gateway, request, response, () => routeLabel(request));
    next();
  });
  get(app, ["/health"], (_request, response) => {
    response.json({ status: "ok" });
  });
  // An endpoint picker scrapes the port that it picks, many times a second and without a key. All metrics are on the admin port.
  get(app, ["/metrics"], async (_request, response) => {
    const { pool } = gateway.metrics;
    response.type(pool.contentType).send(await pool.metrics());
  });
  // It has a key of its own.
  if (console !== undefined) app.use("/console", console);
  app.use(["/v1/messages", "/anthropic/v1"], (_request, response, next) => {
    response.locals.errorForm = messagesError;
    next();
  });
  // OpenAI's and Anthropic's lists have one path; Anthropic's clients send this header with every request.
  app.use(["/v1/models", "/models"], ({ headers }, response, next) => {
    if (headers["anthropic-version"] !== undefined) response.locals.errorForm = messagesError;
    next();
  });
  app.use((request, response, next) => {
    gateway.callers.enter(request, response);
    next();
  });

  for (const { endpoint, paths } of generationRoutes) {
    post(app, paths, (request, response) => serveGeneration(gateway, endpoint, request, response));
  }
  post(app, ["/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"], (request, response) =>
    countTokens(gateway, request, response),
  );

  post(app, ["/tokenize"], (request, response) => tokenize(gateway, request, response));
  post(app, ["/detokenize"], (request, response) => detokenize(gateway, request, response));

  const describe = ({ model }: { model: ServedModel }) => describeModel(model, servedContext(gateway.directory, model));
  get(app, ["/v1/models", "/models", "/anthropic/v1/models"], (_request, response) => {
    const data = Array.from(visibleModels(gateway.models, visitOf(response).caller).values(), describe);
    const isAnthropics = response.locals.errorForm === messagesError;
    response.json(isAnthropics ? messagesModelList(data) : ({ object: "list", data } satisfies ModelList));
  });
  get(app, ["/v1/models/*id", "/models/*id", "/anthropic/v1/models/*id"], (request, response) => {
    const asked = (request.params as unknown as { id: string[] }).id.join("/");
    const model = describe(chooseModel(gateway.models, asked, visitOf(response).caller, gateway.learned?.missing));
    response.json(response.locals.errorForm === messagesError ? messagesModel(model) : model);
  });
  get(app, ["/ready"], (_request, response) => {
    const reason = whyNotReady(gateway);
    // The reason names models, and a key may be for some of them.
    const mayKnow = visitOf(response).caller.models === null;
    if (reason !== null) throw new PelagicError(reason.code, mayKnow ? reason.message : "no model is ready");
    response.json({ status: "ready", ...(gateway.learned?.builds.length === 0 && { waits_for: "a worker of any model" }) } satisfies Ready);
  });
  get(app, ["/version"], (_request, response) => {
    response.json({ name: "pelagic", version: apiVersion });
  });
  const openApi = { vocabularySize: -1, text: "" };
  get(app, ["/openapi.json"], (_request, response) => {
    // Of the largest vocabulary: what some model takes is not to be refused by who reads this.
    const vocabularySize = Math.max(0, ...Array.from(gateway.models.values(), ({ model }) => model.vocabularySize));
    if (vocabularySize !== openApi.vocabularySize) {
      openApi.vocabularySize = vocabularySize;
      openApi.text = JSON.stringify(openApiDocument(vocabularySize || undefined));
    }
    response.type("application/json").send(openApi.text);
  });

  app.use((request) => {
    throw new PelagicError("not_found", `${request.method} ${request.path}: no such path; /openapi.json lists them`);
  });
  // Express knows an error handler by its four parameters.
  app.use((error: unknown, _request: Request, response: Response, _next: NextFunction) => {
    const unreadable = !(error instanceof PelagicError) && (error as { status?: unknown }).status === 400;
    fail(gateway, response, unreadable ? new PelagicError("invalid_request", "the request's path cannot be read") : error);
  });
  return app;
}

/** What happens to every request first. `route` is asked at its end. */
function begin(gateway: Gateway, request: IncomingMessage, response: GatewayResponse, route: () => string): void {
  const given = request.headers["x-request-id"];
  const own = `req-${randomUUID()}`;
  const echoed = typeof given === "string" && clientRequestId.test(given) ? given : own;
  response.setHeader("x-request-id", echoed);
  response.locals.requestId = busRequestId.test(echoed) ? echoed : own;
  const beganMs = performance.now();
  // Without its query.
  const path = request.url?.split("?", 1)[0] as string;
  response.on("close", () => {
    const { requestId, logsItself } = response.locals;
    const { statusCode: status } = response;
    gateway.metrics.http.inc({ route: route(), status: String(status) });
    if (logsItself || unlogged.test(path)) return;
    // The route, not the path: that is the client's own text.
    const about = { requestId, route: route(), seconds: (performance.now() - beganMs) / 1000 };
    gateway.log.info({ ...about, ...(response.writableFinished ? { status } : { outcome: "cancelled" }) }, "request");
  });
  if (request.headers.host === undefined && request.httpVersion === "1.1") {
    throw new PelagicError("invalid_request", "HTTP/1.1 needs the header host");
  }
}

function fail(gateway: Gateway, response: GatewayResponse, error: unknown): void {
  if (error instanceof PelagicError) {
    sendError(response, error);
    return;
  }
  gateway.log.error({ error: error instanceof Error ? error.stack : String(error) }, "request failed");
  sendError(response, new PelagicError("internal", "internal error"));
}

function post(app: Express, paths: string[], handler: RequestHandler): void {
  app.route(paths).post(handler).all(notAllowed("POST"));
}

function get(app: Express, paths: string[], handler: RequestHandler): void {
  app.route(paths).get(handler).all(notAllowed("GET, HEAD"));
}

function notAllowed(allow: string): RequestHandler {
  return (request, response) => {
    response.setHeader("allow", allow);
    throw new PelagicError("method_not_allowed", `${request.method} is not allowed here; use ${allow}`);
  };
}

/** The pattern that matched, so that nobody can make label values. */
function routeLabel(request: Request): string {
  const path = (request.route as { path?: string | string[] } | undefined)?.path;
  return (Array.isArray(path) ? path[0] : path) ?? "none";
}
