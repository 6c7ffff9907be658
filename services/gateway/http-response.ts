// What the gateway's code sees of an HTTP response: Node's, and what is known of the request that it answers.
import type { ServerResponse } from "node:http";
import type { Visit } from "./admission/callers.ts";
import type { ErrorForm } from "./http-error.ts";

export interface GatewayLocals {
  /** As the bus takes it. */
  requestId?: string;
  visit?: Visit;
  /** Its line in the log is written by whoever serves it. */
  logsItself?: boolean;
  /** Of the API that the route belongs to; absent: OpenAI's. */
  errorForm?: ErrorForm;
}

declare global {
  namespace Express {
    interface Locals extends GatewayLocals {}
  }
}

export type GatewayResponse = ServerResponse & { locals: GatewayLocals };

export function sendJson(response: ServerResponse, body: object): void {
  response.setHeader("content-type", "application/json; charset=utf-8");
  response.end(JSON.stringify(body));
}
