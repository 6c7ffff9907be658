// Failures as clients see them: always the same envelope, with the headers that tell a client library whether to try again.
import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { errorCatalogue, PelagicError } from "../lib/contracts/errors.ts";
import type { ErrorBody } from "../lib/contracts/http.ts";
import type { GatewayResponse } from "./http-response.ts";

const defaultRetryAfterMs = 1_000;
const lingerMs = 2_000;

export function errorBody(error: PelagicError): ErrorBody {
  return { error: { message: error.message, type: errorCatalogue[error.code].type, param: error.param ?? null, code: error.code } };
}

/** A failure in the form of the request's API. */
export type ErrorForm = (error: PelagicError, requestId: string | null) => object;

/** `spent`: prefill was spent on the request, so that a client library should not repeat it by itself. */
export function sendError(response: ServerResponse, error: PelagicError, spent = false): void {
  if (response.headersSent || response.destroyed) return;
  response.statusCode = error.status;
  response.setHeader("content-type", "application/json");
  if (error.status === 401) response.setHeader("www-authenticate", "Bearer");
  if (error.status === 503 || (error.status === 429 && !error.final)) {
    const retryAfterMs = error.retryAfterMs ?? defaultRetryAfterMs;
    response.setHeader("retry-after", String(Math.max(1, Math.ceil(retryAfterMs / 1000))));
    response.setHeader("retry-after-ms", String(Math.ceil(retryAfterMs)));
  }
  if (spent || error.final) response.setHeader("x-should-retry", "false");
  const { errorForm } = (response as Partial<GatewayResponse>).locals ?? {};
  // As the client knows it.
  const requestId = response.getHeader("x-request-id");
  const body = JSON.stringify((errorForm ?? errorBody)(error, requestId === undefined ? null : String(requestId)));
  if (response.req.complete) response.end(body);
  else endLingering(response, body);
}

/**
 * The client is still sending: a connection that is closed now is reset, and the answer may be lost with it. So what comes is read a while longer
 * and thrown away.
 */
function endLingering(response: ServerResponse, body: string): void {
  const { req: request } = response;
  response.setHeader("connection", "close");
  response.setHeader("content-length", Buffer.byteLength(body));
  response.write(body);
  const end = () => {
    clearTimeout(timer);
    response.end();
  };
  const timer = setTimeout(end, lingerMs);
  request.once("end", end).once("close", end);
  request.resume();
}

/** Answers what Node could not read as a request, and closes the connection. */
export function refuseBadHttp(error: Error & { code?: string }, socket: Socket): void {
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const [status, failure]: [string, PelagicError] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? [
          "431 Request Header Fields Too Large",
          new PelagicError("request_too_large", "the request's headers are too large: at most 32 KiB, all together"),
        ]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? [
            "408 Request Timeout",
            new PelagicError("invalid_request", "the request did not arrive whole in the time that it may take; send it again"),
          ]
        : ["400 Bad Request", new PelagicError("invalid_request", "this is not HTTP/1.1")];
  refuse(socket, status, failure);
}

export const notAProxy = new PelagicError("method_not_allowed", "this is no proxy");
export const unknownExpectation = new PelagicError("invalid_request", "the header expect: only 100-continue is known");

/** Answers what never became a request. */
export function refuse(socket: Socket, status: string, failure: PelagicError): void {
  const body = JSON.stringify(errorBody(failure));
  socket.end(
    `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
