// What the page asks of its gateway. Addresses are relative to the page, which stands one level below the API.
import type { ErrorBody } from "../lib/contracts/http.ts";

/** An answer that is no success, or no answer at all; the message is for a person. */
export class ApiError extends Error {
  /** One of errors.ts; "unreachable" where nobody answered. */
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const timeoutMs = 10_000;

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await call(path, { signal: withTimeout(signal) });
  return (await response.json()) as T;
}

export async function signIn(key: string): Promise<void> {
  await call("api/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ key }),
    signal: withTimeout(),
  });
}

/** Throws an ApiError unless the answer is a success; an AbortError where `init.signal` says so. */
export async function call(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "The gateway does not answer.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<ApiError> {
  try {
    const { error } = (await response.json()) as ErrorBody;
    return new ApiError(error.code, sentence(error.message));
  } catch {
    return new ApiError("unreachable", `The gateway answered with status ${response.status}.`);
  }
}

/** An error's message, as a sentence. */
export function sentence(message: string): string {
  const text = message.trim();
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function withTimeout(signal?: AbortSignal): AbortSignal {
  const bound = AbortSignal.timeout(timeoutMs);
  return signal === undefined ? bound : AbortSignal.any([signal, bound]);
}
