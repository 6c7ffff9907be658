import fc from "fast-check";
import { expect, it } from "vitest";
import { hasSession, isKey, sessionCookie, sessionSeconds, sessionValue } from "./session.ts";

const key = "correct horse battery";
const cookie = (value: string) => `other=1; ${sessionCookie}=${value}; more=2`;

it("a session holds until its end, for gateways with the same key only", () => {
  const value = sessionValue(key, 1000);
  expect(hasSession(cookie(value), key, 1000)).toBe(true);
  expect(hasSession(cookie(value), key, 999 + sessionSeconds)).toBe(true);
  expect(hasSession(cookie(value), key, 1000 + sessionSeconds)).toBe(false);
  expect(hasSession(cookie(value), `${key}2`, 1000)).toBe(false);
  expect(hasSession(undefined, key, 1000)).toBe(false);
});

it("nothing else is a session", () => {
  const value = sessionValue(key, 1000);
  fc.assert(
    fc.property(fc.nat(value.length - 1), fc.constantFrom(..."0123456789abcdef."), (at, letter) => {
      const changed = value.slice(0, at) + letter + value.slice(at + 1);
      expect(hasSession(cookie(changed), key, 1000)).toBe(changed === value);
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => !hasSession(text, key, 0)));
});

it("a key is equal to itself alone", () => {
  expect(isKey(key, key)).toBe(true);
  fc.assert(fc.property(fc.string(), (other) => isKey(other, key) === (other === key)));
});
