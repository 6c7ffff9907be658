// The server under the app: what Node would accept without bounds, or answer in its own words, gets both here.
import { createServer, type RequestListener, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { PelagicError } from "../lib/contracts/errors.ts";
import { notAProxy, refuse, refuseBadHttp, sendError, unknownExpectation } from "./http-error.ts";
import { inTurn } from "./in-turn.ts";

export interface HttpServerOptions {
  /** Requests on further connections are refused. */
  maxConnections: number;
  /** So long a request's headers, and all of it, may take to arrive. */
  headersMs: number;
  requestMs: number;
}

/** Connections that are open long enough to be told that there are too many. */
const spareConnections = 100;
/** Longer than load balancers keep theirs, or they would send a request on a connection that closes. */
const keepAliveMs = 75_000;

export interface HttpServer {
  server: Server;
  /** Requests whose turn has come and whose answer has not gone out whole. */
  answering(): number;
  /** From now on each answer is its connection's last, and says so: a client with a connection that lives never meets one that ends under its request. */
  lastAnswers(): void;
}

export function createHttpServer(app: RequestListener, { maxConnections, headersMs, requestMs }: HttpServerOptions): HttpServer {
  let open = 0;
  let answering = 0;
  let isLeaving = false;
  /** The answer on each connection that is being written, or was the last. */
  const answers = new WeakMap<Socket, ServerResponse>();
  const server = createServer(
    {
      maxHeaderSize: 32 * 1024,
      // The app refuses it, in the envelope.
      requireHostHeader: false,
      keepAliveTimeout: keepAliveMs,
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.ceil(headersMs / 4),
    },
    inTurn((request, response) => {
      answers.set(request.socket, response);
      answering++;
      response.once("close", () => answering--);
      if (isLeaving) response.setHeader("connection", "close");
      if (open <= maxConnections) app(request, response);
      else {
        response.setHeader("connection", "close");
        sendError(response, new PelagicError("overloaded", `${maxConnections} connections are open, the most that this gateway takes`));
      }
    }),
  );
  server.maxConnections = maxConnections + spareConnections;
  server.on("connection", (socket: Socket) => {
    open++;
    socket.once("close", () => open--);
  });
  server.on("clientError", (error: Error & { code?: string }, socket: Socket) => {
    const answer = answers.get(socket);
    // In the middle of another answer nothing can be said.
    if (answer?.headersSent && !answer.writableFinished) socket.destroy();
    else refuseBadHttp(error, socket);
  });
  server.on("connect", (_request, socket: Socket) => refuse(socket, "405 Method Not Allowed", notAProxy));
  server.on("checkExpectation", (_request, response) => sendError(response, unknownExpectation));
  const lastAnswers = () => {
    isLeaving = true;
  };
  return { server, answering: () => answering, lastAnswers };
}
