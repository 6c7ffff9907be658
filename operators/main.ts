// The operator process: looks after ModelServices. Any number of replicas; one of them leads.
import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { randomBytes } from "node:crypto";
import type { KubeConfig } from "@kubernetes/client-node";
import { z } from "zod";
import { startAdminServer } from "../services/lib/runtime/admin-server.ts";
import { processFields } from "../services/lib/runtime/config.ts";
import { announce, runProcess } from "../services/lib/runtime/process.ts";
import { informerTimes } from "./kube/informer.ts";
import { accountFolder, kubeconfigField, loadKubeConfig } from "./kube/kubeconfig.ts";
import { Operator } from "./kube/operator.ts";
import { leaseName } from "./kube/rights.ts";
import { plannerFields } from "./planner/config.ts";

const operatorFields = {
  ...kubeconfigField,
  /** Whose ModelServices are looked after; all namespaces unless given. */
  namespace: z.string().min(1).optional(),
  /** Where gateways' pods are, and what labels they have; the operator's own namespace unless given. */
  gatewayNamespace: z.string().min(1).optional(),
  gatewaySelector: z.string().min(1).default("app.kubernetes.io/name=pelagic,app.kubernetes.io/component=gateway"),
  /** Autoscaling looks at gateways and workers so often. */
  scrapeMs: z.coerce.number().int().min(100).max(300_000).default(15_000),
  /** Where the Lease is; the operator's own namespace unless given. */
  leaseNamespace: z.string().min(1).optional(),
  leaseName: z.string().min(1).default(leaseName),
  /** ModelServices that are worked on at the same time. */
  concurrency: z.coerce.number().int().min(1).max(64).default(4),
  /** A watch that is silent for so long is begun anew. The API server says something each minute. */
  watchInactivityMs: z.coerce.number().int().min(1000).default(informerTimes.inactivityMs),
};

await runProcess({
  name: "operator",
  config: z.object({ ...processFields, ...operatorFields, ...plannerFields }),
  async main({ config, log, metrics, onStop }) {
    const kubeConfig = loadKubeConfig(config.kubeconfig);
    const { namespace, concurrency, watchInactivityMs, gatewaySelector: selector, scrapeMs } = config;
    const operator = new Operator({
      kubeConfig,
      planner: config,
      namespace,
      gateways: { namespace: config.gatewayNamespace ?? ownNamespace(kubeConfig), selector },
      scrapeMs,
      lease: { namespace: config.leaseNamespace ?? ownNamespace(kubeConfig), name: config.leaseName },
      // A container that starts again is another one.
      identity: `${hostname()}_${randomBytes(4).toString("hex")}`,
      concurrency,
      // A watch that was begun and then silent was none that failed; timers may be a little early.
      informerTimes: {
        ...informerTimes,
        inactivityMs: watchInactivityMs,
        healthyMs: Math.min(informerTimes.healthyMs, watchInactivityMs / 2),
      },
      log,
      metrics,
    });
    const admin = await startAdminServer({
      host: config.metricsHost,
      port: config.metricsPort,
      registry: metrics,
      ready: () => operator.readiness(),
      routes: { "/leader": () => operator.leadership(), "/models": () => operator.sleepingModels() },
      log,
    });
    onStop(() => admin.close());
    onStop(() => operator.stop());
    operator.start();
    announce({ metricsPort: admin.port });
  },
});

function ownNamespace(kubeConfig: KubeConfig): string {
  const file = `${accountFolder}/namespace`;
  const ofContext = kubeConfig.getContextObject(kubeConfig.getCurrentContext())?.namespace;
  return ofContext ?? (existsSync(file) ? readFileSync(file, "utf8").trim() : "default");
}
