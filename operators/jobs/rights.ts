// What the jobs may do, as RBAC rules from which the chart's roles are made.
import { crdName } from "../api/crd.ts";
import type { Rule } from "../kube/rights.ts";

export const applyCrdsRules: Rule[] = [
  {
    apiGroups: ["apiextensions.k8s.io"],
    resources: ["customresourcedefinitions"],
    resourceNames: [crdName],
    verbs: ["get", "update"],
  },
];

export const deleteModelsRules: Rule[] = [{ apiGroups: ["pelagic.dev"], resources: ["modelservices"], verbs: ["list", "delete"] }];
