// ModelService: a model and the two pools that serve it. This is the one source; the CRD, its reference page and the chart's schema are
// generated from it (npm run generate), and what the operator holds in memory is its output type.
import { z } from "zod";
import { expertPolicies, maxExpertSlots } from "../../services/lib/contracts/expert-placement.ts";
import { kvDtypes } from "../../services/lib/contracts/frame.ts";
import {
  Env,
  ExtraAnnotations,
  ExtraLabels,
  NodeSelector,
  ObjectName,
  Resources,
  Tolerations,
  dnsLabelPattern,
} from "./kubernetes-fields.ts";
import { maxRanks } from "./expert-placement.ts";
import { rules } from "./rules.ts";
import { ModelServiceStatus } from "./status.ts";

export const group = "pelagic.dev";
export const version = "v1alpha1";
export const apiVersion = `${group}/${version}`;
export const kind = "ModelService";

export const poolNames = ["prefill", "decode"] as const;
export type PoolName = (typeof poolNames)[number];

/** So that a pod's name, made from it, stays whole and fits a worker's id. */
const maxNameLength = 40;
const maxReplicas = 1000;

const pullPolicy = z.enum(["Always", "IfNotPresent", "Never"]);
const absolutePath = z
  .string()
  .min(1)
  .max(1024)
  .regex(/^\/[^\0]*$/);
/** Inside a volume: no way out of it. */
const innerPath = z
  .string()
  .min(1)
  .max(1024)
  .regex(/^[^/\0][^\0]*$/)
  .meta(rules({ rule: "!self.split('/').exists(part, part == '..')", message: "path must not contain '..'" }));
const imageReference = z
  .string()
  .min(1)
  .max(512)
  .regex(/^[^\s]+$/);

const Embedded = z.object({}).describe("The small model that is in the worker image: for a first look, needs nothing else.");

const ModelClaim = z.object({
  claimName: ObjectName.describe(
    "A PersistentVolumeClaim of the same namespace. Every worker mounts it read-only; its files must be readable for user 65532.",
  ),
  path: innerPath.optional().describe("The model's folder inside the volume; the volume's root unless given."),
});

const ModelHostPath = z.object({
  path: absolutePath
    .meta(rules({ rule: "!self.split('/').exists(part, part == '..')", message: "path must not contain '..'" }))
    .describe("The model's folder on every node where workers may run. The namespace's Pod Security must allow hostPath."),
});

const ModelImage = z.object({
  reference: imageReference.describe(
    "An OCI image or artifact that holds the model; mounted read-only as an image volume (Kubernetes 1.33 or newer).",
  ),
  path: innerPath.optional().describe("The model's folder inside the image; its root unless given."),
  pullPolicy: pullPolicy.default("IfNotPresent").describe("When a node pulls it."),
});

export const ModelSource = z
  .object({
    embedded: Embedded.optional(),
    pvc: ModelClaim.optional().describe("A volume that holds the model."),
    hostPath: ModelHostPath.optional().describe("A folder that every node has."),
    image: ModelImage.optional().describe("An image that holds the model."),
  })
  .meta(
    rules({
      rule: "[has(self.embedded), has(self.pvc), has(self.hostPath), has(self.image)].exists_one(given, given)",
      message: "spec.model must have exactly one of embedded, pvc, hostPath and image",
    }),
  )
  .describe(
    "Where the model comes from: exactly one of these. A model is a Hugging Face folder: config.json, safetensors, tokenizer.json.",
  );

export const PodTemplate = z
  .object({
    labels: ExtraLabels.optional().describe("Added to the pods' labels."),
    annotations: ExtraAnnotations.optional().describe("Added to the pods' annotations."),
    env: Env.optional().describe("Added to the workers' environment, such as PELAGIC_LOG_LEVEL or OTEL_EXPORTER_OTLP_ENDPOINT."),
  })
  .describe("What else the pods carry.");

