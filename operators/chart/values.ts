// The chart's values: this is the one source; values.yaml, values.schema.json and the chart's README are generated from it (npm run generate).
// Every field has a default, so that values.yaml shows them all; an empty text or object stands for what Kubernetes or the process chooses.
import { z } from "zod";
import {
  Env,
  ExtraAnnotations,
  ExtraLabels,
  NodeSelector,
  ObjectName,
  Resources,
  Tolerations,
  dnsLabelPattern,
} from "../api/kubernetes-fields.ts";
import { ModelServiceSpec } from "../api/model-service.ts";

const pullPolicy = z.enum(["", "Always", "IfNotPresent", "Never"]).default("");
const port = z.int32().min(1).max(65_535);
const seconds = z.int32().min(1).max(3600);
const name = z.union([z.literal(""), ObjectName]).default("");
const annotations = z.record(z.string(), z.string());
const drainSeconds = seconds.default(30);

function image(repository: string, tag: string, tagNote: string) {
  return z
    .object({
      repository: z.string().min(1).max(512).default(repository).describe("The image's name, with its registry."),
      tag: z.string().max(128).default(tag).describe(tagNote),
      digest: z
        .string()
        .regex(/^(sha256:[0-9a-f]{64})?$/)
        .default("")
        .describe("sha256:..., which pins the image whatever its tag says."),
      pullPolicy: pullPolicy.describe("When a node pulls it; Kubernetes' own default where empty."),
    })
    .prefault({});
}

/** What the pods of each Deployment can be told. */
function podFields(requests: { cpu: string; memory: string }) {
  return {
    resources: Resources.prefault({ requests }).describe("CPU and memory of a pod."),
    nodeSelector: NodeSelector.default({}).describe("Labels that a node must have."),
    tolerations: Tolerations.default([]).describe("Taints that the pods accept."),
    priorityClassName: name.describe("The pods' PriorityClass."),
    podLabels: ExtraLabels.default({}).describe("Added to the pods' labels."),
    podAnnotations: ExtraAnnotations.default({}).describe("Added to the pods' annotations."),
  };
}

/** A part of a Gateway API or NetworkPolicy object, as it is written there; the API server checks it. */
const asWritten = z.record(z.string(), z.unknown());

const Gateway = z
  .object({
    replicas: z.int32().min(0).max(1000).default(1).describe("Gateways. Two or more, where one node may fail."),
    apiKeysSecret: name.describe(
      "A Secret whose keys.json is a file of `./pelagic keys create`. Without it, whoever reaches the gateway may ask.",
    ),
    consoleKeySecret: name.describe(
      "A Secret whose key is what the console at /console/ asks for, 16 characters or more. Without it there is no console.",
    ),
    corsOrigins: z
      .array(z.string().min(1).max(253))
      .default([])
      .describe("Web pages that may ask from a browser, such as https://app.example.org; * for any, with apiKeysSecret only."),
    drainSeconds: drainSeconds.describe("How long a gateway that is stopped may finish its requests."),
    env: Env.default([]).describe("Added to the gateway's environment, such as PELAGIC_MAX_RUNNING or OTEL_EXPORTER_OTLP_ENDPOINT."),
    service: z
      .object({
        type: z.enum(["ClusterIP", "NodePort", "LoadBalancer"]).default("ClusterIP").describe("The Service's type."),
        port: port.default(8000).describe("The Service's port."),
        annotations: annotations.default({}).describe("Of the Service, such as a cloud's load balancer reads."),
      })
      .prefault({})
      .describe("The Service that clients reach."),
    ingress: z
      .object({
        enabled: z.boolean().default(false).describe("Makes an Ingress."),
        className: name.describe("The IngressClass; the cluster's default where empty."),
        host: z.string().max(253).default("").describe("The host name; any where empty."),
        tlsSecret: name.describe("A Secret with the host's certificate; without it, no TLS."),
        annotations: annotations.default({}).describe("Of the Ingress. Streams want buffering off and long timeouts."),
      })
      .prefault({})
      .describe("An Ingress before the Service."),
    httpRoute: z
      .object({
        enabled: z.boolean().default(false).describe("Makes an HTTPRoute; the Gateway API must be installed."),
        parentRefs: z.array(asWritten).default([]).describe("The Gateways that it belongs to; at least one."),
        hostnames: z.array(z.string().min(1).max(253)).default([]).describe("Host names; any where empty."),
        annotations: annotations.default({}).describe("Of the HTTPRoute."),
      })
      .prefault({})
      .describe("An HTTPRoute of the Gateway API before the Service."),
    ...podFields({ cpu: "100m", memory: "512Mi" }),
  })
  .prefault({})
  .describe("The HTTP gateway. It learns from the workers which models there are.");

const Operator = z
  .object({
    replicas: z.int32().min(0).max(10).default(1).describe("Operators, of which one leads. Two take over from each other within 20 s."),
    allNamespaces: z
      .boolean()
      .default(false)
      .describe("Look after ModelServices of all namespaces, by a ClusterRole; otherwise of the release's, by a Role."),
    env: Env.default([]).describe("Added to the operator's environment, such as PELAGIC_LOG_LEVEL."),
    gpuResource: z.string().min(1).max(253).default("nvidia.com/gpu").describe("The resource that a pool's gpus ask for."),
    ...podFields({ cpu: "50m", memory: "128Mi" }),
  })
  .prefault({})
  .describe("The operator, which makes the workers of ModelServices.");

