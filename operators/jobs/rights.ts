// What the jobs may do, as RBAC rules from which the chart's roles are made.
import { crdNames } from "../api/crd.ts";
import type { Rule } from "../kube/rights.ts";

export const applyCrdsRules: Rule[] = [
  {
    apiGroups: ["apiextensions.k8s.io"],
    resources: ["customresourcedefinitions"],
    resourceNames: crdNames,
    verbs: ["get", "update"],
  },
  // A right to create has no name. The account is there while the job runs.
  { apiGroups: ["apiextensions.k8s.io"], resources: ["customresourcedefinitions"], verbs: ["create"] },
];

export const deleteModelsRules: Rule[] = [{ apiGroups: ["pelagic.dev"], resources: ["modelservices"], verbs: ["list", "delete"] }];