export const Pool = z
  .object({
    replicas: z
      .int32()
      .min(0)
      .max(maxReplicas)
      .default(1)
      .describe("Workers wanted. Not used where autoscaling decides, or experts.ranks."),
    backend: z.enum(["cpu", "cuda"]).default("cpu").describe("What computes; the same in both pools, since their bits differ."),
    gpus: z.int32().min(1).max(8).optional().describe("GPUs of a pod, for backend cuda; 1 unless given. A worker computes on the first."),
    nodesPerReplica: z
      .int32()
      .min(1)
      .max(64)
      .default(1)
      .describe(
        "Pods that are one replica, each on a node of its own where topologySpread can have it so; more than 1 makes a LeaderWorkerSet, whose CRD must be installed. Each pod is a worker of its own today: the group is placed, rolled and scaled as one.",
      ),
    cacheMemoryMib: z
      .int32()
      .min(1)
      .max(16_777_216)
      .optional()
      .describe("Memory of the KV cache; the worker's own default (256) unless given."),
    threads: z
      .int32()
      .min(1)
      .max(1024)
      .optional()
      .describe("Compute threads; unless given, as many as whole CPUs in the limit, or else the request."),
    resources: Resources.optional().describe("CPU and memory of a pod. GPUs are added from gpus."),
    nodeSelector: NodeSelector.optional().describe("Labels that a node must have."),
    tolerations: Tolerations.optional().describe("Taints that the pods accept."),
    priorityClassName: ObjectName.optional().describe("The pods' PriorityClass."),
    topologySpread: z.boolean().default(true).describe("Spread the pods over nodes and zones where possible."),
    drainSeconds: z
      .int32()
      .min(1)
      .max(86_400)
      .default(120)
      .describe("How long a worker that is stopped may finish its requests; gateways move what they can to other workers meanwhile."),
    podTemplate: PodTemplate.optional(),
  })
  .meta(
    rules(
      { rule: "self.backend == 'cuda' || !has(self.gpus)", message: "gpus needs backend: cuda", fieldPath: ".gpus" },
      {
        rule: `self.backend != 'cpu' || !has(self.cacheMemoryMib) || !has(self.resources) || !has(self.resources.limits)
          || !('memory' in self.resources.limits)
          || quantity(string(self.resources.limits['memory'])).asApproximateFloat() > double(self.cacheMemoryMib) * 1048576.0`.replace(
          /\s+/g,
          " ",
        ),
        message: "cacheMemoryMib must be smaller than resources.limits.memory, or the worker is killed for memory",
        fieldPath: ".cacheMemoryMib",
      },
    ),
  );
export type Pool = z.output<typeof Pool>;

export const Pools = z
  .object({
    prefill: Pool.prefault({}).describe("Workers that compute prompts."),
    decode: Pool.prefault({}).describe("Workers that own requests and sample every token."),
  })
  .meta(
    rules({
      // A default is checked as it is written, before those inside it are filled in: hence has().
      rule: "!has(self.prefill) || !has(self.decode) || self.prefill.backend == self.decode.backend",
      message: "pools.prefill.backend and pools.decode.backend must be equal: workers with other bits cannot exchange cache",
      fieldPath: ".decode.backend",
    }),
  )
  .describe("The two pools.");

export const Experts = z
  .object({
    ranks: z
      .int32()
      .min(2)
      .max(maxRanks)
      .describe(
        "Decode pods that compute together: each has all of attention, requests and cache of its own, and a part of every layer's experts. They are the decode pool, and are replaced together: a change starts as many new ones first.",
      ),
    redundancy: z
      .int32()
      .min(0)
      .max(maxExpertSlots - 1)
      .default(0)
      .describe(
        "Copies of experts in each layer beside one of each. Where every expert has two, any rank may be lost and the others go on at once: ExpertPlacement's condition Redundant says whether. Without, all wait until a lost rank is back.",
      ),
    policy: z
      .enum(expertPolicies)
      .default("balanced")
      .describe(
        "By what the experts are placed anew: balanced is Pelagic's own, at least as even as DeepSeek's published algorithm in every case tried and with fewer moves; published is that one.",
      ),
    rebalanceSeconds: z
      .int32()
      .min(0)
      .max(86_400)
      .default(60)
      .describe(
        "How often the experts are placed anew by their load of late, while the ranks serve; nothing moves where that gains little. 0: never.",
      ),
  })
  .describe("Experts spread over several decode pods, for models that do not fit one. An ExpertPlacement of the same name shows them.");
export type Experts = z.output<typeof Experts>;

export const Slo = z
  .object({
    ttftSeconds: z.number().positive().max(3600).describe("Time to first token that requests should meet."),
    tpotSeconds: z.number().positive().max(60).describe("Time per output token after the first that requests should meet."),
  })
  .describe("What users should see; autoscaling steers by it. Without it, policy external exports no number.");

const ScalingRange = z
  .object({
    minReplicas: z.int32().min(1).max(maxReplicas).default(1).describe("Never fewer, except at zero."),
    maxReplicas: z.int32().min(1).max(maxReplicas).describe("Never more."),
  })
  .meta(
    rules({
      rule: "self.minReplicas <= self.maxReplicas",
      message: "minReplicas must not be larger than maxReplicas",
      fieldPath: ".minReplicas",
    }),
  );

export const scalingPolicies = ["none", "slo", "external"] as const;

