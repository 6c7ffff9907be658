// The CustomResourceDefinition of ModelService, for the chart's crds/ and for the job that brings it up to date.
import { apiVersion, group, kind, ModelServiceSpec, objectRules, version } from "./model-service.ts";
import { ModelServiceStatus } from "./status.ts";
import { structuralSchema } from "./structural.ts";

const plural = "modelservices";
export const crdName = `${plural}.${group}`;
/** Of Pelagic, by which an older one is told from a newer. */
export const crdVersionAnnotation = `${group}/version`;

const columns = [
  { name: "Model", type: "string", jsonPath: ".status.servedName", description: "The model's name in requests" },
  { name: "Prefill", type: "string", jsonPath: ".status.pools.prefill.workers", description: "Prefill workers, ready/desired" },
  { name: "Decode", type: "string", jsonPath: ".status.pools.decode.workers", description: "Decode workers, ready/desired" },
  {
    name: "Ready",
    type: "string",
    jsonPath: '.status.conditions[?(@.type=="Ready")].status',
    description: "Whether requests are answered",
  },
  { name: "Reason", type: "string", jsonPath: '.status.conditions[?(@.type=="Ready")].reason', description: "Why, or why not" },
  { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
];

export function modelServiceCrd(productVersion: string) {
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: {
      name: crdName,
      labels: { "app.kubernetes.io/name": "pelagic" },
      annotations: { [crdVersionAnnotation]: productVersion },
    },
    spec: {
      group,
      names: { kind, listKind: `${kind}List`, plural, singular: "modelservice", shortNames: ["ms"], categories: ["all"] },
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
              description: "A model and the two pools of workers that serve it.",
              type: "object",
              required: ["spec"],
              properties: {
                apiVersion: { type: "string", description: apiVersion },
                kind: { type: "string", description: kind },
                metadata: { type: "object" },
                spec: structuralSchema(ModelServiceSpec),
                status: structuralSchema(ModelServiceStatus),
              },
              "x-kubernetes-validations": objectRules,
            },
          },
        },
      ],
    },
  };
}
