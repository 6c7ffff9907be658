// What a structural schema must be, so that the API server takes it without a complaint; the real one is asked in tests/cluster.
import { Ajv } from "ajv";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { crdNames, crdOf, modelServiceCrdName } from "./crd.ts";
import { crdFiles } from "./crd-yaml.ts";
import { ModelService, ModelServiceSpec, servedNameOf } from "./model-service.ts";
import { examples, modelServiceReference } from "./reference.ts";
import { conditionTypeNames } from "./status.ts";
import type { StructuralSchema } from "./structural.ts";
import { modelServiceSpecSchema } from "./values-schema.ts";

const rootOf = (name: string) => crdOf(name, "1.2.3").spec.versions[0]?.schema.openAPIV3Schema as StructuralSchema;

interface Visited {
  path: string;
  node: StructuralSchema;
}

function visit(node: StructuralSchema, path: string): Visited[] {
  return [
    { path, node },
    ...Object.entries(node.properties ?? {}).flatMap(([name, property]) => visit(property, `${path}.${name}`)),
    ...(node.items ? visit(node.items, `${path}[]`) : []),
    ...(typeof node.additionalProperties === "object" ? visit(node.additionalProperties, `${path}.*`) : []),
  ];
}

const nodes = crdNames.flatMap((name) => visit(rootOf(name), ""));
const spec = nodes.filter(({ path }) => path.startsWith(".spec"));

const minimal = {
  apiVersion: "pelagic.dev/v1alpha1",
  kind: "ModelService",
  metadata: { name: "a", namespace: "b", uid: "c" },
  spec: { model: { embedded: {} } },
};

describe("the CRD's schema", () => {
  it("has a type, or is an int-or-string, at every node", () => {
    expect(nodes.filter(({ node }) => node.type === undefined && !node["x-kubernetes-int-or-string"])).toEqual([]);
    expect(nodes.filter(({ node }) => Array.isArray(node.type))).toEqual([]);
  });

  it("has no key that a structural schema may not have", () => {
    const forbidden = [
      "$schema",
      "$ref",
      "$defs",
      "const",
      "allOf",
      "oneOf",
      "not",
      "nullable",
      "propertyNames",
      "examples",
      "id",
      "title",
    ];
    const allowedAnyOf = [{ type: "integer" }, { type: "string" }];
    for (const { path, node } of nodes) {
      expect(
        Object.keys(node).filter((key) => forbidden.includes(key)),
        path,
      ).toEqual([]);
      if (node.anyOf !== undefined) expect(node.anyOf, path).toEqual(allowedAnyOf);
      // A closed object, or a map with named fields too, is refused.
      expect(typeof node.additionalProperties, path).not.toBe("boolean");
      expect(node.properties !== undefined && node.additionalProperties !== undefined, path).toBe(false);
      // As numbers they are of a later JSON Schema.
      expect(["undefined", "boolean"], path).toContain(typeof node.exclusiveMinimum);
    }
  });

  it("bounds every string, list and map, for the cost of rules", () => {
    const unbounded = spec.filter(({ node }) => {
      if (node.type === "string") return node.maxLength === undefined && node.enum === undefined;
      if (node.type === "array") return node.maxItems === undefined;
      return node.additionalProperties !== undefined && node.maxProperties === undefined;
    });
    expect(unbounded.map(({ path }) => path)).toEqual([]);
  });

  it("describes every field for kubectl explain", () => {
    const plain = spec.filter(({ path }) => !path.endsWith("[]") && !path.endsWith(".*"));
    expect(plain.filter(({ node }) => !node.description).map(({ path }) => path)).toEqual([]);
  });

  it("has a message and no line break in every rule", () => {
    const rules = nodes.flatMap(({ node }) => node["x-kubernetes-validations"] ?? []);
    expect(rules.length).toBeGreaterThan(20);
    for (const { rule, message } of rules) {
      expect(rule).not.toMatch(/\n/);
      expect(message).not.toMatch(/\n/);
    }
  });

  it("has only defaults that its own field allows", () => {
    const ajv = new Ajv({ strict: false, formats: { int32: true, int64: true, "date-time": true } });
    const withDefault = nodes.filter(({ node }) => node.default !== undefined);
    expect(withDefault.length).toBeGreaterThan(20);
    for (const { path, node } of withDefault) {
      // A boolean of an older draft.
      const schema = JSON.parse(JSON.stringify(node), (key, value) => (key === "exclusiveMinimum" ? undefined : value));
      expect(ajv.validate(schema, node.default), path).toBe(true);
    }
  });

  it("reads back from YAML as it was", () => {
    const files = Object.values(crdFiles("1.2.3"));
    expect(files.map((text) => parse(text))).toEqual(crdNames.map((name) => JSON.parse(JSON.stringify(crdOf(name, "1.2.3")))));
  });
});

describe("ModelService", () => {
  it("fills in what an older object lacks", () => {
    const { spec, metadata } = ModelService.parse(minimal);
    expect(spec.pools.decode).toEqual({
      replicas: 1,
      backend: "cpu",
      nodesPerReplica: 1,
      topologySpread: true,
      drainSeconds: 120,
    });
    expect(spec.autoscaling).toEqual({ policy: "none", stabilizationSeconds: 300 });
    expect(spec.kv.dtype).toBe("bfloat16");
    expect(metadata.finalizers).toEqual([]);
  });

  it("passes over fields that it does not know, of a newer version", () => {
    const newer = { ...minimal, spec: { ...minimal.spec, hologram: { redundancy: 2 } }, status: { conditions: [], hologram: 1 } };
    expect(() => ModelService.parse(newer)).not.toThrow();
  });

  it("is served under its own name unless another is given", () => {
    expect(servedNameOf(ModelService.parse(minimal))).toBe("a");
    expect(servedNameOf(ModelService.parse({ ...minimal, spec: { ...minimal.spec, servedName: "other" } }))).toBe("other");
  });
});

describe("the chart's schema of a spec", () => {
  const ajv = new Ajv({ strict: false, formats: { int32: true, int64: true } });
  const check = ajv.compile(modelServiceSpecSchema());

  it("takes the page's examples", () => {
    for (const text of Object.values(examples)) expect(check(parse(text).spec)).toBe(true);
  });

  it("refuses a field that does not exist, at any depth", () => {
    expect(check({ model: { embedded: {} }, modle: {} })).toBe(false);
    expect(check({ model: { embedded: {} }, pools: { decode: { replica: 2 } } })).toBe(false);
    expect(check({ model: { embedded: {} }, pools: { decode: { podTemplate: { env: [{ name: "A", val: "b" }] } } } })).toBe(false);
  });

  it("refuses what its fields refuse", () => {
    expect(check({ model: { embedded: {} }, pools: { decode: { replicas: -1 } } })).toBe(false);
    expect(check({ model: { embedded: {} }, autoscaling: { policy: false } })).toBe(false);
  });

  it("says what zod says", () => {
    for (const value of [{}, { model: { embedded: {} } }, { model: { pvc: {} } }, { model: { embedded: {} }, servedName: "" }])
      expect(check(value)).toBe(ModelServiceSpec.safeParse(value).success);
  });
});

describe("the reference page", () => {
  it("names every field and every condition", () => {
    const page = modelServiceReference();
    const spec = visit(rootOf(modelServiceCrdName), "").filter(({ path }) => path.startsWith(".spec"));
    for (const { path } of spec.filter(({ path }) => !path.includes(".*") && !path.endsWith("[]") && path !== ".spec"))
      expect(page).toContain(`\`${path.slice(1)}\``);
    for (const type of conditionTypeNames) expect(page).toContain(`**${type}**`);
  });
});
