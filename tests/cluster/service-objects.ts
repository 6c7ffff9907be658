// What tests of the operator do with ModelServices on a test API server.
import { crdNames, crdOf } from "../../operators/api/crd.ts";
import type { TestApiServer } from "./api-server.ts";

export const servicesPath = "/apis/pelagic.dev/v1alpha1/namespaces/default/modelservices";
export const placementsPath = "/apis/pelagic.dev/v1alpha1/namespaces/default/expertplacements";
export const deploymentsPath = "/apis/apps/v1/namespaces/default/deployments";
export const budgetsPath = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

export async function installCrds(server: TestApiServer): Promise<void> {
  for (const name of crdNames)
    await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", { body: crdOf(name, "1.2.3") });
  for (const path of [servicesPath, placementsPath])
    await server.until(path, async () => ((await server.call("GET", path)).status === 200 ? true : undefined));
}

export function service(name: string, spec: object = {}) {
  return { apiVersion: "pelagic.dev/v1alpha1", kind: "ModelService", metadata: { name }, spec: { model: { embedded: {} }, ...spec } };
}

export async function applyService(server: TestApiServer, name: string, spec: object = {}): Promise<void> {
  const answer = await server.apply(`${servicesPath}/${name}`, service(name, spec));
  if (answer.status >= 300) throw new Error(JSON.stringify(answer.body));
}

/** The object at `path` once `holds` says so of it. */
// biome-ignore lint/suspicious/noExplicitAny: any object's fields
export function objectWhere(server: TestApiServer, path: string, holds: (object: any) => boolean): Promise<any> {
  return server.until(path, async () => {
    const { status, body } = await server.call("GET", path);
    return status === 200 && holds(body) ? body : undefined;
  });
}

export function gone(server: TestApiServer, path: string): Promise<true> {
  return server.until(`${path} to be gone`, async () => ((await server.call("GET", path)).status === 404 ? true : undefined));
}

// biome-ignore lint/suspicious/noExplicitAny: any object's fields
export function condition(object: any, type: string): any {
  return object.status?.conditions?.find((each: { type: string }) => each.type === type);
}

/** Acts as the Deployment controller would once all workers are ready. */
export async function makeReady(server: TestApiServer, name: string): Promise<void> {
  const { body } = await server.call("GET", `${deploymentsPath}/${name}`);
  const { replicas } = body.spec;
  const status = { observedGeneration: body.metadata.generation, replicas, readyReplicas: replicas, updatedReplicas: replicas };
  const patched = await server.call("PATCH", `${deploymentsPath}/${name}/status`, {
    body: { status: { ...status, availableReplicas: replicas } },
    contentType: "application/merge-patch+json",
  });
  if (patched.status !== 200) throw new Error(JSON.stringify(patched.body));
}
