// The CustomResourceDefinitions, for the chart's crds/ and for the job that brings them up to date.
import { expertPlacementKind, ExpertPlacementSpec, ExpertPlacementStatus } from "./expert-placement.ts";
import { apiVersion, group, kind, ModelServiceSpec, objectRules, version } from "./model-service.ts";
import { ModelServiceStatus } from "./status.ts";
import type { Rule } from "./rules.ts";
import { structuralSchema, type StructuralSchema } from "./structural.ts";

/** Of Pelagic, by which an older one is told from a newer. */
export const crdVersionAnnotation = `${group}/version`;

const ready = (field: string) => `.status.conditions[?(@.type=="Ready")].${field}`;

const modelServiceColumns = [
  { name: "Model", type: "string", jsonPath: ".status.servedName", description: "The model's name in requests" },
  { name: "Prefill", type: "string", jsonPath: ".status.pools.prefill.workers", description: "Prefill workers, ready/desired" },
  { name: "Decode", type: "string", jsonPath: ".status.pools.decode.workers", description: "Decode workers, ready/desired" },
  { name: "Ready", type: "string", jsonPath: ready("status"), description: "Whether requests are answered" },
  { name: "Reason", type: "string", jsonPath: ready("reason"), description: "Why, or why not" },
  { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
];

const expertPlacementColumns = [
  { name: "Ranks", type: "string", jsonPath: ".status.ranks.present", description: "Ranks that take part, of all" },
  { name: "Lost", type: "string", jsonPath: ".status.ranks.lost", description: "Ranks that took part and do not now" },
  { name: "Losses", type: "integer", jsonPath: ".status.losses", description: "How often a rank was lost" },
  { name: "Plan", type: "integer", jsonPath: ".status.plan.version", description: "Version of the plan in force" },
  { name: "Balance", type: "number", jsonPath: ".status.balancedness", description: "Mean over largest load of a rank" },
  {
    name: "Serving",
    type: "string",
    jsonPath: '.status.conditions[?(@.type=="Serving")].status',
    description: "Whether the ranks that are there hold every expert",
  },
  { name: "Last", type: "string", jsonPath: ".status.changes[0].message", description: "What happened last" },
  { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
];

interface Definition {
  kind: string;
  plural: string;
  shortName: string;
  categories: string[];
  description: string;
  columns: object[];
  spec: StructuralSchema;
  status: StructuralSchema;
  rules: Rule[];
}

const definitions: Definition[] = [
  {
    kind,
    plural: "modelservices",
    shortName: "ms",
    categories: ["all"],
    description: "A model and the two pools of workers that serve it.",
    columns: modelServiceColumns,
    spec: structuralSchema(ModelServiceSpec),
    status: structuralSchema(ModelServiceStatus),
    rules: objectRules,
  },
  {
    kind: expertPlacementKind,
    plural: "expertplacements",
    shortName: "exp",
    categories: [],
    description: "How the ranks of a ModelService's decode pool share its experts. Made and written by the operator.",
    columns: expertPlacementColumns,
    spec: structuralSchema(ExpertPlacementSpec),
    status: structuralSchema(ExpertPlacementStatus),
    rules: [],
  },
];

export const crdNames = definitions.map(({ plural }) => `${plural}.${group}`);
export const [modelServiceCrdName] = crdNames as [string, string];

/** By name. */
export function crdOf(name: string, productVersion: string) {
  const found = definitions.find(({ plural }) => `${plural}.${group}` === name);
  if (found === undefined) throw new Error(`no CRD ${name}`);
  const { kind, plural, shortName, categories, description, columns, spec, status, rules } = found;
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name, labels: { "app.kubernetes.io/name": "pelagic" }, annotations: { [crdVersionAnnotation]: productVersion } },
    spec: {
      group,
      names: { kind, listKind: `${kind}List`, plural, singular: kind.toLowerCase(), shortNames: [shortName], categories },
      scope: "Namespaced",
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: columns,
          schema: {
            openAPIV3Schema: {
              description,
              type: "object",
              required: ["spec"],
              properties: {
                apiVersion: { type: "string", description: apiVersion },
                kind: { type: "string", description: kind },
                metadata: { type: "object" },
                spec,
                status,
              },
              ...(rules.length > 0 && { "x-kubernetes-validations": rules }),
            },
          },
        },
      ],
    },
  };
}
