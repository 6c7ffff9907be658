// The chart on a real API server without a node: rendered, checked, installed, upgraded and uninstalled by helm; its jobs and the operator run
// under the accounts that the chart gives them. Steps from "installs" on build on each other.
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crdNames, crdVersionAnnotation, modelServiceCrdName } from "../../operators/api/crd.ts";
import { valueRows } from "../../operators/chart/files.ts";
import { clusterBinary } from "../../services/cli/cluster/binaries.ts";
import { versions } from "../../services/cli/cluster/layout.ts";
import { runCommand } from "../../services/cli/run-command.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { besides, numberLikeNames, otherValues } from "./chart-values.ts";
import { chart, crdsOfOthers, helm, helmMissing, type Manifest, manifests, template } from "./helm.ts";
import { accountKubeconfig, type JobRunner, runJobs } from "./job-runner.ts";
import { writeSchemas } from "./openapi-schemas.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";

const missing = apiServerMissing(true) ?? helmMissing();
const namespace = "trial";
const crdsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const crdPath = `${crdsPath}/${modelServiceCrdName}`;
/** What an older chart did not have. */
const newCrdPaths = crdNames.filter((name) => name !== modelServiceCrdName).map((name) => `${crdsPath}/${name}`);
const models = `/apis/pelagic.dev/v1alpha1/namespaces/${namespace}/modelservices`;
const deployments = `/apis/apps/v1/namespaces/${namespace}/deployments`;

let server: TestApiServer;
let jobs: JobRunner;
let operator: OperatorProcess | undefined;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer({ controllers: ["garbage-collector-controller"] });
  for (const name of [namespace, "team-a"])
    await server.call("POST", "/api/v1/namespaces", {
      body: { metadata: { name, labels: { "pod-security.kubernetes.io/enforce": "restricted" } } },
    });
  jobs = runJobs(server, namespace);
});
afterAll(async () => {
  await operator?.end("SIGKILL");
  await jobs?.stop();
  await server?.stop();
});

async function get(path: string): Promise<Manifest> {
  const answer = await server.call("GET", path);
  expect(answer.status, path).toBe(200);
  return answer.body;
}

async function removed(path: string): Promise<void> {
  await server.call("DELETE", path);
  await server.until(`${path} to go`, async () => ((await server.call("GET", path)).status === 404 ? true : undefined));
}

async function release(command: string, ...flags: string[]): Promise<string> {
  const result = await helm(
    [command, "pelagic", ...(command === "uninstall" ? [] : [chart]), "--namespace", namespace, ...flags],
    server.kubeconfig,
  );
  expect(result.exitCode, result.stderr + JSON.stringify(jobs.ran)).toBe(0);
  // A field that the API server does not know is a warning.
  expect(result.stderr).not.toContain("Warning");
  return result.stdout;
}

async function passwords(): Promise<Record<string, string>> {
  const { items } = await get(`/api/v1/namespaces/${namespace}/secrets`);
  const own = items.filter(({ metadata }: Manifest) => metadata.name.startsWith("pelagic-nats-"));
  return Object.fromEntries(own.map(({ metadata, data }: Manifest) => [metadata.name, data["credentials.json"]]));
}

/** All that the release's labels, or the operator's, are on. */
async function whatIsThere(): Promise<string[]> {
  const found: string[] = [];
  const groups = (await get("/apis")).groups.map(({ preferredVersion }: Manifest) => `/apis/${preferredVersion.groupVersion}`);
  for (const root of ["/api/v1", ...groups]) {
    for (const { name, verbs } of (await get(root)).resources as { name: string; verbs: string[] }[]) {
      if (name.includes("/") || !verbs.includes("list")) continue;
      for (const { metadata } of (await server.call("GET", `${root}/${name}`)).body.items ?? []) {
        const { labels = {} } = metadata;
        if (labels["app.kubernetes.io/part-of"] === "pelagic" || labels["app.kubernetes.io/name"] === "pelagic" || labels.owner === "helm")
          found.push(`${name} ${metadata.name}`);
      }
    }
  }
  return [...new Set(found)].sort();
}

