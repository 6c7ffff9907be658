// The generated CRD in a real API server: accepted, defaults filled in, what is wrong refused in words that name the field.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import fc from "fast-check";
import { parse, parseAllDocuments } from "yaml";
import { ModelService, ModelServiceSpec } from "../../operators/api/model-service.ts";
import { examples } from "../../operators/api/reference.ts";
import { inTree } from "../../services/cli/tree.ts";
import { type ApiAnswer, apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { wrongModelServices } from "./wrong-model-services.ts";

const path = "/apis/pelagic.dev/v1alpha1/namespaces/default/modelservices";
const missing = apiServerMissing();
let server: TestApiServer;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  const crd = parse(readFileSync(inTree("charts", "pelagic", "crds", "pelagic.dev_modelservices.yaml"), "utf8"));
  const created = await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", { body: crd });
  expect(created.body.message).toBeUndefined();
  await server.until("the ModelService API", async () => ((await server.call("GET", path)).status === 200 ? true : undefined));
});
afterAll(async () => server?.stop());

const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const range = fc
  .integer({ min: 1, max: 1000 })
  .chain((maxReplicas) =>
    fc.record({ maxReplicas: fc.constant(maxReplicas), minReplicas: maybe(fc.integer({ min: 1, max: maxReplicas })) }),
  );
const quantity = fc.constantFrom("500m", 2, "1.5Gi", "1e3", "+3", ".5", "7E");
const validPool = (backend: "cpu" | "cuda") =>
  fc.record({
    backend: fc.constant(backend),
    replicas: maybe(fc.integer({ min: 0, max: 1000 })),
    gpus: backend === "cuda" ? maybe(fc.integer({ min: 1, max: 8 })) : fc.constant(undefined),
    nodesPerReplica: maybe(fc.integer({ min: 1, max: 64 })),
    threads: maybe(fc.integer({ min: 1, max: 1024 })),
    resources: maybe(fc.record({ limits: maybe(fc.dictionary(fc.constantFrom("cpu", "memory", "example.com/nic"), quantity)) })),
    nodeSelector: maybe(fc.dictionary(fc.constantFrom("a", "example.com/b-c", "d.e_f"), fc.constantFrom("", "x", "a.b_c-D"))),
    tolerations: maybe(fc.array(fc.constantFrom({ operator: "Exists" }, { key: "a", effect: "NoExecute", tolerationSeconds: 3 }))),
    topologySpread: maybe(fc.boolean()),
    drainSeconds: maybe(fc.integer({ min: 1, max: 86_400 })),
  });
const validSpec = fc.constantFrom("cpu" as const, "cuda" as const).chain((backend) =>
  fc.record({
    model: fc.constantFrom(
      { embedded: {} },
      { pvc: { claimName: "a.b-c" } },
      { pvc: { claimName: "a", path: "b/c..d/.e" } },
      { hostPath: { path: "/" } },
      { image: { reference: "registry:5000/a/b@sha256:0123" } },
    ),
    servedName: maybe(fc.constantFrom("a", "DeepSeek-R1", "deepseek-ai/DeepSeek-V3.1:latest")),
    kv: maybe(fc.constantFrom({}, { dtype: "float32" })),
    pools: fc.record({ prefill: validPool(backend), decode: validPool(backend) }),
    slo: fc.record({ ttftSeconds: fc.constantFrom(1, 0.0001, 3600), tpotSeconds: fc.constantFrom(1, 0.0001, 60) }),
    autoscaling: maybe(
      fc.record({
        policy: fc.constantFrom("none", "slo", "external"),
        prefill: range,
        decode: range,
        stabilizationSeconds: maybe(fc.nat(3600)),
      }),
    ),
  }),
);

/** As kubectl does it: an unknown field is an error. */
function create(object: unknown, dryRun = false): Promise<ApiAnswer> {
  return server.call("POST", `${path}?fieldValidation=Strict${dryRun ? "&dryRun=All" : ""}`, { body: object });
}

describe.skipIf(missing !== undefined)(`ModelService in an API server${missing === undefined ? "" : ` (${missing})`}`, () => {
  it("is a structural schema without a complaint", async () => {
    const crd = await server.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modelservices.pelagic.dev");
    const conditions: { type: string; status: string; message: string }[] = crd.body.status.conditions;
    expect(conditions.filter(({ type }) => type === "NonStructuralSchema")).toEqual([]);
    expect(conditions.find(({ type }) => type === "Established")?.status).toBe("True");
  });

  it("takes the page's examples and fills in the defaults that the operator knows", async () => {
    for (const text of Object.values(examples)) {
      const created = await create(parse(text));
      expect(created.body.message).toBeUndefined();
      const { metadata, spec } = ModelService.parse(created.body);
      // What zod adds, the API server has added before.
      expect(created.body.spec).toEqual(spec);
      expect(metadata.namespace).toBe("default");
    }
  });

  it("takes what earlier versions took, and reads it as they did", async () => {
    const kept = parseAllDocuments(readFileSync(inTree("tests", "cluster", "kept", "model-services.yaml"), "utf8")).map((each) =>
      each.toJS(),
    );
    expect(kept.length).toBeGreaterThan(2);
    for (const object of kept) {
      const created = await create(object, true);
      expect(created.body.message).toBeUndefined();
      expect(ModelService.parse(created.body).spec).toMatchObject(object.spec);
    }
  });

  it("takes whatever the schema gives, and adds the defaults that the operator adds", async () => {
    await fc.assert(
      fc.asyncProperty(validSpec, async (spec) => {
        const object = { apiVersion: "pelagic.dev/v1alpha1", kind: "ModelService", metadata: { name: "random" }, spec };
        const created = await create(object, true);
        expect(created.body.message).toBeUndefined();
        expect(created.body.spec).toEqual(ModelServiceSpec.parse(JSON.parse(JSON.stringify(spec))));
      }),
      { numRuns: 100 },
    );
  });

  it("shows the columns of status", async () => {
    const status = {
      servedName: "plankton",
      pools: { prefill: { replicas: 1, ready: 1, desired: 2, workers: "1/2", reason: "spec" } },
      conditions: [{ type: "Ready", status: "False", reason: "WorkersStarting", message: "m", lastTransitionTime: "2026-01-01T00:00:00Z" }],
    };
    const patched = await server.call("PATCH", `${path}/plankton/status`, {
      body: { status },
      contentType: "application/merge-patch+json",
    });
    expect(patched.body.message).toBeUndefined();
    expect(() => ModelService.parse(patched.body)).not.toThrow();
    const table = await server.call("GET", `${path}/plankton`, { accept: "application/json;as=Table;g=meta.k8s.io;v=v1" });
    expect(table.body.columnDefinitions.map(({ name }: { name: string }) => name)).toEqual([
      "Name",
      "Model",
      "Prefill",
      "Decode",
      "Ready",
      "Reason",
      "Age",
    ]);
    expect(table.body.rows[0].cells.slice(0, 3)).toEqual(["plankton", "plankton", "1/2"]);
  });

  it("is refused in at least a hundred ways", () => {
    expect(new Set(wrongModelServices.map(({ what }) => what)).size).toBe(wrongModelServices.length);
    expect(wrongModelServices.length).toBeGreaterThanOrEqual(100);
  });

  it.each(wrongModelServices)("refuses $what, naming $field", async ({ object, field, says }) => {
    const answer = await create(object, true);
    expect([400, 422]).toContain(answer.status);
    expect(answer.body.message).toContain(field);
    if (says !== undefined) expect(answer.body.message).toContain(says);
  });
});
