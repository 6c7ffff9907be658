// Failures as clients see them: always the same envelope, with the headers that tell a client library whether to try again.
import type { ServerResponse } from "node:http";
import { errorCatalogue, type PelagicError } from "../lib/contracts/errors.ts";
import type { ErrorBody } from "../lib/contracts/http.ts";

const defaultRetryAfterMs = 1_000;

export function errorBody(error: PelagicError): ErrorBody {
  return { error: { message: error.message, type: errorCatalogue[error.code].type, param: error.param ?? null, code: error.code } };
}

/** `spent`: prefill was spent on the request, so that a client library should not repeat it by itself. */
export function sendError(response: ServerResponse, error: PelagicError, spent = false): void {
  if (response.headersSent || response.destroyed) return;
  response.statusCode = error.status;
  response.setHeader("content-type", "application/json");
  if (error.status === 429 || error.status === 503) {
    const retryAfterMs = error.retryAfterMs ?? defaultRetryAfterMs;
    response.setHeader("retry-after", String(Math.max(1, Math.ceil(retryAfterMs / 1000))));
    response.setHeader("retry-after-ms", String(Math.ceil(retryAfterMs)));
  }
  if (spent || !errorCatalogue[error.code].retryable) response.setHeader("x-should-retry", "false");
  response.end(JSON.stringify(errorBody(error)));
}
