// A hundred and more wrong ModelServices: each one change to a good one, and the field that the refusal must name.
export interface WrongModelService {
  what: string;
  object: unknown;
  field: string;
  /** More of the refusal's words, where a rule of ours has its own. */
  says?: string;
}

type Json = Record<string, unknown>;

/** Good: two pools on GPUs, scaled by the operator. */
function good(): Json {
  return {
    apiVersion: "pelagic.dev/v1alpha1",
    kind: "ModelService",
    metadata: { name: "good" },
    spec: {
      model: { pvc: { claimName: "models", path: "deepseek" } },
      servedName: "deepseek",
      image: "example.com/pelagic:1",
      kv: { dtype: "bfloat16" },
      pools: { prefill: pool(), decode: pool() },
      slo: { ttftSeconds: 2, tpotSeconds: 0.05 },
      autoscaling: { policy: "slo", prefill: { minReplicas: 1, maxReplicas: 4 }, decode: { minReplicas: 1, maxReplicas: 4 } },
    },
  };
}

function pool(): Json {
  return {
    replicas: 2,
    backend: "cuda",
    gpus: 1,
    cacheMemoryMib: 1024,
    threads: 4,
    resources: { requests: { cpu: "4", memory: "16Gi" }, limits: { memory: "16Gi" } },
    nodeSelector: { "example.com/pool": "gpu" },
    tolerations: [{ key: "nvidia.com/gpu", operator: "Exists" }],
    priorityClassName: "high",
    podTemplate: { labels: { team: "a" }, annotations: { "example.com/note": "x" }, env: [{ name: "PELAGIC_LOG_LEVEL", value: "debug" }] },
  };
}

/** undefined removes. */
function changed(path: string, value: unknown): Json {
  const object = good();
  const keys = path.split("|");
  let at = object;
  for (const key of keys.slice(0, -1)) {
    if (at[key] === undefined) at[key] = {};
    at = at[key] as Json;
  }
  const last = keys.at(-1) as string;
  if (value === undefined) delete at[last];
  else at[last] = value;
  return object;
}

function wrong(path: string, value: unknown, field: string, says?: string): WrongModelService {
  const shown = value === undefined ? "nothing" : JSON.stringify(value);
  return {
    what: `${path.replaceAll("|", ".")} = ${shown.length > 60 ? `${shown.slice(0, 60)}…` : shown}`,
    object: changed(path, value),
    field,
    ...(says === undefined ? {} : { says }),
  };
}

/** In place of the good one's spec, where what is wrong needs another backend. */
const onCpus = { model: { embedded: {} } };
const long = (length: number) => "x".repeat(length);
const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, "v"]));

const whole = [
  wrong("spec", undefined, "spec"),
  wrong("spec", [], "spec"),
  wrong("metadata|name", long(41), "metadata.name", "at most 40"),
  wrong("metadata|name", "with.dot", "metadata.name", "at most 40"),
  wrong("metadata|name", "Upper", "metadata.name"),
  wrong("spec|modle", {}, "spec.modle"),
  wrong("spec|replicas", 3, "spec.replicas"),
];

const model = [
  wrong("spec|model", undefined, "spec.model"),
  wrong("spec|model", {}, "spec.model", "exactly one of embedded, pvc, hostPath and image"),
  wrong("spec|model", "deepseek", "spec.model"),
  wrong("spec|model|embedded", {}, "spec.model", "exactly one"),
  wrong("spec|model|image", { reference: "example.com/model:1" }, "spec.model", "exactly one"),
  wrong("spec|model|hostPath", { path: "/models" }, "spec.model", "exactly one"),
  wrong("spec|model", { s3: { bucket: "b" } }, "spec.model"),
  wrong("spec|model", { embedded: { name: "other" } }, "spec.model.embedded.name"),
  wrong("spec|model|pvc", {}, "spec.model.pvc.claimName"),
  wrong("spec|model|pvc|claimName", "", "spec.model.pvc.claimName"),
  wrong("spec|model|pvc|claimName", "Not_A_Name", "spec.model.pvc.claimName"),
  wrong("spec|model|pvc|claimName", 7, "spec.model.pvc.claimName"),
  wrong("spec|model|pvc|claimName", long(254), "spec.model.pvc.claimName"),
  wrong("spec|model|pvc|path", "/absolute", "spec.model.pvc.path"),
  wrong("spec|model|pvc|path", "", "spec.model.pvc.path"),
  wrong("spec|model|pvc|path", "a/../../b", "spec.model.pvc.path", "must not contain '..'"),
  wrong("spec|model|pvc|subPath", "a", "spec.model.pvc.subPath"),
  wrong("spec|model", { hostPath: {} }, "spec.model.hostPath.path"),
  wrong("spec|model", { hostPath: { path: "relative" } }, "spec.model.hostPath.path"),
  wrong("spec|model", { hostPath: { path: "/models/../etc" } }, "spec.model.hostPath.path", "must not contain '..'"),
  wrong("spec|model", { image: {} }, "spec.model.image.reference"),
  wrong("spec|model", { image: { reference: "two words" } }, "spec.model.image.reference"),
  wrong("spec|model", { image: { reference: "" } }, "spec.model.image.reference"),
  wrong("spec|model", { image: { reference: "a", pullPolicy: "Sometimes" } }, "spec.model.image.pullPolicy"),
  wrong("spec|model", { image: { reference: "a", path: "../up" } }, "spec.model.image.path", "must not contain '..'"),
];

