// A service account with the rights that operators/kube/README.md names, and no others.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestApiServer } from "./api-server.ts";

const read = ["get", "list", "watch"];
const write = ["patch", "create", "delete"];
const rules = [
  { apiGroups: ["pelagic.dev"], resources: ["modelservices"], verbs: [...read, "patch"] },
  { apiGroups: ["pelagic.dev"], resources: ["modelservices/status"], verbs: ["patch"] },
  { apiGroups: ["apps"], resources: ["deployments"], verbs: [...read, ...write] },
  { apiGroups: ["leaderworkerset.x-k8s.io"], resources: ["leaderworkersets"], verbs: [...read, ...write] },
  { apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: [...read, ...write] },
  { apiGroups: [""], resources: ["pods"], verbs: read },
  { apiGroups: [""], resources: ["persistentvolumeclaims"], verbs: ["get"] },
  {
    apiGroups: ["apiextensions.k8s.io"],
    resources: ["customresourcedefinitions"],
    resourceNames: ["leaderworkersets.leaderworkerset.x-k8s.io"],
    verbs: read,
  },
  { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"] },
];
const leaseRules = [
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create"] },
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], resourceNames: ["pelagic-operator"], verbs: ["get", "update"] },
];

/** The kubeconfig of such an account. */
export async function operatorAccount(server: TestApiServer): Promise<string> {
  const name = "pelagic-operator";
  const subjects = [{ kind: "ServiceAccount", name, namespace: "default" }];
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const apiGroup = "rbac.authorization.k8s.io";
  const made: [string, object][] = [
    ["/api/v1/namespaces/default/serviceaccounts", {}],
    [`${rbac}/clusterroles`, { rules }],
    [`${rbac}/clusterrolebindings`, { subjects, roleRef: { apiGroup, kind: "ClusterRole", name } }],
    [`${rbac}/namespaces/default/roles`, { rules: leaseRules }],
    [`${rbac}/namespaces/default/rolebindings`, { subjects, roleRef: { apiGroup, kind: "Role", name } }],
  ];
  for (const [path, fields] of made) await must(server, path, { metadata: { name }, ...fields });
  const { status } = await must(server, `/api/v1/namespaces/default/serviceaccounts/${name}/token`, {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenRequest",
    spec: {},
  });
  const config = JSON.parse(readFileSync(server.kubeconfig, "utf8"));
  config.users[0].user = { token: status.token };
  const path = join(server.dir, "operator.kubeconfig");
  writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
  return path;
}

// biome-ignore lint/suspicious/noExplicitAny: any object's fields
async function must(server: TestApiServer, path: string, body: object): Promise<any> {
  const answer = await server.call("POST", path, { body });
  if (answer.status >= 300) throw new Error(`${path}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}
