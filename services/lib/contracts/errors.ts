// Every named error of the system: what a client sees when a request does not end with a finish reason.

/** HTTP status, OpenAI error type and whether trying again can help, for each code. */
export const errorCatalogue = {
  invalid_request: { status: 400, type: "invalid_request_error", retryable: false },
  context_length_exceeded: { status: 400, type: "invalid_request_error", retryable: false },
  invalid_api_key: { status: 401, type: "authentication_error", retryable: false },
  model_not_found: { status: 404, type: "invalid_request_error", retryable: false },
  not_found: { status: 404, type: "invalid_request_error", retryable: false },
  method_not_allowed: { status: 405, type: "invalid_request_error", retryable: false },
  request_too_large: { status: 413, type: "invalid_request_error", retryable: false },
  rate_limit_exceeded: { status: 429, type: "rate_limit_error", retryable: true },
  overloaded: { status: 503, type: "service_unavailable", retryable: true },
  no_workers: { status: 503, type: "service_unavailable", retryable: true },
  bus_unavailable: { status: 503, type: "service_unavailable", retryable: true },
  worker_lost: { status: 503, type: "service_unavailable", retryable: true },
  shutting_down: { status: 503, type: "service_unavailable", retryable: true },
  deadline_exceeded: { status: 504, type: "timeout_error", retryable: true },
  numerics_mismatch: { status: 503, type: "service_unavailable", retryable: false },
  cancelled: { status: 499, type: "cancelled", retryable: false },
  internal: { status: 500, type: "server_error", retryable: true },
} as const;

export type ErrorCode = keyof typeof errorCatalogue;

export const errorCodes = Object.keys(errorCatalogue) as [ErrorCode, ...ErrorCode[]];

/** An error with one of the names above. `param` is the request field at fault, where there is one. */
export class PelagicError extends Error {
  readonly code: ErrorCode;
  readonly param?: string;
  readonly retryAfterMs?: number;
  /** Trying again cannot help this request, though it can help others that fail by this code. */
  readonly final: boolean;

  constructor(code: ErrorCode, message: string, detail: { param?: string; retryAfterMs?: number; final?: boolean } = {}) {
    super(message);
    this.name = "PelagicError";
    this.code = code;
    this.param = detail.param;
    this.retryAfterMs = detail.retryAfterMs;
    this.final = detail.final ?? !errorCatalogue[code].retryable;
  }

  get status(): number {
    return errorCatalogue[this.code].status;
  }
}

/** Any thrown value as a PelagicError; what is not one already becomes `internal`. */
export function toPelagicError(error: unknown): PelagicError {
  if (error instanceof PelagicError) return error;
  return new PelagicError("internal", error instanceof Error ? error.message : String(error));
}
