// GET /status on the admin port: what `./pelagic status` shows.
import { apiVersion } from "../lib/contracts/openapi.ts";
import type { Gateway } from "./gateway.ts";
import { whyModelNotReady } from "./readiness.ts";

export function gatewayStatus(gateway: Gateway, id: string): object {
  return {
    gateway: {
      id,
      version: apiVersion,
      models: Array.from(gateway.models.keys(), (name) => ({ name, notReady: whyModelNotReady(gateway.directory, name) })),
      uptimeSeconds: Math.floor(process.uptime()),
      requests: { running: gateway.admission.running, waiting: gateway.admission.waiting, cancelling: gateway.client.cancellationsPending },
    },
    workers: gateway.directory
      .snapshot()
      .workers.map(({ blockKeys, unreported: _, ...worker }) => ({ ...worker, knownBlockKeys: blockKeys.size })),
  };
}
