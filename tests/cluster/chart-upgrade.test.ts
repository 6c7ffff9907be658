// Somebody comes from an earlier version: its chart (kept/), with values and ModelServices of then, is installed by helm on a real API server,
// upgraded to this one, and looked after by this operator under the chart's account. Nothing of theirs changes its meaning.
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { crdOf, crdVersionAnnotation, modelServiceCrdName } from "../../operators/api/crd.ts";
import { inTree } from "../../services/cli/tree.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { chart, helm, helmMissing, type Manifest, manifests } from "./helm.ts";
import { accountKubeconfig, type JobRunner, runJobs } from "./job-runner.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";

const missing = apiServerMissing(true) ?? helmMissing();
const kept = (name: string) => inTree("tests", "cluster", "kept", name);
const oldChart = kept("pelagic-0.1.0.tgz");
const oldServices: Manifest[] = manifests(readFileSync(kept("model-services.yaml"), "utf8"));
const namespace = "trial";
const models = `/apis/pelagic.dev/v1alpha1/namespaces/${namespace}/modelservices`;
const deployments = `/apis/apps/v1/namespaces/${namespace}/deployments`;
const secrets = `/api/v1/namespaces/${namespace}/secrets`;
const crdPath = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${modelServiceCrdName}`;
let server: TestApiServer;

// One each: with a CRD of then.
beforeEach(async () => {
  if (missing === undefined) server = await startApiServer({ controllers: ["garbage-collector-controller"] });
});
afterEach(async () => server?.stop());

async function get(path: string): Promise<Manifest> {
  const answer = await server.call("GET", path);
  expect(answer.status, path).toBe(200);
  return answer.body;
}

/** What users rely on: names, who they are for the cluster, what they wrote, and passwords. */
async function ofUsers() {
  const bus = (await get(secrets)).items.filter(({ metadata }: Manifest) => metadata.name.startsWith("pelagic-nats-"));
  expect(bus).toHaveLength(3);
  return {
    models: (await get(models)).items.map(({ metadata, spec }: Manifest) => ({ name: metadata.name, uid: metadata.uid, spec })),
    passwords: bus.map(({ metadata, data }: Manifest) => ({ name: metadata.name, data })),
  };
}

describe.skipIf(missing !== undefined)(`an upgrade from an earlier version${missing === undefined ? "" : ` (${missing})`}`, () => {
  it.each([
    ["its values file", ["--values", kept("values.yaml")], ["--values", kept("values.yaml")]],
    // Helm then knows no value that is new since.
    ["--reuse-values", ["--values", kept("values.yaml")], ["--reuse-values"]],
    ["no values at all", [], []],
  ])("with %s keeps what users wrote, and this operator takes it", async (_, installFlags, upgradeFlags) => {
    await server.call("POST", "/api/v1/namespaces", { body: { metadata: { name: namespace } } });
    const jobs: JobRunner = runJobs(server, namespace);
    const release = async (command: string, what: string[], flags: string[]) => {
      const ran = await helm([command, "pelagic", ...what, "--namespace", namespace, ...flags], server.kubeconfig);
      expect(ran.exitCode, ran.stderr + JSON.stringify(jobs.ran)).toBe(0);
    };
    let operator: OperatorProcess | undefined;
    try {
      await release("install", [oldChart], installFlags);
      for (const service of oldServices) {
        const made = await server.call("POST", models, { body: service });
        expect(made.status, JSON.stringify(made.body)).toBe(201);
      }
      const before = await ofUsers();
      const selectors = async () =>
        Object.fromEntries((await get(deployments)).items.map(({ metadata, spec }: Manifest) => [metadata.name, spec.selector]));
      const selected = await selectors();

      await release("upgrade", [chart], upgradeFlags);
      expect(jobs.ran.map(({ name, code }) => [name, code])).toEqual([["pelagic-crds", 0]]);
      const { metadata, spec } = await get(crdPath);
      const now = crdOf(modelServiceCrdName, metadata.annotations[crdVersionAnnotation]);
      expect(spec.versions[0].schema).toEqual(JSON.parse(JSON.stringify(now.spec.versions[0]?.schema)));
      expect(await ofUsers()).toEqual(before);
      expect(await selectors()).toMatchObject(selected);

      const flags = ["--namespace", namespace, "--gateway-namespace", namespace, "--worker-image", "example.com/pelagic:1"];
      const account = await accountKubeconfig(server, namespace, "pelagic-operator");
      operator = await startOperator(account, [...flags, "--worker-nats-url", "nats:4222", "--lease-namespace", namespace]);
      for (const { name, spec } of before.models) {
        const said = await server.until(`a status of ${name}`, async () => (await get(`${models}/${name}`)).status ?? undefined);
        const accepted = said.conditions.find(({ type }: Manifest) => type === "Accepted");
        // Those that span nodes want an API that this cluster lacks.
        const spans = ["prefill", "decode"].some((pool) => (spec.pools?.[pool]?.nodesPerReplica ?? 1) > 1);
        expect([name, accepted.reason]).toEqual([name, spans ? "LeaderWorkerSetMissing" : "Accepted"]);
        if (spans) continue;
        for (const pool of ["prefill", "decode"])
          await server.until(`${name}-${pool}`, async () =>
            (await server.call("GET", `${deployments}/${name}-${pool}`)).status === 200 ? true : undefined,
          );
      }
      expect((await ofUsers()).models.map(({ spec }: Manifest) => spec)).toEqual(before.models.map(({ spec }: Manifest) => spec));
    } finally {
      await operator?.end();
      await jobs.stop();
    }
  });
});
