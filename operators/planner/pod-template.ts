// The pod of a pool: the product's own worker process, told by environment what the ModelService says.
import { type ModelService, type Pool, type PoolName, servedNameOf } from "../api/model-service.ts";
import type { Resources } from "../api/kubernetes-fields.ts";
import type { PlannerConfig } from "./config.ts";
import { rankEnv, rankGroupLabel, ranksPort } from "./expert-ranks.ts";
import { mountedModel } from "./model-volume.ts";
import { poolLabels, poolSelector } from "./names.ts";
import { wholeCpus } from "./quantity.ts";

/** The worker's admin port: /health, /ready, /metrics. */
export const metricsPort = 9100;
export const workerContainer = "worker";

/** Beyond the drain, for what comes after it, before the kubelet kills. */
const afterDrainSeconds = 15;
const credentialsDir = "/var/run/pelagic/nats";
const userId = 65_532;

export function terminationGraceSeconds(pool: Pool): number {
  return pool.drainSeconds + afterDrainSeconds;
}

/** `group`: of the ranks that share experts, where the pool's pods do. */
export function podTemplate(service: ModelService, poolName: PoolName, config: PlannerConfig, group?: string) {
  const { spec } = service;
  const pool = spec.pools[poolName];
  const model = mountedModel(service, config);
  const secretName = poolName === "prefill" ? config.prefillNatsSecret : config.decodeNatsSecret;
  const pullPolicy = spec.imagePullPolicy ?? config.workerImagePullPolicy;
  const extra = pool.podTemplate ?? {};
  const ofRank = group === undefined || spec.experts === undefined ? [] : rankEnv(spec.experts, service.metadata.namespace, group);
  return {
    metadata: {
      labels: { ...extra.labels, ...poolLabels(service, poolName), ...(group !== undefined && { [rankGroupLabel]: group }) },
      ...(extra.annotations && { annotations: extra.annotations }),
    },
    spec: {
      serviceAccountName: config.workerServiceAccount,
      // Workers never speak to the API server.
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      ...(config.imagePullSecret.length > 0 && { imagePullSecrets: config.imagePullSecret.map((name) => ({ name })) }),
      // SIGTERM drains (runProcess). No preStop: a worker says itself, on the bus, that it takes no more.
      terminationGracePeriodSeconds: terminationGraceSeconds(pool),
      securityContext: { runAsNonRoot: true, runAsUser: userId, runAsGroup: userId, seccompProfile: { type: "RuntimeDefault" } },
      ...(pool.nodeSelector && { nodeSelector: pool.nodeSelector }),
      ...(pool.tolerations && { tolerations: pool.tolerations }),
      ...(pool.priorityClassName && { priorityClassName: pool.priorityClassName }),
      ...(pool.topologySpread && { topologySpreadConstraints: topologySpread(service, poolName) }),
      containers: [
        {
          name: workerContainer,
          image: spec.image ?? config.workerImage,
          ...(pullPolicy && { imagePullPolicy: pullPolicy }),
          command: ["node", `dist/services/${poolName}/main.js`],
          env: [...workerEnv(service, pool, model.path, config, secretName !== undefined), ...ofRank, ...(extra.env ?? [])],
          ports: [
            { name: "metrics", containerPort: metricsPort, protocol: "TCP" },
            ...(group === undefined ? [] : [{ name: "ranks", containerPort: ranksPort, protocol: "TCP" }]),
          ],
          ...resourcesOf(pool, config),
          // The port opens before the model loads: that the process runs and turns is one question, that it takes requests another.
          startupProbe: { httpGet: { path: "/health", port: "metrics" }, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 60 },
          livenessProbe: { httpGet: { path: "/health", port: "metrics" }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 },
          readinessProbe: { httpGet: { path: "/ready", port: "metrics" }, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 3 },
          securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
          volumeMounts: [
            { name: "tmp", mountPath: "/tmp" },
            ...(secretName === undefined ? [] : [{ name: "nats", mountPath: credentialsDir, readOnly: true }]),
            ...model.mounts,
          ],
        },
      ],
      volumes: [
        { name: "tmp", emptyDir: { sizeLimit: "1Gi" } },
        // Readable for the user that the process runs as; without fsGroup, which would be set on the model's volume too.
        ...(secretName === undefined ? [] : [{ name: "nats", secret: { secretName, defaultMode: 0o444 } }]),
        ...model.volumes,
      ],
    },
  };
}

function workerEnv(service: ModelService, pool: Pool, modelPath: string, config: PlannerConfig, withCredentials: boolean): object[] {
  const set = (name: string, value: string | number | undefined) => (value === undefined ? [] : [{ name, value: String(value) }]);
  const { limits, requests } = pool.resources ?? {};
  const cpu = limits?.cpu ?? requests?.cpu;
  // In a container, Node counts the node's CPUs.
  const threads = pool.threads ?? (cpu === undefined ? undefined : wholeCpus(cpu));
  return [
    { name: "PELAGIC_WORKER_ID", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
    ...set("PELAGIC_SERVICE", config.workerService),
    ...set("PELAGIC_NATS_URL", config.workerNatsUrl),
    ...set("PELAGIC_NATS_CREDENTIALS_FILE", withCredentials ? `${credentialsDir}/credentials.json` : undefined),
    ...set("PELAGIC_MODEL", modelPath),
    ...set("PELAGIC_MODEL_NAME", servedNameOf(service)),
    ...set("PELAGIC_KV_DTYPE", service.spec.kv.dtype),
    ...set("PELAGIC_KV_MEMORY_MIB", pool.cacheMemoryMib),
    ...set("PELAGIC_BACKEND", pool.backend),
    ...set("PELAGIC_THREADS", threads),
    ...set("PELAGIC_DRAIN_MS", pool.drainSeconds * 1000),
    // All of the pod's: the kubelet and Prometheus come from outside, kubectl port-forward from inside.
    ...set("PELAGIC_METRICS_HOST", "0.0.0.0"),
    ...set("PELAGIC_METRICS_PORT", metricsPort),
  ];
}

function resourcesOf(pool: Pool, config: PlannerConfig): { resources?: Resources } {
  const gpus = pool.backend === "cuda" ? { [config.gpuResource]: String(pool.gpus ?? 1) } : undefined;
  if (pool.resources === undefined && gpus === undefined) return {};
  const { requests, limits } = pool.resources ?? {};
  return {
    resources: {
      ...((requests || gpus) && { requests: { ...requests, ...gpus } }),
      ...((limits || gpus) && { limits: { ...limits, ...gpus } }),
    },
  };
}

/** Where it can be had: a pool that cannot spread still runs. */
function topologySpread(service: ModelService, pool: PoolName): object[] {
  return ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map((topologyKey) => ({
    maxSkew: 1,
    topologyKey,
    whenUnsatisfiable: "ScheduleAnyway",
    labelSelector: { matchLabels: poolSelector(service, pool) },
  }));
}
