import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createKey, hashKey, KeyRing, parseKeysFile } from "./api-keys.ts";

const entry = (name: string, key: string, more: object = {}) => ({ name, sha256: hashKey(key), ...more });
const parsed = (...keys: object[]) => parseKeysFile(JSON.stringify({ keys }));

describe("a keys file", () => {
  test("gives each key its caller, and nobody else one", () => {
    const [alice, bob] = [createKey(), createKey()];
    expect(alice).toMatch(/^sk-pelagic-[A-Za-z0-9_-]{43}$/);
    const ring = new KeyRing(
      parsed(
        entry("alice", alice, { models: ["a"], requestsPerMinute: 5, tokensPerMinute: 100, maxConcurrent: 2, priority: "high" }),
        entry("bob", bob, { cacheGroup: "team" }),
      ),
    );
    expect(ring.find(alice)).toEqual({
      name: "alice",
      id: hashKey(alice),
      isolation: `key:${hashKey(alice)}`,
      models: new Set(["a"]),
      limits: { requestsPerMinute: 5, tokensPerMinute: 100, maxConcurrent: 2 },
      priority: "high",
      bestPriority: "high",
    });
    expect(ring.find(bob)).toMatchObject({ name: "bob", isolation: "group:team", models: null, limits: {}, priority: "normal" });
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.constantFrom(alice.slice(0, -1), `${alice} `, hashKey(alice), "", "x".repeat(10_000))),
        (other) => {
          expect(ring.find(other)).toBeNull();
        },
      ),
    );
  });

  test("that is wrong is refused by the field, without a word of what it holds", () => {
    const secret = createKey();
    const wrong: [unknown, RegExp][] = [
      [{}, /^keys: /],
      [{ keys: {} }, /^keys: /],
      [{ keys: [], [secret]: 1 }, /^the file: only keys are known/],
      [{ keys: [{ name: "a" }] }, /^keys\[0\]\.sha256: /],
      [{ keys: [{ name: "a", sha256: secret }] }, /^keys\[0\]\.sha256: 64 lower-case/],
      [{ keys: [entry("a b", secret)] }, /^keys\[0\]\.name: /],
      [{ keys: [{ name: secret.repeat(2), sha256: hashKey(secret) }] }, /^keys\[0\]\.name: /],
      [{ keys: [entry("a", secret, { [secret]: 1 })] }, /^keys\[0\]: only name, sha256, models/],
      [{ keys: [entry("a", secret, { models: [] })] }, /^keys\[0\]\.models: /],
      [{ keys: [entry("a", secret, { requestsPerMinute: 0 })] }, /^keys\[0\]\.requestsPerMinute: /],
      [{ keys: [entry("a", secret, { priority: secret })] }, /^keys\[0\]\.priority: /],
      [{ keys: [entry("a", secret), entry("a", "other")] }, /^keys\[1\]\.name: the same as of keys\[0\]/],
      [{ keys: [entry("a", secret), entry("b", secret)] }, /^keys\[1\]\.sha256: the same as of keys\[0\]/],
    ];
    const messageOf = (text: string): string => {
      try {
        parseKeysFile(text);
      } catch (error) {
        return (error as Error).message;
      }
      return "accepted";
    };
    for (const [file, message] of wrong) {
      const said = messageOf(JSON.stringify(file));
      expect(said).toMatch(message);
      expect(said).not.toContain(secret);
    }
    expect(messageOf(`{"keys": [${secret}`)).toBe("not valid JSON");
  });
});
