import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Build, type CatalogueLimits, type CatalogueSteps, keyOf, ModelCatalogue, nameFault } from "./model-catalogue.ts";
import { leastLoaded, type ModelBuild } from "./model-workers.ts";
import type { WorkerView } from "./state-view.ts";

const limits: CatalogueLimits = {
  ...{ maxBuilds: 4, maxLearning: 2, keepMs: 10_000, keepReplacedMs: 2_000, retryMs: 1_000, maxRetryMs: 8_000 },
};
type Seen = Parameters<ModelCatalogue["look"]>[0][number];
const worker = (workerId: string, modelName: string, filesDigest: string | undefined, more: Partial<Seen> = {}): Seen => ({
  ...{ workerId, instanceId: `${workerId}-1`, modelName, filesDigest, state: "ready", ...more },
});
const keys = (builds: readonly Build[]) => builds.map(keyOf);
const learning = ({ learn }: CatalogueSteps) => learn.map(({ build }) => build);

// A history: at each step some workers are on the bus, time passes, and what was begun ends somehow.
const seen = fc
  .record({
    id: fc.integer({ min: 0, max: 5 }),
    life: fc.integer({ min: 0, max: 1 }),
    name: fc.constantFrom("a", "b", "c", "", 'bad"name'),
    files: fc.constantFrom("1", "2", undefined),
    state: fc.constantFrom("ready" as const, "starting" as const, "draining" as const, "silent" as const),
  })
  .map(({ id, life, name, files, state }) => worker(`w${id}`, name, files, { instanceId: `w${id}-${life}`, state }));
const step = fc.record({
  workers: fc.uniqueArray(seen, { maxLength: 6, selector: ({ workerId }) => workerId }),
  passesMs: fc.integer({ min: 1, max: 4_000 }),
  ends: fc.array(fc.constantFrom("learned" as const, "sender" as const, "content" as const, "unavailable" as const, null), {
    maxLength: 3,
  }),
});