const service = [
  wrong("spec|servedName", "", "spec.servedName"),
  wrong("spec|servedName", "two words", "spec.servedName"),
  wrong("spec|servedName", "ends-with-", "spec.servedName"),
  wrong("spec|servedName", long(129), "spec.servedName"),
  wrong("spec|servedName", 3.1, "spec.servedName"),
  wrong("spec|image", "", "spec.image"),
  wrong("spec|image", "two words", "spec.image"),
  wrong("spec|image", { repository: "a", tag: "b" }, "spec.image"),
  wrong("spec|imagePullPolicy", "always", "spec.imagePullPolicy"),
  wrong("spec|kv|dtype", "fp16", "spec.kv.dtype"),
  wrong("spec", { ...onCpus, kv: { dtype: "fp8" } }, "spec.kv.dtype", "needs pools.*.backend cuda"),
  wrong("spec|kv|dtype", "BFLOAT16", "spec.kv.dtype"),
  wrong("spec|kv|blocks", 12, "spec.kv.blocks"),
  wrong("spec|kv", "bfloat16", "spec.kv"),
  wrong("spec|slo", undefined, "spec.slo", "required with autoscaling.policy slo"),
  wrong("spec|slo|ttftSeconds", 0, "spec.slo.ttftSeconds"),
  wrong("spec|slo|ttftSeconds", "2s", "spec.slo.ttftSeconds"),
  wrong("spec|slo|ttftSeconds", undefined, "spec.slo.ttftSeconds"),
  wrong("spec|slo|ttftSeconds", 10_000, "spec.slo.ttftSeconds"),
  wrong("spec|slo|tpotSeconds", -0.05, "spec.slo.tpotSeconds"),
  wrong("spec|slo|tpotSeconds", 100, "spec.slo.tpotSeconds"),
  wrong("spec|slo|tpotMs", 50, "spec.slo.tpotMs"),
];

