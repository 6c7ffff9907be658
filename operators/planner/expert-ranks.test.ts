// Decode pools whose pods share experts: what is written, and what goes when.
import { describe, expect, it } from "vitest";
import type { ModelService } from "../api/model-service.ts";
import type { KubernetesObject, Workload } from "./kubernetes.ts";
import { finalizer } from "./names.ts";
import { modelService } from "./testing/model-services.ts";
import { made, round } from "./testing/rounds.ts";

describe("shared experts", () => {
  const experts = { ranks: 4, redundancy: 32 };
  const spread = modelService({ experts, pools: { decode: { replicas: 7 } } }, { finalizers: [finalizer] });
  const setOf = (service: ModelService) => (made(service).statefulSets as Workload[])[0] as Workload;

  it("are a StatefulSet of as many pods as ranks, all started at once, and an ExpertPlacement", () => {
    const planned = round(spread);
    expect(planned.apply.map(({ object }) => object.kind)).toEqual([
      ...["Deployment", "PodDisruptionBudget", "StatefulSet", "PodDisruptionBudget", "ExpertPlacement"],
    ]);
    const set = setOf(spread);
    expect(set.metadata.name).toMatch(/^ms-decode-[0-9a-z]{4}$/);
    expect(set.spec).toMatchObject({ replicas: 4, podManagementPolicy: "Parallel" });
    const { selector, template } = set.spec as { selector?: { matchLabels: object }; template?: { metadata: { labels: object } } };
    expect(template?.metadata.labels).toMatchObject(selector?.matchLabels ?? { never: true });
    const settled = round(spread, made(spread));
    expect([settled.apply, settled.prune]).toEqual([[], []]);
    expect(settled.status?.pools?.decode).toMatchObject({ workers: "4/4", reason: "spec.experts.ranks is 4" });
  });

  it("have a name that leaves room for what Kubernetes adds, however long the ModelService's is", () => {
    const long = modelService({ experts }, { name: "m".repeat(40) });
    // Its pods' label controller-revision-hash has eleven characters more, and a label 63.
    expect(setOf(long).metadata.name.length).toBeLessThanOrEqual(52);
  });

  it("of another form are another group, and the first stays until all of that are ready", () => {
    for (const changed of [
      { ...experts, redundancy: 40 },
      { ...experts, ranks: 5 },
    ]) {
      const next = modelService({ experts: changed }, { finalizers: [finalizer] });
      const old = made(spread);
      const during = round(next, old);
      const { name } = setOf(next).metadata;
      expect(name).not.toBe(setOf(spread).metadata.name);
      expect(during.apply.map(({ object }) => object.metadata.name)).toContain(name);
      expect(during.prune).toEqual([]);
      const both = { ...old, statefulSets: [setOf(spread), setOf(next)] };
      expect(round(next, both).prune).toMatchObject([{ kind: "StatefulSet", name: setOf(spread).metadata.name }]);
      const almost = setOf(next);
      const starting = { ...almost, status: { ...almost.status, readyReplicas: changed.ranks - 1 } };
      expect(round(next, { ...old, statefulSets: [setOf(spread), starting] }).prune).toEqual([]);
    }
    expect(setOf(modelService({ experts, pools: { prefill: { drainSeconds: 9 } } })).metadata.name).toBe(setOf(spread).metadata.name);
  });

  it("that are wanted no more go, with their ExpertPlacement, once a Deployment serves", () => {
    const plain = modelService({}, { finalizers: [finalizer] });
    const planned = round(plain, { ...made(plain), statefulSets: [setOf(spread)], expertPlacements: made(spread).expertPlacements ?? [] });
    expect(planned.prune.map(({ kind }) => kind)).toEqual(["StatefulSet", "ExpertPlacement"]);
  });

  it("are told of in the status of the ExpertPlacement, when the pods were asked", () => {
    expect(round(spread, made(spread)).placement).toBeUndefined();
    const planned = round(spread, { ...made(spread), ranks: [] });
    expect(planned.placement?.ranks?.present).toBe("0/4");
    const [placement] = made(spread).expertPlacements as KubernetesObject[];
    const told = { ...placement, status: planned.placement } as KubernetesObject;
    expect(round(spread, { ...made(spread), ranks: [], expertPlacements: [told] }).placement).toBeUndefined();
    // Before it is there, there is nothing to write to.
    expect(round(spread, { ranks: [] }).placement).toBeUndefined();
  });
});
