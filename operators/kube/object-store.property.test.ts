// A store fed by lists, a watch and answers to writes, in any order that an API server's history allows, ends up with what is there.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ApiObject, isNewer, ObjectStore } from "./object-store.ts";

const names = ["a", "b", "c"];
const change = fc.record({
  name: fc.constantFrom(...names),
  do: fc.constantFrom("write", "write", "delete"),
  group: fc.constantFrom("x", "y"),
});
const turn = fc.constantFrom("watch", "watch", "list", "answer");

describe("the object store", () => {
  it("compares versions as numbers", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: 10n ** 30n }), fc.bigInt({ min: 1n, max: 10n ** 30n }), (a, b) => {
        expect(isNewer(String(a), String(b))).toBe(a > b);
      }),
    );
  });

  it("holds what is there, whichever way it heard of it", () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), fc.array(turn, { maxLength: 60 }), fc.nat(1000), (changes, turns, seed) => {
        // The API server's history: events with growing versions.
        const live = new Map<string, ApiObject>();
        const events: { type: "put" | "delete"; object: ApiObject; after: ApiObject[] }[] = [];
        let version = 98;
        for (const { name, do: what, group } of changes) {
          const before = live.get(name);
          if (what === "delete" && before === undefined) continue;
          version++;
          const uid = before?.metadata.uid ?? `uid-${version}`;
          const object: ApiObject = { metadata: { name, namespace: "n", uid, resourceVersion: String(version), labels: { group } } };
          if (what === "delete") live.delete(name);
          else live.set(name, object);
          events.push({ type: what === "delete" ? "delete" : "put", object, after: [...live.values()] });
        }
        const told = new Map<string, ApiObject>();
        const store = new ObjectStore<ApiObject>(
          ({ metadata }) => metadata.labels?.group,
          (before, after) => {
            const key = (after ?? before)?.metadata.name as string;
            expect(told.get(key)).toBe(before);
            if (after === undefined) told.delete(key);
            else told.set(key, after);
          },
        );
        let watched = 0;
        let random = seed;
        for (const how of [...turns, ...events.map(() => "watch")]) {
          const next = events[watched];
          if (next === undefined) break;
          random = (random * 1103515245 + 12345) % 2147483648;
          const ahead = events[Math.min(events.length - 1, watched + (random % 4))] as typeof next;
          if (how === "watch") {
            if (next.type === "put") store.put(next.object);
            else store.delete(next.object);
            watched++;
          } else if (how === "list") {
            store.replace(ahead.after, ahead.object.metadata.resourceVersion);
            watched = events.indexOf(ahead) + 1;
          } else if (ahead.type === "put") {
            store.learn(ahead.object, events[watched - 1]?.object.metadata.resourceVersion ?? "1");
          }
        }
        const held = store.all().map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`);
        expect(held.sort()).toEqual([...live.values()].map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`).sort());
        for (const group of ["x", "y"])
          expect(store.group(group).length).toBe([...live.values()].filter(({ metadata }) => metadata.labels?.group === group).length);
        expect(told.size).toBe(live.size);
      }),
      { numRuns: 2000 },
    );
  });

  it("forgets what an API server with a restored store no longer has, though it was newer", () => {
    const object = (name: string, resourceVersion: string, group = "x"): ApiObject => ({
      metadata: { name, namespace: "n", uid: name, resourceVersion, labels: { group } },
    });
    const store = new ObjectStore<ApiObject>(
      ({ metadata }) => metadata.labels?.group,
      () => undefined,
    );
    store.replace([object("a", "90")], "100");
    store.put(object("a", "110"));
    store.put(object("b", "120"));
    store.replace([object("a", "70", "y")], "80");
    expect(store.all()).toEqual([object("a", "70", "y")]);
    expect([store.group("x").length, store.group("y").length]).toEqual([0, 1]);
  });
});
