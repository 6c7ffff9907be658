// A value other than the default for each one that the chart documents, with what it needs beside it.

const scaled = {
  slo: { ttftSeconds: 2, tpotSeconds: 0.05 },
  autoscaling: { policy: "external", prefill: { maxReplicas: 3 }, decode: { maxReplicas: 4 } },
};

const pods = (name: string) => ({
  [`${name}.resources`]: { limits: { memory: "1Gi" } },
  [`${name}.nodeSelector`]: { "example.com/pool": "a" },
  [`${name}.tolerations`]: [{ key: "a", operator: "Exists", effect: "NoSchedule" }],
  [`${name}.priorityClassName`]: "high",
  [`${name}.podLabels`]: { team: "a" },
  [`${name}.podAnnotations`]: { "example.com/note": "b" },
});
const image = (path: string) => ({
  [`${path}.repository`]: "registry.example.com:5000/a/b",
  [`${path}.tag`]: "9.9",
  [`${path}.digest`]: `sha256:${"0".repeat(64)}`,
  [`${path}.pullPolicy`]: "Always",
});
const peer = { podSelector: { matchLabels: { a: "b" } } };
const variable = [{ name: "PELAGIC_LOG_LEVEL", value: "debug" }];

export const otherValues: Record<string, unknown> = {
  ...image("image"),
  imagePullSecrets: ["registry"],
  "gateway.replicas": 3,
  "gateway.apiKeysSecret": "keys",
  "gateway.consoleKeySecret": "console",
  "gateway.corsOrigins": ["https://app.example.org"],
  "gateway.drainSeconds": 120,
  "gateway.env": variable,
  "gateway.service.type": "LoadBalancer",
  "gateway.service.port": 80,
  "gateway.service.annotations": { "example.com/lb": "internal" },
  "gateway.ingress.enabled": true,
  "gateway.ingress.className": "nginx",
  "gateway.ingress.host": "models.example.com",
  "gateway.ingress.tlsSecret": "certificate",
  "gateway.ingress.annotations": { "example.com/buffering": "off" },
  "gateway.httpRoute.enabled": true,
  "gateway.httpRoute.parentRefs": [{ name: "public", namespace: "gateways" }],
  "gateway.httpRoute.hostnames": ["models.example.com"],
  "gateway.httpRoute.annotations": { "example.com/a": "b" },
  ...pods("gateway"),
  "operator.replicas": 2,
  "operator.allNamespaces": true,
  "operator.env": variable,
  "operator.gpuResource": "example.com/gpu",
  ...pods("operator"),
  "nats.externalUrl": "nats.example.com:4222",
  "nats.service": "second",
  "nats.existingSecrets.gateway": "bus-gateway",
  "nats.existingSecrets.prefill": "bus-prefill",
  "nats.existingSecrets.decode": "bus-decode",
  "nats.workerNamespaces": ["team-a"],
  ...image("nats.image"),
  ...pods("nats"),
  "modelService.enabled": false,
  "modelService.name": "second",
  "modelService.spec": {
    model: { pvc: { claimName: "models" } },
    servedName: "deepseek-reasoner",
    pools: { decode: { replicas: 2 } },
    ...scaled,
  },
  "modelService.scaler": "hpa",
  "modelService.prometheusUrl": "http://prometheus:9090",
  "networkPolicy.enabled": false,
  "networkPolicy.clients": [peer],
  "networkPolicy.scrapers": [{ namespaceSelector: {} }],
  "networkPolicy.extraEgress": [{ to: [peer], ports: [{ port: 4318 }] }],
  "monitoring.monitors": "always",
  "monitoring.rules": "always",
  "monitoring.labels": { release: "prometheus" },
  "monitoring.intervalSeconds": 60,
  "monitoring.dashboards": true,
  "monitoring.dashboardLabels": { dashboards: "yes" },
  upgradeCrds: false,
  testApiKeySecret: "key",
};

/** Without these, a value has no effect. */
export const besides: Record<string, object> = {
  "gateway.ingress.enabled": {},
  "gateway.httpRoute.enabled": { "gateway.httpRoute.parentRefs": [{ name: "other" }] },
  "gateway.ingress.": { "gateway.ingress.enabled": true },
  "gateway.httpRoute.": { "gateway.httpRoute.enabled": true, "gateway.httpRoute.parentRefs": [{ name: "other" }] },
  "modelService.scaler": { "modelService.spec": scaled },
  "modelService.prometheusUrl": {
    "modelService.spec": scaled,
    "modelService.scaler": "keda",
    "modelService.prometheusUrl": "http://other",
  },
  "nats.service": { "nats.externalUrl": "nats:4222" },
  "monitoring.labels": { "monitoring.monitors": "always" },
  "monitoring.intervalSeconds": { "monitoring.monitors": "always" },
  "monitoring.dashboardLabels": { "monitoring.dashboards": true },
};

/** Kubernetes takes these as names; YAML, unless they are quoted, as numbers and truth values. */
export const numberLikeNames: Record<string, unknown> = {
  imagePullSecrets: ["1"],
  "gateway.apiKeysSecret": "2",
  "gateway.consoleKeySecret": "1e5",
  "gateway.ingress.className": "3",
  "gateway.ingress.tlsSecret": "4",
  ...Object.fromEntries(["gateway", "operator", "nats"].map((name) => [`${name}.priorityClassName`, "5"])),
  ...Object.fromEntries(["gateway", "prefill", "decode"].map((role) => [`nats.existingSecrets.${role}`, "6"])),
  "nats.workerNamespaces": ["7"],
  "modelService.name": "on",
  testApiKeySecret: "8",
};
