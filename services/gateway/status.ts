// GET /status on the admin port: what `./pelagic status` shows.
import { apiVersion } from "../lib/contracts/openapi.ts";
import type { Gateway, Learned } from "./gateway.ts";
import { whyModelNotReady } from "./readiness.ts";

export function gatewayStatus(gateway: Gateway, id: string): object {
  return {
    gateway: {
      id,
      version: apiVersion,
      models: Array.from(gateway.models, ([name, { model }]) => ({ name, notReady: whyModelNotReady(gateway.directory, model) })),
      ...(gateway.learned !== null && { learning: learningOf(gateway.learned) }),
      uptimeSeconds: Math.floor(process.uptime()),
      requests: { running: gateway.admission.running, waiting: gateway.admission.waiting, cancelling: gateway.client.cancellationsPending },
    },
    workers: gateway.directory
      .snapshot()
      .workers.map(({ blockKeys, unreported: _, ...worker }) => ({ ...worker, knownBlockKeys: blockKeys.size })),
  };
}

/** Names that workers have and that are not served, and what was wrong with any build: why. */
function learningOf({ missing, faults }: Learned): object {
  return { missing: Array.from(missing, ([name, reason]) => ({ name, reason })), faults };
}
