// LeaderWorkerSets for a test API server.
/** With the fields of the LeaderWorkerSet's documentation that the planner writes; the real one has more. */
export function leaderWorkerSetCrd() {
  const template = { type: "object", "x-kubernetes-preserve-unknown-fields": true };
  const count = { type: "integer" };
  const rolling = { type: "object", properties: { maxUnavailable: count, maxSurge: count } };
  const spec = {
    type: "object",
    properties: {
      replicas: { type: "integer", default: 1 },
      startupPolicy: { type: "string" },
      rolloutStrategy: { type: "object", properties: { type: { type: "string" }, rollingUpdateConfiguration: rolling } },
      leaderWorkerTemplate: {
        type: "object",
        properties: { size: count, restartPolicy: { type: "string" }, workerTemplate: template },
      },
    },
  };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: {
      name: "leaderworkersets.leaderworkerset.x-k8s.io",
      annotations: { "api-approved.kubernetes.io": "unapproved, a test's own" },
    },
    spec: {
      group: "leaderworkerset.x-k8s.io",
      names: { kind: "LeaderWorkerSet", plural: "leaderworkersets" },
      scope: "Namespaced",
      versions: [
        {
          name: "v1",
          served: true,
          storage: true,
          schema: {
            openAPIV3Schema: {
              type: "object",
              properties: { spec, status: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
            },
          },
        },
      ],
    },
  };
}
