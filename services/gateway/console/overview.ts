// GET /console/api/overview: the gateway's own view of itself and its workers.
import type { ConsoleOverview } from "../../lib/contracts/console.ts";
import { apiVersion } from "../../lib/contracts/openapi.ts";
import type { Gateway } from "../gateway.ts";
import { servedContext, whyModelNotReady } from "../readiness.ts";

export function consoleOverview(gateway: Gateway, gatewayId: string, notReady: string | null): ConsoleOverview {
  return {
    gateway: {
      gatewayId,
      version: apiVersion,
      models: Array.from(gateway.models, ([modelName, { encoder, model }]) => ({
        modelName,
        chats: encoder !== null,
        contextTokens: servedContext(gateway.directory, model),
        notReady: whyModelNotReady(gateway.directory, model),
      })),
      uptimeSeconds: Math.floor(process.uptime()),
      notReady,
      requests: {
        running: gateway.admission.running,
        mostRunning: gateway.admission.maxRunning,
        cancelling: gateway.client.cancellationsPending,
      },
    },
    workers: gateway.directory.snapshot().workers.map((worker) => ({
      workerId: worker.workerId,
      instanceId: worker.instanceId,
      role: worker.role,
      state: worker.state,
      ...(worker.reason === undefined ? {} : { reason: worker.reason }),
      modelName: worker.modelName,
      kvDtype: worker.kvDtype,
      blocks: worker.blocks,
      requests: worker.requests,
      queuedPrefillTokens: worker.queuedPrefillTokens,
      rates: worker.rates,
      kvBytesPerToken: worker.kvBytesPerToken,
      ...(worker.totals === undefined ? {} : { totals: worker.totals }),
    })),
  };
}
