// A service account with the rights of operators/kube/rights.ts, which the chart gives the operator, and no others.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clusterRules, everywhereRules, leaseRules, modelServiceRules } from "../../operators/kube/rights.ts";
import type { TestApiServer } from "./api-server.ts";

/** The kubeconfig of such an account. */
export async function operatorAccount(server: TestApiServer): Promise<string> {
  const name = "pelagic-operator";
  const subjects = [{ kind: "ServiceAccount", name, namespace: "default" }];
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const apiGroup = "rbac.authorization.k8s.io";
  const made: [string, object][] = [
    ["/api/v1/namespaces/default/serviceaccounts", {}],
    [`${rbac}/clusterroles`, { rules: [...modelServiceRules, ...clusterRules, ...everywhereRules] }],
    [`${rbac}/clusterrolebindings`, { subjects, roleRef: { apiGroup, kind: "ClusterRole", name } }],
    ["/apis/coordination.k8s.io/v1/namespaces/default/leases", {}],
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