describe("which models are served", () => {
  it("in any history within the bounds, from workers that are there, and never twice at a time", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (history) => {
        const catalogue = new ModelCatalogue(limits);
        let nowMs = 0;
        let begun: CatalogueSteps["learn"] = [];
        const served = new Set<string>();
        const refused = new Set<string>();
        const lastSeen = new Map<string, number>();
        const liars = new Set<string>();
        for (const { workers, passesMs, ends } of history) {
          nowMs += passesMs;
          const heard = workers.filter(({ state }) => state !== "silent");
          for (const one of heard) {
            if (one.filesDigest !== undefined) lastSeen.set(keyOf({ name: one.modelName, filesDigest: one.filesDigest }), nowMs);
          }
          for (const liar of liars) if (!heard.some(({ instanceId }) => liar.endsWith(`@${instanceId}`))) liars.delete(liar);
          const steps = catalogue.look(workers, nowMs);
          for (const build of steps.forget) {
            // Nothing goes that a worker of was just heard, or that is being learned.
            expect(lastSeen.get(keyOf(build))).toBeLessThan(nowMs);
            expect(keys(begun.map((one) => one.build))).not.toContain(keyOf(build));
            served.delete(keyOf(build));
            refused.delete(keyOf(build));
            for (const liar of liars) if (liar.startsWith(`${keyOf(build)}@`)) liars.delete(liar);
          }
          // A served build goes when it is said, and not later.
          for (const key of served) expect(nowMs - (lastSeen.get(key) as number)).toBeLessThanOrEqual(limits.keepMs);
          for (const { build, workerId, instanceId } of steps.learn) {
            expect(nameFault(build.name)).toBeNull();
            expect(served.has(keyOf(build)) || refused.has(keyOf(build))).toBe(false);
            expect(keys(begun.map((one) => one.build))).not.toContain(keyOf(build));
            expect(liars.has(`${keyOf(build)}@${instanceId}`)).toBe(false);
            expect(
              heard.some((one) => one.workerId === workerId && one.modelName === build.name && one.filesDigest === build.filesDigest),
            ).toBe(true);
          }
          begun = [...begun, ...steps.learn];
          expect(begun.length).toBeLessThanOrEqual(limits.maxLearning);
          expect(begun.length + served.size + refused.size).toBeLessThanOrEqual(limits.maxBuilds);
          for (const end of ends) {
            const [first, ...others] = begun;
            if (first === undefined || end === null) continue;
            begun = others;
            if (end === "learned") {
              catalogue.learned(first.build);
              served.add(keyOf(first.build));
            } else {
              catalogue.failed(first.build, end, "why", first.instanceId, nowMs);
              if (end === "content") refused.add(keyOf(first.build));
              if (end === "sender") liars.add(`${keyOf(first.build)}@${first.instanceId}`);
            }
          }
          // Whatever a worker announces is served, or there is a word on why not.
          const names = new Set([...served].map((key) => key.slice(key.indexOf(" ") + 1)));
          const missing = catalogue.missing();
          for (const { modelName } of heard) {
            const told = nameFault(modelName) === null ? modelName : JSON.stringify(modelName);
            expect(names.has(modelName) || missing.has(told), modelName).toBe(true);
          }
          for (const name of names) expect(missing.has(name)).toBe(false);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("equal histories give equal steps", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (history) => {
        const [one, other] = [new ModelCatalogue(limits), new ModelCatalogue(limits)];
        let nowMs = 0;
        for (const { workers, passesMs } of history) {
          nowMs += passesMs;
          expect(other.look(workers, nowMs)).toEqual(one.look(workers, nowMs));
        }
      }),
    );
  });

  it("a build is learned at once, kept while it is heard and for so long after, and then learned anew", () => {
    const catalogue = new ModelCatalogue(limits);
    const a = [worker("w", "a", "1")];
    const build = { name: "a", filesDigest: "1" };
    expect(learning(catalogue.look(a, 0))).toEqual([build]);
    expect(catalogue.isPending(build)).toBe(true);
    expect(catalogue.isSettled).toBe(false);
    catalogue.learned(build);
    expect([catalogue.isSettled, catalogue.isPending(build)]).toEqual([true, false]);
    expect(catalogue.look(a, 100_000)).toEqual({ learn: [], forget: [] });
    // Silence is not being heard.
    expect(catalogue.look([worker("w", "a", "1", { state: "silent" })], 109_000).forget).toEqual([]);
    expect(catalogue.look([], 110_000).forget).toEqual([]);
    expect(catalogue.look([], 110_001).forget).toEqual([build]);
    expect(learning(catalogue.look(a, 110_002))).toEqual([build]);
  });

  it("one that was replaced goes sooner, one that merely shares its name with nothing that lives does not", () => {
    const catalogue = new ModelCatalogue(limits);
    const [before, after] = [worker("w", "a", "1"), worker("x", "a", "2")];
    for (const { build } of catalogue.look([before, after], 0).learn) catalogue.learned(build);
    expect(catalogue.look([after], 2_000).forget).toEqual([]);
    expect(catalogue.look([], 3_000).forget).toEqual([]);
    expect(catalogue.look([after], 3_100).forget).toEqual([{ name: "a", filesDigest: "1" }]);
  });

  it("faults: a liar is not asked again while it lives, bad content by nobody, what was not to be had later and later, of another worker", () => {
    const catalogue = new ModelCatalogue(limits);
    const build = { name: "a", filesDigest: "1" };
    const two = [worker("w", "a", "1"), worker("x", "a", "1")];
    const asked = (nowMs: number, workers = two) => catalogue.look(workers, nowMs).learn.map(({ workerId }) => workerId);
    expect(asked(0)).toEqual(["w"]);
    catalogue.failed(build, "sender", "w: other files", "w-1", 0);
    expect(catalogue.missing().get("a")).toBe("w: other files");
    expect(asked(1)).toEqual(["x"]);
    catalogue.failed(build, "sender", "x: other files", "x-1", 1);
    expect(asked(60_000)).toEqual([]);
    // Another process under the same id has a chance of its own.
    const anew = [worker("w", "a", "1", { instanceId: "w-2" }), two[1] as Seen];
    expect(asked(60_001, anew)).toEqual(["w"]);
    catalogue.failed(build, "unavailable", "w: no answer", "w-2", 60_001);
    expect(asked(61_000, anew)).toEqual([]);
    expect(asked(61_001, anew)).toEqual(["w"]);
    catalogue.failed(build, "unavailable", "w: no answer", "w-2", 61_001);
    expect(asked(63_000, anew)).toEqual([]);
    expect(asked(63_001, anew)).toEqual(["w"]);
    catalogue.failed(build, "content", "tokenizer.json: no", "w-2", 63_001);
    expect(asked(600_000, anew)).toEqual([]);
    expect(catalogue.faults()).toEqual([{ ...build, reason: "tokenizer.json: no" }]);
    expect(catalogue.isSettled).toBe(true);
  });

  it("what cannot be learned is named: no files, no name, no room", () => {
    const catalogue = new ModelCatalogue(limits);
    catalogue.look(
      [worker("old", "plain", undefined), worker("odd", "x\n", "1"), ...[1, 2, 3, 4, 5].map((n) => worker(`w${n}`, `m${n}`, "1"))],
      0,
    );
    const missing = catalogue.missing();
    expect(missing.get("plain")).toContain("old does not offer");
    expect(missing.get('"x\\n"')).toContain("no name for a model");
    expect(missing.get("m5")).toContain("4 models are known already");
    expect(missing.get("m1")).toContain("being fetched");
  });
});

describe("of two builds of one name", () => {
  const view = (filesDigest: string, running: number, more: Partial<WorkerView> = {}) =>
    ({
      ...{ role: "decode", state: "ready", modelName: "a", filesDigest, requests: { running, waiting: 0, maxWaiting: 9 } },
      ...{ unreported: { requests: 0, prefillTokens: 0, blocks: 0 }, ...more },
    }) as WorkerView;
  const builds = ["1", "2"].map((filesDigest): { model: ModelBuild } => ({ model: { name: "a", filesDigest } }));

  it("the one with less to do for each ready worker is asked, and never one without where the other has some", () => {
    const workers = fc.array(
      fc.record({ files: fc.constantFrom("1", "2"), running: fc.nat(50), state: fc.constantFrom("ready" as const, "draining" as const) }),
    );
    fc.assert(
      fc.property(workers, (list) => {
        const ready = (digest: string) => list.filter(({ files, state }) => files === digest && state === "ready");
        const load = (digest: string) => {
          const own = ready(digest);
          return own.length === 0 ? Number.POSITIVE_INFINITY : own.reduce((sum, { running }) => sum + running, 0) / own.length;
        };
        const chosen = leastLoaded(builds, { workers: list.map(({ files, running, state }) => view(files, running, { state })) });
        expect(chosen?.model.filesDigest).toBe(load("2") < load("1") ? "2" : "1");
      }),
    );
  });
});