describe.skipIf(missing !== undefined)(`the chart${missing === undefined ? "" : ` (${missing})`}`, () => {
  it("passes helm lint", async () => {
    const result = await helm(["lint", chart, "--strict", "--kube-version", versions.kubernetes]);
    expect(result.exitCode, result.stdout).toBe(0);
  });

  it("documents every value, and each of them counts", async () => {
    const documented = valueRows().map(({ path }) => path);
    expect(Object.keys(otherValues).sort()).toEqual(documented.filter((path) => path !== "global").sort());
    const withoutEffect: string[] = [];
    for (const path of Object.keys(otherValues)) {
      const beside = Object.entries(besides).find(([prefix]) => path.startsWith(prefix))?.[1] ?? {};
      const existing = Object.fromEntries(["gateway", "prefill", "decode"].map((role) => [`nats.existingSecrets.${role}`, `s-${role}`]));
      // Random passwords would make any two renderings differ.
      const fixed = path.startsWith("nats.existingSecrets") || path === "nats.workerNamespaces" ? beside : { ...existing, ...beside };
      const [before, after] = await Promise.all([template(fixed), template({ ...fixed, [path]: otherValues[path] })]);
      const stable = (text: string) => text.replace(/p[A-Za-z0-9]{40}/g, "password");
      if (stable(before) === stable(after)) withoutEffect.push(path);
    }
    expect(withoutEffect).toEqual([]);
  });

  it.each([
    ["gateway.replica", 2, "replica"],
    ["gateway.replicas", "two", "gateway.replicas|gateway/replicas"],
    ["image.digest", "latest", "digest"],
    ["modelService.spec", { model: { embedded: {} }, pools: { decode: { replica: 2 } } }, "replica"],
    ["nats.service", "second", "nats.service"],
    ["nats.externalUrl", "nats://user:secret@nats.example.com:4222", "nats.externalUrl|nats/externalUrl"],
    ["gateway.httpRoute.enabled", true, "gateway.httpRoute.parentRefs"],
  ])("refuses %s=%j by name", async (path, value, says) => {
    await expect(template({ [path]: value })).rejects.toThrow(new RegExp(says));
  });

  it("meets the API server's own schemas, with every value set", async () => {
    const crds = await crdsOfOthers();
    const own = manifests((await helm(["show", "crds", chart])).stdout);
    for (const crd of [...(crds ?? []), ...own]) {
      const made = await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", { body: crd });
      expect([201, 409], JSON.stringify(made.body).slice(0, 500)).toContain(made.status);
    }
    const kinds =
      crds === undefined ? {} : { "monitoring.monitors": "always", "monitoring.rules": "always", "gateway.httpRoute.enabled": true };
    await server.until("their schemas", async () => {
      const paths = Object.keys((await get("/openapi/v3")).paths);
      const wanted = [
        "apis/pelagic.dev/v1alpha1",
        ...(crds === undefined
          ? []
          : ["monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1", "keda.sh/v1alpha1"].map((api) => `apis/${api}`)),
      ];
      return wanted.every((path) => paths.includes(path)) ? true : undefined;
    });
    const location = await writeSchemas(server, join(server.dir, "schemas"));
    const {
      "modelService.enabled": _,
      "networkPolicy.enabled": __,
      upgradeCrds: ___,
      "nats.externalUrl": ____,
      "nats.service": _____,
      ...all
    } = otherValues;
    if (crds === undefined) {
      for (const path of Object.keys(all)) if (/^monitoring|httpRoute/.test(path)) delete all[path];
    }
    const rendered = {
      defaults: await template(crds ? { ...kinds, "gateway.httpRoute.parentRefs": [{ name: "a" }] } : {}),
      all: await template(all),
      ...(crds && { keda: await template({ ...all, "modelService.scaler": "keda" }) }),
      names: await template({ ...all, ...numberLikeNames }, "123", "405"),
    };
    for (const [name, text] of Object.entries(rendered)) {
      const file = join(server.dir, `${name}.yaml`);
      writeFileSync(file, text);
      const args = ["-strict", "-summary", "-schema-location", location, file];
      const checked = await runCommand(clusterBinary("kubeconform") as string, args, { timeoutMs: 120_000 });
      expect(checked.exitCode, checked.stdout + checked.stderr).toBe(0);
      expect(checked.stdout).toMatch(/Valid: [1-9]\d*, Invalid: 0, Errors: 0, Skipped: 0/);
      // Its rules, too, which schemas do not have: those of the Gateway API on an HTTPRoute among them.
      const dryRun = ["--kubeconfig", server.kubeconfig, "apply", "--dry-run=server", "--namespace", namespace, "-f", file];
      const accepted = await runCommand(clusterBinary("kubectl") as string, dryRun, { timeoutMs: 120_000 });
      expect(accepted.exitCode, accepted.stderr).toBe(0);
      for (const kind of crds === undefined ? ["ingress"] : ["ingress", "httproute"])
        if (name === "all") expect(accepted.stdout).toMatch(new RegExp(`^${kind}\\S*/pelagic-gateway created`, "m"));
    }
    for (const path of [crdPath, ...newCrdPaths]) await removed(path);
  });

  it("installs: every object is accepted, and every pod is as restricted as can be", async () => {
    const notes = await release("install");
    expect(notes).toContain('"model": "plankton"');
    expect((await get(`${models}/plankton`)).spec.model).toEqual({ embedded: {} });
    const rendered = manifests(await template());
    const pods = rendered.flatMap((object) =>
      object.kind === "Pod" ? [object] : object.spec?.template?.spec ? [{ ...object.spec.template, kind: object.kind }] : [],
    );
    expect(pods.length).toBe(6);
    for (const { metadata, spec, kind } of pods) {
      const body = {
        metadata: { name: "one", labels: metadata.labels },
        spec: { ...spec, restartPolicy: kind === "Job" || kind === "Pod" ? "Never" : "Always" },
      };
      const made = await server.call("POST", `/api/v1/namespaces/${namespace}/pods?dryRun=All&fieldValidation=Strict`, { body });
      expect(made.status, made.body.message).toBe(201);
    }
  });

  it("gives the operator the rights that it needs: it makes the first model's workers", async () => {
    const container = (await get(`${deployments}/pelagic-operator`)).spec.template.spec.containers[0];
    const flags = (container.env as { name: string; value: string }[])
      .filter(({ name }) => !name.startsWith("PELAGIC_METRICS"))
      .flatMap(({ name, value }) => [`--${name.replace("PELAGIC_", "").toLowerCase().replaceAll("_", "-")}`, value]);
    operator = await startOperator(await accountKubeconfig(server, namespace, "pelagic-operator"), flags);
    const made = await server.until("the workers", async () => {
      const { items } = await get(deployments);
      return items.filter(({ metadata }: Manifest) => metadata.labels["pelagic.dev/modelservice"] === "plankton").length === 2
        ? items
        : undefined;
    });
    const decode = made.find(({ metadata }: Manifest) => metadata.name === "plankton-decode").spec.template.spec;
    expect(decode.containers[0].image).toBe(`localhost/pelagic:${(await get(crdPath)).metadata.annotations[crdVersionAnnotation]}`);
    const { data } = await get(
      `/api/v1/namespaces/${namespace}/secrets/${decode.volumes.find(({ name }: Manifest) => name === "nats").secret.secretName}`,
    );
    expect(JSON.parse(Buffer.from(data["credentials.json"], "base64").toString())).toMatchObject({
      user: "decode",
      password: expect.stringMatching(/^p\w{40}$/),
    });
    expect(operator.log()).not.toMatch(/forbidden/i);
  });

  it("upgrades: passwords and objects stay, an older CRD comes up to date, a newer one is left alone", async () => {
    const before = await passwords();
    expect(Object.keys(before)).toHaveLength(3);
    const uid = (await get(`${models}/plankton`)).metadata.uid;
    // As an older version had it: without a field, and marked as older.
    const crd = await get(crdPath);
    delete crd.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.servedName;
    crd.metadata.annotations[crdVersionAnnotation] = "0.0.1";
    expect((await server.call("PUT", crdPath, { body: crd })).status).toBe(200);
    for (const path of newCrdPaths) await removed(path);
    const values = join(server.dir, "old-values.yaml");
    writeFileSync(values, "modelService:\n  spec:\n    servedName: deepseek-reasoner\ngateway:\n  replicas: 2\n");
    await release("upgrade", "--values", values);
    expect(jobs.ran.map(({ name, code }) => [name, code])).toEqual([["pelagic-crds", 0]]);
    expect((await get(`${models}/plankton`)).spec.servedName).toBe("deepseek-reasoner");
    for (const path of newCrdPaths) await get(path);
    expect((await get(`${models}/plankton`)).metadata.uid).toBe(uid);
    expect((await get(`${deployments}/pelagic-gateway`)).spec.replicas).toBe(2);
    expect(await passwords()).toEqual(before);

    const newer = await get(crdPath);
    newer.metadata.annotations[crdVersionAnnotation] = "99.0.0";
    expect((await server.call("PUT", crdPath, { body: newer })).status).toBe(200);
    await release("upgrade", "--reuse-values", "--set", "operator.allNamespaces=true", "--set-json", 'nats.workerNamespaces=["team-a"]');
    expect((await get(crdPath)).metadata.annotations[crdVersionAnnotation]).toBe("99.0.0");
    expect(jobs.ran.at(-1)?.log).toContain("99.0.0");
    const copied = await get("/api/v1/namespaces/team-a/secrets/pelagic-nats-decode");
    expect(copied.data["credentials.json"]).toBe(before["pelagic-nats-decode"]);
    expect(await passwords()).toEqual(before);
    // Which the operator may not make itself.
    const lease = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/pelagic-operator`;
    expect((await server.call("DELETE", lease)).status).toBe(200);
    await release("upgrade");
    expect(await passwords()).toEqual(before);
    await server.until("a leader again", async () => ((await get(lease)).spec?.holderIdentity ? true : undefined));
  });

  it("refuses to go while others' ModelServices are there, and says which", async () => {
    const other = {
      apiVersion: "pelagic.dev/v1alpha1",
      kind: "ModelService",
      metadata: { name: "mine" },
      spec: { model: { embedded: {} }, servedName: "mine" },
    };
    expect((await server.call("POST", models, { body: other })).status).toBe(201);
    const result = await helm(["uninstall", "pelagic", "--namespace", namespace, "--timeout", "60s"], server.kubeconfig);
    expect(result.exitCode).not.toBe(0);
    expect(jobs.ran.at(-1)).toMatchObject({ name: "pelagic-uninstall", code: 1 });
    expect(jobs.ran.at(-1)?.log).toContain(`kubectl -n ${namespace} delete modelservice mine`);
    expect((await get(`${models}/plankton`)).metadata.deletionTimestamp).toBeUndefined();
    await server.call("DELETE", `${models}/mine`);
    await server.until("it to go", async () => ((await server.call("GET", `${models}/mine`)).status === 404 ? true : undefined));
  });

  it("uninstalls: the model drains first, and nothing is left but the CRDs", async () => {
    await release("uninstall");
    expect(jobs.ran.at(-1)).toMatchObject({ name: "pelagic-uninstall", code: 0 });
    await operator?.end();
    const left = await server.until("all of it to go", async () => {
      const found = (await whatIsThere()).filter((name) => !name.startsWith("events "));
      return found.length <= crdNames.length ? found : undefined;
    });
    expect(left?.toSorted()).toEqual(crdNames.map((name) => `customresourcedefinitions ${name}`).toSorted());
    expect(readdirSync(chart)).toContain("crds");
  });
});
