// Fields that Kubernetes itself defines and a ModelService hands on to pods. Every string and list has a bound: the API server refuses CEL
// rules whose cost it cannot bound.
import { z } from "zod";
import { listMap, rules } from "./rules.ts";

const quantityPattern = "^\\+?([0-9]+|[0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$";

/** "500m", "2", 2, "64Gi". */
export const Quantity = z
  .union([z.number().int(), z.string().regex(new RegExp(quantityPattern)).max(32)])
  .meta({ "x-kubernetes-int-or-string": true, pattern: quantityPattern, maxLength: 32 });
export type Quantity = z.output<typeof Quantity>;

/** A part of a DNS name: what Kubernetes calls a label. */
export const dnsLabelPattern = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
// [.] and not \\.: in a CEL string a backslash would need one more.
const dnsNamePattern = `${dnsLabelPattern}([.]${dnsLabelPattern})*`;

/** The name of most objects. */
export const ObjectName = z
  .string()
  .min(1)
  .max(253)
  .regex(new RegExp(`^${dnsNamePattern}$`));

const qualifiedName = "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)";
const keyRule = {
  rule: `self.all(key, key.matches('^(${dnsNamePattern}/)?${qualifiedName}$'))`,
  message: "a key must be a qualified name: letters, digits, '-', '_' and '.', after an optional DNS name and '/'",
};
const labelRule = {
  rule: `self.all(key, self[key].matches('^${qualifiedName}?$'))`,
  message: "a value must be empty or begin and end with a letter or digit, with '-', '_' and '.' between",
};
const ourKeyRule = {
  rule: "self.all(key, !key.startsWith('pelagic.dev/') && !key.startsWith('app.kubernetes.io/'))",
  message: "keys of pelagic.dev/ and app.kubernetes.io/ are the operator's own: choose others",
};
const boundedMap = { maxProperties: 32 };

export const NodeSelector = z.record(z.string(), z.string().max(63)).meta({ ...boundedMap, ...rules(keyRule, labelRule) });
export const ExtraLabels = z.record(z.string(), z.string().max(63)).meta({ ...boundedMap, ...rules(keyRule, labelRule, ourKeyRule) });
export const ExtraAnnotations = z.record(z.string(), z.string().max(4096)).meta({ ...boundedMap, ...rules(keyRule, ourKeyRule) });

const resourceKeyRule = {
  rule: `self.all(key, key.matches('^(${dnsNamePattern}/)?${qualifiedName}$'))`,
  message: "a key must be a resource's name, such as cpu, memory or example.com/device",
};
const amountRule = {
  rule: "self.all(key, quantity(string(self[key])).asApproximateFloat() >= 0.0)",
  message: "an amount must not be negative",
};
const ResourceList = z.record(z.string(), Quantity).meta({ maxProperties: 16, ...rules(resourceKeyRule, amountRule) });

export const Resources = z
  .object({
    requests: ResourceList.optional().describe("What a pod is promised."),
    limits: ResourceList.optional().describe("What a pod may use at most."),
  })
  .meta(
    rules({
      rule: `!has(self.requests) || !has(self.limits) || self.requests.all(key, !(key in self.limits)
        || quantity(string(self.requests[key])).compareTo(quantity(string(self.limits[key]))) <= 0)`.replace(/\s+/g, " "),
      message: "resources.requests must not be larger than resources.limits of the same resource",
      fieldPath: ".requests",
    }),
  );
export type Resources = z.output<typeof Resources>;

export const Toleration = z
  .object({
    key: z.string().max(316).optional().describe("The taint's key; without it, with operator Exists: every taint."),
    operator: z.enum(["Equal", "Exists"]).default("Equal").describe("Whether the taint's value must be `value`, or any will do."),
    value: z.string().max(63).optional().describe("The taint's value, for Equal."),
    effect: z.enum(["NoSchedule", "PreferNoSchedule", "NoExecute"]).optional().describe("The taint's effect; without it: every effect."),
    tolerationSeconds: z.int32().min(0).optional().describe("For NoExecute: how long a pod stays; without it: for ever."),
  })
  .meta(
    rules(
      {
        rule: "self.operator != 'Exists' || !has(self.value)",
        message: "value must not be given where operator is Exists",
        fieldPath: ".value",
      },
      {
        rule: "self.operator != 'Equal' || has(self.key)",
        message: "key is required where operator is Equal (the default); for every taint write operator: Exists",
        fieldPath: ".key",
      },
      {
        rule: "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        message: "tolerationSeconds needs effect: NoExecute",
        fieldPath: ".tolerationSeconds",
      },
    ),
  );
export type Toleration = z.output<typeof Toleration>;

/** Set by the operator from other fields; given twice, one would silently win. */
export const operatorVariables = [
  "PELAGIC_WORKER_ID",
  "PELAGIC_SERVICE",
  "PELAGIC_NATS_URL",
  "PELAGIC_NATS_CREDENTIALS_FILE",
  "PELAGIC_MODEL",
  "PELAGIC_MODEL_NAME",
  "PELAGIC_KV_DTYPE",
  "PELAGIC_KV_MEMORY_MIB",
  "PELAGIC_BACKEND",
  "PELAGIC_THREADS",
  "PELAGIC_DRAIN_MS",
  "PELAGIC_RANK",
  "PELAGIC_RANK_COUNT",
  "PELAGIC_RANK_GROUP",
  "PELAGIC_REDUNDANT_EXPERTS",
  "PELAGIC_EXPERT_POLICY",
  "PELAGIC_REBALANCE_SECONDS",
  "PELAGIC_RANK_HOST",
  "PELAGIC_RANK_PORT",
  "PELAGIC_METRICS_HOST",
  "PELAGIC_METRICS_PORT",
  "PELAGIC_EXIT_WITH_PARENT",
] as const;

export const EnvVariable = z.object({
  name: z
    .string()
    .min(1)
    .max(256)
    .regex(/^[A-Za-z_][A-Za-z0-9_]*$/)
    .describe("The variable's name.")
    .meta(
      rules({
        rule: `!(self in [${operatorVariables.map((name) => `'${name}'`).join(", ")}])`,
        message: "env must not set a variable that the operator sets from other fields of the ModelService",
      }),
    ),
  value: z.string().max(4096).default("").describe("Its value. Secrets do not belong here."),
});

export const Env = z.array(EnvVariable).max(64).meta(listMap("name"));
export const Tolerations = z.array(Toleration).max(32).meta({ "x-kubernetes-list-type": "atomic" });