export const Autoscaling = z
  .object({
    policy: z
      .enum(scalingPolicies)
      .default("none")
      .describe(
        "none: pools have the replicas that they are given. slo: the operator chooses them. external: the operator exports what it would choose as a metric and leaves the number to an HPA or KEDA.",
      ),
    prefill: ScalingRange.optional().describe("Bounds of the prefill pool."),
    decode: ScalingRange.optional().describe("Bounds of the decode pool."),
    scaleToZeroAfterSeconds: z
      .int32()
      .min(60)
      .max(604_800)
      .optional()
      .describe("Both pools go to zero after so long without a request, and come back with the next one. Never, unless given."),
    stabilizationSeconds: z
      .int32()
      .min(0)
      .max(3600)
      .default(300)
      .describe("How long fewer replicas must have been enough before any is taken away."),
  })
  .meta(
    rules(
      {
        rule: "!has(self.policy) || self.policy == 'none' || has(self.prefill)",
        message: "autoscaling.prefill (minReplicas, maxReplicas) is required with policy slo and external",
        fieldPath: ".prefill",
      },
      {
        rule: "!has(self.policy) || self.policy == 'none' || has(self.decode)",
        message: "autoscaling.decode (minReplicas, maxReplicas) is required with policy slo and external",
        fieldPath: ".decode",
      },
      {
        rule: "self.policy == 'slo' || !has(self.scaleToZeroAfterSeconds)",
        message: "scaleToZeroAfterSeconds needs policy: slo",
        fieldPath: ".scaleToZeroAfterSeconds",
      },
    ),
  )
  .describe("Who chooses the number of workers.");

export const ModelServiceSpec = z
  .object({
    model: ModelSource,
    servedName: z
      .string()
      .min(1)
      .max(128)
      .regex(/^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$/)
      .optional()
      .describe(
        "The model's name in requests; the ModelService's own name unless given. Of two with the same name, in whatever namespaces, only the older is served.",
      ),
    image: imageReference.optional().describe("The worker image; the operator's own (--worker-image) unless given."),
    imagePullPolicy: pullPolicy.optional().describe("When a node pulls the worker image; Kubernetes' own default unless given."),
    kv: z
      .object({
        dtype: z
          .enum(kvDtypes)
          .default("bfloat16")
          .describe("Numbers of the cache: bfloat16; float32 on CPUs, twice the memory; fp8 on GPUs, 0.57 of it."),
      })
      .prefault({})
      .describe("The KV cache."),
    pools: Pools.prefault({}),
    experts: Experts.optional(),
    slo: Slo.optional(),
    autoscaling: Autoscaling.prefault({}),
  })
  .meta(
    rules(
      {
        rule: "self.autoscaling.policy != 'slo' || has(self.slo)",
        message: "spec.slo (ttftSeconds, tpotSeconds) is required with autoscaling.policy slo",
        fieldPath: ".slo",
      },
      {
        rule: "self.kv.dtype != 'fp8' || self.pools.decode.backend == 'cuda'",
        message: "kv.dtype fp8 needs pools.*.backend cuda",
        fieldPath: ".kv.dtype",
      },
      {
        rule: "!has(self.experts) || self.autoscaling.policy == 'none'",
        message: "experts needs autoscaling.policy none: the number of ranks is experts.ranks",
        fieldPath: ".experts",
      },
      {
        rule: "!has(self.experts) || self.pools.decode.backend == 'cpu'",
        message: "experts needs pools.decode.backend cpu: pods make no ranks on GPUs yet",
        fieldPath: ".experts",
      },
      {
        rule: "!has(self.experts) || self.pools.decode.nodesPerReplica == 1",
        message: "experts needs pools.decode.nodesPerReplica 1: ranks spread over nodes by themselves",
        fieldPath: ".experts",
      },
    ),
  )
  .describe("What is wanted.");
export type ModelServiceSpec = z.output<typeof ModelServiceSpec>;

/** What the operator needs of an object's metadata; the rest passes by. */
const Metadata = z.object({
  name: z.string().min(1),
  namespace: z.string().min(1),
  uid: z.string().min(1),
  generation: z.number().int().default(1),
  creationTimestamp: z.string().optional(),
  deletionTimestamp: z.string().optional(),
  finalizers: z.array(z.string()).default([]),
});

export const ModelService = z.object({
  apiVersion: z.literal(apiVersion),
  kind: z.literal(kind),
  metadata: Metadata,
  spec: ModelServiceSpec,
  status: ModelServiceStatus.optional(),
});
export type ModelService = z.output<typeof ModelService>;

/** Rules over the whole object, where metadata.name can be seen. */
export const objectRules = [
  {
    rule: `size(self.metadata.name) <= ${maxNameLength} && self.metadata.name.matches('^${dnsLabelPattern}$')`,
    message: `metadata.name must be at most ${maxNameLength} lower-case letters, digits and '-': the names of pods and workers are made from it`,
  },
];

export function servedNameOf(service: Pick<ModelService, "metadata" | "spec">): string {
  return service.spec.servedName ?? service.metadata.name;
}