const pools = [
  wrong("spec|pools", [], "spec.pools"),
  wrong("spec|pools|draft", {}, "spec.pools.draft"),
  wrong("spec|pools|prefill|backend", "cpu", "spec.pools", "gpus needs backend: cuda"),
  wrong("spec|pools|decode", { backend: "cpu" }, "spec.pools.decode.backend", "must be equal"),
  wrong("spec|pools|decode|backend", "rocm", "spec.pools.decode.backend"),
  wrong("spec|pools|decode|backend", "CUDA", "spec.pools.decode.backend"),
  wrong("spec|pools|decode|replicas", -1, "spec.pools.decode.replicas"),
  wrong("spec|pools|decode|replicas", 1.5, "spec.pools.decode.replicas"),
  wrong("spec|pools|decode|replicas", "2", "spec.pools.decode.replicas"),
  wrong("spec|pools|decode|replicas", 1001, "spec.pools.decode.replicas"),
  wrong("spec|pools|prefill|gpus", 0, "spec.pools.prefill.gpus"),
  wrong("spec|pools|prefill|gpus", 9, "spec.pools.prefill.gpus"),
  wrong("spec|pools|prefill|nodesPerReplica", 0, "spec.pools.prefill.nodesPerReplica"),
  wrong("spec|pools|prefill|nodesPerReplica", 65, "spec.pools.prefill.nodesPerReplica"),
  wrong("spec|pools|prefill|cacheMemoryMib", 0, "spec.pools.prefill.cacheMemoryMib"),
  wrong("spec|pools|prefill|cacheMemoryMib", "16Gi", "spec.pools.prefill.cacheMemoryMib"),
  wrong("spec|pools|prefill|cacheMemoryMiB", 16, "spec.pools.prefill.cacheMemoryMiB"),
  wrong(
    "spec|pools",
    { prefill: { cacheMemoryMib: 2048, resources: { limits: { memory: "2Gi" } } } },
    "spec.pools.prefill.cacheMemoryMib",
    "must be smaller than resources.limits.memory",
  ),
  wrong("spec|pools|prefill|threads", 0, "spec.pools.prefill.threads"),
  wrong("spec|pools|prefill|threads", true, "spec.pools.prefill.threads"),
  wrong("spec|pools|prefill|drainSeconds", 0, "spec.pools.prefill.drainSeconds"),
  wrong("spec|pools|prefill|drainSeconds", 86_401, "spec.pools.prefill.drainSeconds"),
  wrong("spec|pools|prefill|drainSeconds", "2m", "spec.pools.prefill.drainSeconds"),
  wrong("spec|pools|prefill|topologySpread", "yes", "spec.pools.prefill.topologySpread"),
  wrong("spec|pools|prefill|priorityClassName", "Not_A_Name", "spec.pools.prefill.priorityClassName"),
  wrong("spec|pools|prefill|resources|limits", { memory: "lots" }, "spec.pools.prefill.resources.limits"),
  wrong("spec|pools|prefill|resources|limits", { memory: "16GB" }, "spec.pools.prefill.resources.limits"),
  wrong("spec|pools|prefill|resources|limits", { memory: "8Gi" }, "spec.pools.prefill.resources.requests", "must not be larger"),
  wrong("spec|pools|prefill|resources|requests|cpu", -1, "spec.pools.prefill.resources.requests"),
  wrong("spec|pools|prefill|resources|requests|no such thing", "1", "spec.pools.prefill.resources.requests", "resource's name"),
  wrong("spec|pools|prefill|resources|claims", [], "spec.pools.prefill.resources.claims"),
  wrong("spec|pools|prefill|nodeSelector", { "bad key": "x" }, "spec.pools.prefill.nodeSelector", "qualified name"),
  wrong("spec|pools|prefill|nodeSelector", { key: "bad value" }, "spec.pools.prefill.nodeSelector", "letter or digit"),
  wrong("spec|pools|prefill|nodeSelector", { key: true }, "spec.pools.prefill.nodeSelector.key"),
  wrong("spec|pools|prefill|nodeSelector", many(33), "spec.pools.prefill.nodeSelector"),
  wrong("spec|pools|prefill|tolerations", {}, "spec.pools.prefill.tolerations"),
  wrong("spec|pools|prefill|tolerations", [{ key: "a", operator: "Like" }], "spec.pools.prefill.tolerations[0].operator"),
  wrong("spec|pools|prefill|tolerations", [{ key: "a", effect: "Never" }], "spec.pools.prefill.tolerations[0].effect"),
  wrong("spec|pools|prefill|tolerations", [{ value: "a" }], "spec.pools.prefill.tolerations[0].key", "operator: Exists"),
  wrong(
    "spec|pools|prefill|tolerations",
    [{ key: "a", operator: "Exists", value: "b" }],
    "spec.pools.prefill.tolerations[0].value",
    "must not be given",
  ),
  wrong(
    "spec|pools|prefill|tolerations",
    [{ key: "a", effect: "NoSchedule", tolerationSeconds: 3 }],
    "spec.pools.prefill.tolerations[0].tolerationSeconds",
    "effect: NoExecute",
  ),
  wrong("spec|pools|prefill|podTemplate|spec", {}, "spec.pools.prefill.podTemplate.spec"),
  wrong("spec|pools|prefill|podTemplate|labels", { "pelagic.dev/pool": "x" }, "spec.pools.prefill.podTemplate.labels", "operator's own"),
  wrong(
    "spec|pools|prefill|podTemplate|labels",
    { "app.kubernetes.io/name": "x" },
    "spec.pools.prefill.podTemplate.labels",
    "operator's own",
  ),
  wrong("spec|pools|prefill|podTemplate|labels", { key: "-" }, "spec.pools.prefill.podTemplate.labels", "letter or digit"),
  wrong(
    "spec|pools|prefill|podTemplate|annotations",
    { "pelagic.dev/x": "y" },
    "spec.pools.prefill.podTemplate.annotations",
    "operator's own",
  ),
  wrong("spec|pools|prefill|podTemplate|annotations", { "a b": "y" }, "spec.pools.prefill.podTemplate.annotations", "qualified name"),
  wrong("spec|pools|prefill|podTemplate|env", [{ name: "PELAGIC_MODEL", value: "/x" }], "spec.pools.prefill.podTemplate.env[0].name"),
  wrong("spec|pools|prefill|podTemplate|env", [{ name: "A-B" }], "spec.pools.prefill.podTemplate.env[0].name"),
  wrong("spec|pools|prefill|podTemplate|env", [{ name: "A" }, { name: "A" }], "spec.pools.prefill.podTemplate.env[1]"),
  wrong("spec|pools|prefill|podTemplate|env", [{ value: "a" }], "spec.pools.prefill.podTemplate.env[0].name"),
  wrong("spec|pools|prefill|podTemplate|env", [{ name: "A", value: 3 }], "spec.pools.prefill.podTemplate.env[0].value"),
  wrong("spec|pools|prefill|podTemplate|env", [{ name: "A", valueFrom: {} }], "spec.pools.prefill.podTemplate.env[0].valueFrom"),
  wrong("spec|pools|prefill|podTemplate|env", { A: "b" }, "spec.pools.prefill.podTemplate.env"),
];