const roleSecrets = z
  .object({
    gateway: name.describe("Of the gateways."),
    prefill: name.describe("Of prefill workers; in each namespace with ModelServices."),
    decode: name.describe("Of decode workers; in each namespace with ModelServices."),
  })
  .prefault({})
  .describe(
    'Secrets that exist already, one for each role: `credentials.json` is {"user", "password"}, and for the chart\'s own server `password` is the same password (beginning with a letter) and the user is named as the role. Where empty, the chart makes them once, with random passwords, and keeps them over upgrades.',
  );

const Nats = z
  .object({
    externalUrl: z
      .string()
      // A password in it would be in every pod's spec.
      .regex(/^([^\s@]+:[0-9]+)?$/)
      .default("")
      .describe(
        "HOST:PORT of a NATS that exists, in all its namespaces reachable under that name; user and password are in existingSecrets. Where empty, the chart runs one of its own.",
      ),
    service: z
      .string()
      .regex(/^[A-Za-z0-9_-]{1,64}$/)
      .default("default")
      .describe("First part of all subjects. Two releases that share an external NATS need two; the chart's own server knows `default`."),
    existingSecrets: roleSecrets,
    workerNamespaces: z
      .array(
        z
          .string()
          .regex(new RegExp(`^${dnsLabelPattern}$`))
          .max(63),
      )
      .default([])
      .describe("Other namespaces with ModelServices (operator.allNamespaces): the workers' credentials are put there, too."),
    image: image("docker.io/library/nats", "2.15.1", "The version."),
    ...podFields({ cpu: "50m", memory: "64Mi" }),
  })
  .prefault({})
  .describe("The bus. It keeps nothing on disk: no JetStream, no volume.");

const FirstModelService = z
  .object({
    enabled: z.boolean().default(true).describe("Makes a first ModelService, so that one command gives a served model."),
    name: z
      .string()
      .regex(new RegExp(`^${dnsLabelPattern}$`))
      .max(40)
      .default("plankton")
      .describe("Its name, and unless spec.servedName says otherwise the model's name in requests."),
    // One that is given takes the place of the embedded model, which therefore cannot be a default here: Helm would merge the two.
    spec: ModelServiceSpec.partial({ model: true })
      .default({} as never)
      .describe("Its spec, as docs/modelservice.md says; without `model` the small one in the image."),
    scaler: z
      .enum(["none", "hpa", "keda"])
      .default("none")
      .describe(
        "With spec.autoscaling.policy external: a HorizontalPodAutoscaler for each pool (an adapter must serve pelagic_operator_desired_replicas as an external metric), or KEDA's ScaledObject.",
      ),
    prometheusUrl: z.string().max(512).default("").describe("For scaler keda: where Prometheus is."),
  })
  .prefault({})
  .describe("A first ModelService.");

const NetworkPolicies = z
  .object({
    enabled: z
      .boolean()
      .default(true)
      .describe("Makes NetworkPolicies: each pod may reach, and be reached by, what it needs and nothing else."),
    clients: z.array(asWritten).default([]).describe("Who may reach the gateways' port, as `from` of a NetworkPolicy; anyone where empty."),
    scrapers: z
      .array(asWritten)
      .default([])
      .describe("Who may read metrics, as `from` of a NetworkPolicy; anyone in the cluster where empty."),
    extraEgress: z
      .array(asWritten)
      .default([])
      .describe("More that gateways and workers may reach, such as an OpenTelemetry collector, as `egress` of a NetworkPolicy."),
  })
  .prefault({})
  .describe("NetworkPolicies.");

const whenKnown = z.enum(["auto", "always", "never"]).default("auto");

const Monitoring = z
  .object({
    monitors: whenKnown.describe("ServiceMonitor and PodMonitor of the Prometheus operator; auto: where the cluster knows them."),
    rules: whenKnown.describe("PrometheusRule with alerts and recording rules; auto: where the cluster knows it."),
    labels: ExtraLabels.default({}).describe("Of monitors and rules, by which a Prometheus chooses them."),
    intervalSeconds: seconds.default(15).describe("Between two readings of the metrics."),
    dashboards: z.boolean().default(false).describe("Makes a ConfigMap of each Grafana dashboard."),
    dashboardLabels: ExtraLabels.default({ grafana_dashboard: "1" }).describe(
      "Of those ConfigMaps, by which Grafana's sidecar finds them.",
    ),
  })
  .prefault({})
  .describe("Prometheus and Grafana.");

export const ChartValues = z.object({
  image: image("localhost/pelagic", "", "The version; the chart's own appVersion where empty.").describe(
    "The image of gateway, operator, workers and jobs, made from deploy/images. The default is what ./pelagic cluster makes; for other clusters push it to a registry and name it here.",
  ),
  imagePullSecrets: z.array(ObjectName).default([]).describe("Names of Secrets for the registry."),
  gateway: Gateway,
  operator: Operator,
  nats: Nats,
  modelService: FirstModelService,
  networkPolicy: NetworkPolicies,
  monitoring: Monitoring,
  upgradeCrds: z
    .boolean()
    .default(true)
    .describe(
      "Before an upgrade, a job brings the CRDs to the chart's version, which Helm itself does not. Without it, kubectl apply -f crds/ first.",
    ),
  testApiKeySecret: name.describe("For `helm test` where gateway.apiKeysSecret is given: a Secret whose key is an API key."),
  global: asWritten.default({}).describe("Not used; charts that contain this one may set it."),
});
export type ChartValues = z.output<typeof ChartValues>;
