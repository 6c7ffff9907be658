import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crdNames, crdOf, crdVersionAnnotation, modelServiceCrdName } from "../api/crd.ts";
import { compareVersions, crdChange } from "./crd-change.ts";
import { modelsOfRelease, type NamedObject, patience, refusal } from "./release-models.ts";

const version = fc
  .tuple(fc.nat(20), fc.nat(20), fc.nat(20), fc.option(fc.constantFrom("rc.1", "rc.2", "rc.10", "alpha", "alpha.1", "1")))
  .map(([a, b, c, pre]) => `${a}.${b}.${c}${pre === null ? "" : `-${pre}`}`);

describe("compareVersions", () => {
  it("orders as semantic versions are ordered", () => {
    const ordered = [
      "0.1.0-alpha",
      "0.1.0-alpha.1",
      "0.1.0-rc.2",
      "0.1.0-rc.10",
      "0.1.0",
      "0.1.1",
      "0.2.0",
      "0.10.0",
      "1.0.0-1",
      "1.0.0-rc.1",
      "1.0.0",
    ];
    for (const [at, one] of ordered.entries())
      for (const [other, two] of ordered.entries())
        expect(Math.sign(compareVersions(one, two)), `${one} ${two}`).toBe(Math.sign(at - other));
    expect(compareVersions("1.0.0+build.2", "1.0.0")).toBe(0);
  });

  it("is an order", () => {
    fc.assert(
      fc.property(version, version, version, (a, b, c) => {
        expect(Math.sign(compareVersions(a, b))).toBe(-Math.sign(compareVersions(b, a)) + 0);
        if (compareVersions(a, b) <= 0 && compareVersions(b, c) <= 0) expect(compareVersions(a, c)).toBeLessThanOrEqual(0);
      }),
    );
  });
});

describe("crdChange", () => {
  it("goes upwards only, and keeps what others wrote beside", () => {
    fc.assert(
      fc.property(version, version, (has, wanted) => {
        const found = { metadata: { annotations: { [crdVersionAnnotation]: has, a: "b" }, labels: { c: "d" } }, spec: { old: true } };
        const change = crdChange(modelServiceCrdName, found, wanted);
        expect(change.action).toBe(compareVersions(has, wanted) > 0 ? "keep" : "replace");
        if (change.action === "keep") return;
        expect(change.object).toMatchObject({ metadata: { annotations: { [crdVersionAnnotation]: wanted, a: "b" }, labels: { c: "d" } } });
        expect((change.object as typeof found).spec.old).toBeUndefined();
      }),
    );
  });

  it("makes those that are missing", () => {
    for (const name of crdNames) expect(crdChange(name, undefined, "1.2.3")).toEqual({ action: "create", object: crdOf(name, "1.2.3") });
  });

  it("takes one without a version for older", () => {
    expect(crdChange(modelServiceCrdName, { metadata: {}, spec: {} }, "0.0.1").action).toBe("replace");
  });
});

describe("modelsOfRelease", () => {
  const model = (name: string, release?: string): NamedObject => ({
    metadata: {
      name,
      namespace: "n",
      uid: name,
      annotations: release === undefined ? {} : { "meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "n" },
    },
  });

  it("knows the release's own from others, and names those", () => {
    const { own, others } = modelsOfRelease([model("a", "r"), model("b", "other"), model("c")], { name: "r", namespace: "n" });
    expect(own.map(({ metadata }) => metadata.name)).toEqual(["a"]);
    expect(refusal(others).split("\n").slice(1)).toEqual(["  kubectl -n n delete modelservice b", "  kubectl -n n delete modelservice c"]);
    expect(modelsOfRelease([model("a", "r")], { name: "r", namespace: "elsewhere" }).own).toEqual([]);
  });

  it("does not list without end", () => {
    const many = Array.from({ length: 500 }, (_, at) => model(`m${at}`));
    expect(refusal(many).split("\n")).toHaveLength(22);
    expect(refusal(many)).toContain("480 more");
    expect(patience(many)).toContain("480 more");
  });
});