const autoscaling = [
  wrong("spec|autoscaling|policy", "off", "spec.autoscaling.policy"),
  // What YAML makes of a bare off.
  wrong("spec|autoscaling|policy", false, "spec.autoscaling.policy"),
  wrong("spec|autoscaling|policy", "hpa", "spec.autoscaling.policy"),
  wrong("spec|autoscaling|prefill", undefined, "spec.autoscaling.prefill", "required with policy slo and external"),
  wrong("spec|autoscaling|decode", undefined, "spec.autoscaling.decode", "required with policy slo and external"),
  wrong("spec|autoscaling|decode", { minReplicas: 1 }, "spec.autoscaling.decode.maxReplicas"),
  wrong("spec|autoscaling|decode", { minReplicas: 5, maxReplicas: 4 }, "spec.autoscaling.decode.minReplicas", "must not be larger"),
  wrong("spec|autoscaling|decode", { minReplicas: 0, maxReplicas: 4 }, "spec.autoscaling.decode.minReplicas"),
  wrong("spec|autoscaling|decode", { maxReplicas: 1001 }, "spec.autoscaling.decode.maxReplicas"),
  wrong("spec|autoscaling|decode", { maxReplicas: 0 }, "spec.autoscaling.decode.maxReplicas"),
  wrong("spec|autoscaling|scaleToZeroAfterSeconds", 59, "spec.autoscaling.scaleToZeroAfterSeconds"),
  wrong("spec|autoscaling|scaleToZeroAfterSeconds", "5m", "spec.autoscaling.scaleToZeroAfterSeconds"),
  wrong("spec|autoscaling", { scaleToZeroAfterSeconds: 600 }, "spec.autoscaling.scaleToZeroAfterSeconds", "needs policy: slo"),
  wrong("spec|autoscaling|stabilizationSeconds", -1, "spec.autoscaling.stabilizationSeconds"),
  wrong("spec|autoscaling|stabilizationSeconds", 3601, "spec.autoscaling.stabilizationSeconds"),
  wrong("spec|autoscaling|minReplicas", 1, "spec.autoscaling.minReplicas"),
];

const experts = [
  wrong("spec|experts", { redundancy: 4 }, "spec.experts.ranks"),
  wrong("spec|experts", { ranks: 1 }, "spec.experts.ranks"),
  wrong("spec|experts", { ranks: 513 }, "spec.experts.ranks"),
  wrong("spec|experts", { ranks: 4, redundancy: -1 }, "spec.experts.redundancy"),
  wrong("spec|experts", { ranks: 4, rebalanceSeconds: 90_000 }, "spec.experts.rebalanceSeconds"),
  wrong("spec|experts", { ranks: 4, policy: "even" }, "spec.experts.policy"),
  wrong("spec|experts", { ranks: 4, redundant: 4 }, "spec.experts.redundant"),
  wrong("spec|experts", { ranks: 4 }, "spec.experts", "needs autoscaling.policy none"),
  wrong("spec|experts", { ranks: 4, redundancy: 1 }, "spec.experts", "needs pools.decode.backend cpu"),
  wrong("spec", { ...onCpus, pools: { decode: { nodesPerReplica: 2 } }, experts: { ranks: 4 } }, "spec.experts", "nodesPerReplica 1"),
];

export const wrongModelServices: WrongModelService[] = [...whole, ...model, ...service, ...pools, ...autoscaling, ...experts];
