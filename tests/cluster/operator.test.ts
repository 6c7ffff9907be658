// The operator process against a real API server: what it makes, mends, takes away and says, and what that costs in calls.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import { fieldManager, finalizer, serviceLabel } from "../../operators/planner/names.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { leaderWorkerSetCrd } from "./leader-worker-set-crd.ts";
import { operatorAccount } from "./operator-account.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import {
  applyService,
  budgetsPath,
  condition,
  deploymentsPath,
  gone,
  installCrds,
  makeReady,
  objectWhere,
  service,
  servicesPath,
} from "./service-objects.ts";

const missing = apiServerMissing();
let server: TestApiServer;
let operator: OperatorProcess;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  operator = await startOperator(await operatorAccount(server));
});
afterAll(async () => {
  await operator?.end();
  await server?.stop();
});

/** Calls so far, but for watches and the Lease. */
async function calls(): Promise<number> {
  const [all, watches, leases] = await Promise.all([
    operator.metric("pelagic_operator_api_requests_total"),
    operator.metric("pelagic_operator_api_requests_total", { verb: "WATCH" }),
    operator.metric("pelagic_operator_api_requests_total", { resource: "leases" }),
  ]);
  return all - watches - leases;
}

async function settled(): Promise<number> {
  let [before, sinceMs] = [await calls(), Date.now()];
  return server.until("no more calls", async () => {
    const now = await calls();
    if (now !== before) [before, sinceMs] = [now, Date.now()];
    return Date.now() - sinceMs > 2000 ? now : undefined;
  });
}

/** As its controller would have it. */
async function quotaOfNoDeployments(namespace: string): Promise<void> {
  const hard = { "count/deployments.apps": "0" };
  await server.call("POST", `/api/v1/namespaces/${namespace}/resourcequotas`, { body: { metadata: { name: "none" }, spec: { hard } } });
  await server.call("PATCH", `/api/v1/namespaces/${namespace}/resourcequotas/none/status`, {
    body: { status: { hard, used: hard } },
    contentType: "application/merge-patch+json",
  });
}

