import { describe, expect, it } from "vitest";
import { differs, withHash } from "./difference.ts";
import type { KubernetesObject } from "./kubernetes.ts";

function object(spec: object): KubernetesObject {
  return { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "a", namespace: "b", labels: { x: "y" } }, spec };
}

/** As the API server has it: what was written, with more in it. */
function stored(written: KubernetesObject, spec: object): KubernetesObject {
  return { ...written, metadata: { ...written.metadata, uid: "u", generation: 3, labels: { x: "y", other: "z" } }, spec };
}

describe("an object is applied again", () => {
  const wanted = withHash(object({ replicas: 2, list: [{ name: "a", value: "" }], resources: { limits: { cpu: "1000m" } }, open: {} }));

  it("not where others have only added to it", () => {
    const spec = {
      replicas: 2,
      list: [{ name: "injected" }, { name: "a", added: true }],
      resources: { limits: { cpu: "1" } },
      status: {},
    };
    expect(differs(wanted, stored(wanted, spec))).toBe(false);
  });

  it.each([
    ["a number", { replicas: 3 }],
    ["an item", { list: [] }],
    ["a quantity", { resources: { limits: { cpu: "1001m" } } }],
    ["a whole field", { resources: undefined }],
  ])("where %s is no longer as it was written", (_, change) => {
    const spec = { replicas: 2, list: [{ name: "a" }], resources: { limits: { cpu: "1" } }, ...change };
    expect(differs(wanted, stored(wanted, spec))).toBe(true);
  });

  it("where a field is left out from now on", () => {
    const before = withHash(object({ replicas: 2, extra: 1 }));
    const after = withHash(object({ replicas: 2 }));
    expect(differs(after, stored(before, { replicas: 2, extra: 1 }))).toBe(true);
    expect(differs(before, stored(before, { replicas: 2, extra: 1 }))).toBe(false);
  });

  it("not where what was empty has been left out", () => {
    const emptied = withHash(object({ tolerations: [], nodeSelector: {}, env: [{ name: "A", value: "" }] }));
    expect(differs(emptied, stored(emptied, { env: [{ name: "A" }] }))).toBe(false);
  });

  it("not for the order in which fields are written, but for that of unnamed items", () => {
    expect(withHash(object({ a: 1, b: 2 }))).toEqual(withHash(object({ b: 2, a: 1 })));
    const listed = withHash(object({ list: ["a", "b"] }));
    expect(differs(listed, stored(listed, { list: ["b", "a"] }))).toBe(true);
    expect(differs(listed, stored(listed, { list: ["a", "b", "c"] }))).toBe(true);
  });

  it("where a variable was emptied by hand", () => {
    const named = withHash(object({ env: [{ name: "A", value: "1" }] }));
    expect(differs(named, stored(named, { env: [{ name: "A" }] }))).toBe(true);
  });
});