describe.skipIf(missing !== undefined)(`the operator${missing ? ` (${missing})` : ""}`, () => {
  it("makes what a ModelService wants, owned and said, and then calls no more", async () => {
    await applyService(server, "first", { pools: { decode: { replicas: 2 } } });
    const object = await objectWhere(server, `${servicesPath}/first`, (each) => condition(each, "Ready")?.reason === "WorkersStarting");
    expect(object.metadata.finalizers).toEqual([finalizer]);
    for (const pool of ["prefill", "decode"]) {
      for (const path of [deploymentsPath, budgetsPath]) {
        const { body } = await server.call("GET", `${path}/first-${pool}`);
        expect(body.metadata.ownerReferences).toMatchObject([
          { kind: "ModelService", name: "first", uid: object.metadata.uid, controller: true },
        ]);
        expect(body.metadata.labels[serviceLabel]).toBe("first");
        expect(body.metadata.managedFields).toMatchObject([{ manager: fieldManager, operation: "Apply" }]);
      }
      await makeReady(server, `first-${pool}`);
    }
    const ready = await objectWhere(server, `${servicesPath}/first`, (each) => condition(each, "Ready")?.status === "True");
    expect(ready.status).toMatchObject({ observedGeneration: 1, pools: { decode: { workers: "2/2" } } });
    const events = await server.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events");
    const notes = events.body.items.map(({ note }: { note: string }) => note);
    expect(notes).toContain("Created Deployment first-decode");

    const before = await settled();
    await new Promise((resolve) => setTimeout(resolve, 65_000));
    expect((await calls()) - before).toBe(0);
    expect((await operator.get("/ready")).status).toBe(200);
  });

  it("spends few calls on one more", async () => {
    const before = await settled();
    await applyService(server, "cheap");
    await objectWhere(server, `${servicesPath}/cheap`, (each) => condition(each, "Ready") !== undefined);
    const spent = (await settled()) - before;
    // Whether the four names are free, the finalizer, four objects, the status, four events.
    expect(spent).toBeLessThanOrEqual(14);
  });

  it("follows a changed spec, and puts right what others change", async () => {
    await applyService(server, "changing");
    const path = `${deploymentsPath}/changing-decode`;
    await objectWhere(server, path, () => true);
    await applyService(server, "changing", { image: "example.com/pelagic:2", pools: { decode: { replicas: 3 } } });
    const imageOf = (each: { spec: { template: { spec: { containers: { image: string }[] } } } }) =>
      each.spec.template.spec.containers[0]?.image;
    await objectWhere(server, path, (each) => imageOf(each) === "example.com/pelagic:2" && each.spec.replicas === 3);
    await objectWhere(server, `${servicesPath}/changing`, (each) => each.status?.observedGeneration === 2);

    const merge = "application/merge-patch+json";
    await server.call("PATCH", path, { body: { spec: { replicas: 7 } }, contentType: merge });
    await objectWhere(server, path, (each) => each.spec.replicas === 3);
    // Without its label it is out of sight, and is looked for before it is made again.
    await server.call("PATCH", path, { body: { metadata: { labels: { [serviceLabel]: null } } }, contentType: merge });
    await objectWhere(server, path, (each) => each.metadata.labels[serviceLabel] === "changing");
    await server.call("DELETE", `${budgetsPath}/changing-decode`);
    await objectWhere(server, `${budgetsPath}/changing-decode`, () => true);
  });

  it("takes away what is ours and no longer wanted", async () => {
    await applyService(server, "pruned");
    const { metadata } = await objectWhere(server, `${budgetsPath}/pruned-decode`, () => true);
    const { labels, ownerReferences } = metadata;
    const stray = { apiVersion: "policy/v1", kind: "PodDisruptionBudget", metadata: { name: "pruned-former", labels, ownerReferences } };
    const made = await server.call("POST", budgetsPath, {
      body: { ...stray, spec: { maxUnavailable: 1, selector: { matchLabels: labels } } },
    });
    expect(made.status).toBe(201);
    await gone(server, `${budgetsPath}/pruned-former`);
    expect((await server.call("GET", `${budgetsPath}/pruned-decode`)).body.metadata.uid).toBe(metadata.uid);
  });

  it("leaves alone what is someone else's, and says so", async () => {
    const selector = { app: "other" };
    const template = { metadata: { labels: selector }, spec: { containers: [{ name: "c", image: "example.com/other" }] } };
    const spec = { selector: { matchLabels: selector }, template };
    const made = await server.call("POST", deploymentsPath, { body: { metadata: { name: "taken-prefill" }, spec } });
    expect(made.status).toBe(201);
    await applyService(server, "taken");
    const object = await objectWhere(server, `${servicesPath}/taken`, (each) => condition(each, "Accepted")?.status === "False");
    expect(condition(object, "Accepted").reason).toBe("NameOccupied");
    expect((await server.call("GET", `${deploymentsPath}/taken-prefill`)).body.metadata.generation).toBe(1);
    expect((await server.call("GET", `${deploymentsPath}/taken-decode`)).status).toBe(404);
    await server.call("DELETE", `${deploymentsPath}/taken-prefill`);
    await objectWhere(server, `${servicesPath}/taken`, (each) => condition(each, "Accepted")?.status === "True");
  });

  it("goes on beside a condition of somebody else, whatever zone its time is in", async () => {
    await applyService(server, "audited");
    await objectWhere(server, `${servicesPath}/audited`, (each) => condition(each, "Accepted")?.status === "True");
    const audited = {
      type: "example.com/Audited",
      status: "True",
      lastTransitionTime: "2026-01-01T01:00:00+01:00",
      reason: "Yes",
      message: "",
    };
    const said = await server.apply(
      `${servicesPath}/audited/status`,
      { ...service("audited"), status: { conditions: [audited] } },
      "auditor",
    );
    expect(said.status, JSON.stringify(said.body)).toBe(200);
    await applyService(server, "audited", { pools: { decode: { replicas: 2 } } });
    await objectWhere(server, `${deploymentsPath}/audited-decode`, ({ spec }) => spec.replicas === 2);
    const { status } = await objectWhere(server, `${servicesPath}/audited`, (each) => each.status.observedGeneration === 2);
    expect([condition({ status }, "Accepted").status, condition({ status }, audited.type)]).toEqual(["True", audited]);
  });

  it("gives a served name to the next one as soon as it is free", async () => {
    await applyService(server, "holder", { servedName: "shared" });
    await objectWhere(server, `${servicesPath}/holder`, (each) => condition(each, "Accepted")?.status === "True");
    // The older one has it; ages are counted in seconds.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    await applyService(server, "waiter", { servedName: "shared" });
    await objectWhere(server, `${servicesPath}/waiter`, (each) => condition(each, "Accepted")?.reason === "ServedNameTaken");
    await applyService(server, "holder", { servedName: "own" });
    await objectWhere(server, `${servicesPath}/waiter`, (each) => condition(each, "Accepted")?.status === "True");
  });

  it("says what the API server refuses, and goes on when it no longer does", async () => {
    await server.call("POST", "/api/v1/namespaces", { body: { metadata: { name: "full" } } });
    await quotaOfNoDeployments("full");
    const path = "/apis/pelagic.dev/v1alpha1/namespaces/full/modelservices";
    await server.call("POST", path, { body: service("refused") });
    const object = await objectWhere(server, `${path}/refused`, (each) => condition(each, "Accepted")?.reason === "Refused");
    expect(condition(object, "Accepted").message).toMatch(/Deployment refused-prefill.*quota/);
    expect(await operator.metric("pelagic_operator_queue_failing")).toBe(1);
    // Told is what was refused, and not that it was made.
    const eventsPath = "/apis/events.k8s.io/v1/namespaces/full/events";
    await server.until("the event", async () => {
      const reasons = (await server.call("GET", eventsPath)).body.items.map(({ reason }: { reason: string }) => reason);
      expect(reasons).not.toContain("Created");
      return reasons.includes("Refused") ? true : undefined;
    });
    await server.call("DELETE", "/api/v1/namespaces/full/resourcequotas/none");
    await objectWhere(server, `${path}/refused`, (each) => condition(each, "Accepted")?.status === "True");
  });

  it("is done where a policy of the cluster changes what it writes, and names the field", async () => {
    const group = "/apis/admissionregistration.k8s.io/v1";
    const path = `${deploymentsPath}/overruled-decode`;
    const resourceRules = [{ apiGroups: ["apps"], apiVersions: ["v1"], operations: ["CREATE", "UPDATE"], resources: ["deployments"] }];
    const deployment = "Object.spec.template.spec{terminationGracePeriodSeconds: 1}";
    const expression = `Object{spec: Object.spec{template: Object.spec.template{spec: ${deployment}}}}`;
    const policy = {
      metadata: { name: "hasty" },
      spec: {
        matchConstraints: { resourceRules },
        matchConditions: [{ name: "one", expression: "object.metadata.name in ['overruled-decode', 'tried']" }],
        ...{ failurePolicy: "Fail", reinvocationPolicy: "Never" },
        mutations: [{ patchType: "ApplyConfiguration", applyConfiguration: { expression } }],
      },
    };
    const binding = { metadata: { name: "hasty" }, spec: { policyName: "hasty" } };
    for (const [plural, body] of Object.entries({ mutatingadmissionpolicies: policy, mutatingadmissionpolicybindings: binding })) {
      const made = await server.call("POST", `${group}/${plural}`, { body });
      expect(made.status, JSON.stringify(made.body)).toBe(201);
    }
    const grace = (each: { spec: { template: { spec: { terminationGracePeriodSeconds: number } } } }) =>
      each.spec.template.spec.terminationGracePeriodSeconds;
    const pod = { metadata: { labels: { a: "b" } }, spec: { containers: [{ name: "c", image: "example.com/a:1" }] } };
    const spec = { selector: { matchLabels: { a: "b" } }, template: pod };
    const body = { metadata: { name: "tried" }, spec };
    const tried = async () => grace((await server.call("POST", `${deploymentsPath}?dryRun=All`, { body })).body);
    await server.until("the policy to be in force", async () => ((await tried()) === 1 ? true : undefined));
    await applyService(server, "overruled");
    for (const pool of ["prefill", "decode"]) {
      await objectWhere(server, `${deploymentsPath}/overruled-${pool}`, () => true);
      await makeReady(server, `overruled-${pool}`);
    }
    const done = await objectWhere(server, `${servicesPath}/overruled`, (each) => condition(each, "Progressing")?.status === "False");
    expect(condition(done, "Progressing").message).toContain("terminationGracePeriodSeconds of Deployment overruled-decode");
    expect(condition(done, "Ready").status).toBe("True");
    expect(grace((await server.call("GET", path)).body)).toBe(1);
    // Whatever it is called for, it does not write it again.
    const patches = () => operator.metric("pelagic_operator_api_requests_total", { verb: "PATCH", resource: "deployments" });
    await settled();
    const before = await patches();
    await server.call("PATCH", path, {
      body: { metadata: { labels: { "example.com/note": "somebody" } } },
      contentType: "application/merge-patch+json",
    });
    await settled();
    await makeReady(server, "overruled-prefill");
    await settled();
    // Once for the label, which might have been what was in the way.
    expect((await patches()) - before).toBeLessThanOrEqual(1);
    for (const plural of ["mutatingadmissionpolicybindings", "mutatingadmissionpolicies"])
      await server.call("DELETE", `${group}/${plural}/hasty`);
    await server.until("the policy to be gone", async () => ((await tried()) === 1 ? undefined : true));
    // With the next change of the spec.
    await applyService(server, "overruled", { pools: { decode: { threads: 2 } } });
    await objectWhere(server, path, (each) => grace(each) > 1);
    await objectWhere(server, `${servicesPath}/overruled`, (each) => !condition(each, "Progressing")?.message.includes("terminationGrace"));
    await server.call("DELETE", `${servicesPath}/overruled`);
  });

  it("takes over nobody's object after a refusal either", async () => {
    const path = "/apis/pelagic.dev/v1alpha1/namespaces/seized/modelservices";
    const budget = "/apis/policy/v1/namespaces/seized/poddisruptionbudgets";
    await server.call("POST", "/api/v1/namespaces", { body: { metadata: { name: "seized" } } });
    await quotaOfNoDeployments("seized");
    await server.call("POST", path, { body: service("seized") });
    await objectWhere(server, `${path}/seized`, (each) => condition(each, "Accepted")?.reason === "Refused");
    const spec = { maxUnavailable: 0, selector: { matchLabels: { app: "other" } } };
    expect((await server.call("POST", budget, { body: { metadata: { name: "seized-prefill" }, spec } })).status).toBe(201);
    await server.call("DELETE", "/api/v1/namespaces/seized/resourcequotas/none");
    await objectWhere(server, `${path}/seized`, (each) => condition(each, "Accepted")?.reason !== "Refused");
    const found = (await server.call("GET", `${budget}/seized-prefill`)).body;
    expect([found.spec, found.metadata.ownerReferences]).toEqual([expect.objectContaining(spec), undefined]);
    expect(condition((await server.call("GET", `${path}/seized`)).body, "Accepted").reason).toBe("NameOccupied");
  });

  it("knows LeaderWorkerSets from the moment that the cluster does", async () => {
    await applyService(server, "wide", { pools: { decode: { nodesPerReplica: 2 } } });
    const object = await objectWhere(server, `${servicesPath}/wide`, (each) => condition(each, "Accepted")?.status === "False");
    expect(condition(object, "Accepted").reason).toBe("LeaderWorkerSetMissing");
    await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", { body: leaderWorkerSetCrd() });
    await objectWhere(server, "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets/wide-decode", () => true);
    await objectWhere(server, `${servicesPath}/wide`, (each) => condition(each, "Accepted")?.status === "True");
  });

  it("drains before it lets a deleted one go", async () => {
    await applyService(server, "leaving");
    await objectWhere(server, `${deploymentsPath}/leaving-decode`, () => true);
    const pod = {
      metadata: { name: "leaving-decode-0", labels: { [serviceLabel]: "leaving", "pelagic.dev/pool": "decode" } },
      spec: { containers: [{ name: "c", image: "example.com/pelagic:1" }] },
    };
    expect((await server.call("POST", "/api/v1/namespaces/default/pods", { body: pod })).status).toBe(201);
    await server.until("the pod to be seen", async () =>
      (await operator.metric("pelagic_operator_informer_objects", { resource: "pods" })) === 1 ? true : undefined,
    );
    await server.call("DELETE", `${servicesPath}/leaving`);
    await objectWhere(server, `${deploymentsPath}/leaving-decode`, (each) => each.spec.replicas === 0);
    // Decode has a pod still: prefill stays, and so does the object.
    const object = await objectWhere(server, `${servicesPath}/leaving`, (each) => condition(each, "Ready")?.reason === "Deleting");
    expect(object.metadata.finalizers).toEqual([finalizer]);
    expect((await server.call("GET", `${deploymentsPath}/leaving-prefill`)).body.spec.replicas).toBe(1);
    await server.call("DELETE", "/api/v1/namespaces/default/pods/leaving-decode-0", { body: { gracePeriodSeconds: 0 } });
    await objectWhere(server, `${deploymentsPath}/leaving-prefill`, (each) => each.spec.replicas === 0);
    await gone(server, `${servicesPath}/leaving`);
  });

  it("shows the metrics that are documented, and no others", async () => {
    const table = readFileSync(inTree("docs", "observability.md"), "utf8");
    const documented = [...table.matchAll(/^\| `(pelagic_operator_\w+)` \| (\w+) /gm)].map(([, name, kind]) => `${name} ${kind}`);
    const shown = [...(await operator.get("/metrics")).text.matchAll(/^# TYPE (pelagic_\w+) (\w+)$/gm)].map(
      ([, name, kind]) => `${name} ${kind}`,
    );
    expect(shown.sort()).toEqual(documented.sort());
  });

  it("ends on SIGTERM with the Lease released", async () => {
    const lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/pelagic-operator";
    expect((await server.call("GET", lease)).body.spec.holderIdentity).not.toBe("");
    expect(await operator.end()).toBe(0);
    expect((await server.call("GET", lease)).body.spec.holderIdentity ?? "").toBe("");
  });
});
