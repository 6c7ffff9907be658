// JSON values that no schema had in mind, and JSON with one of them somewhere in it. Pure.
import type { Random } from "../../lib/simulator/random.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const numbers = [
  0,
  -1,
  1,
  2,
  3,
  0.5,
  -0.5,
  1e-30,
  1e30,
  1e308,
  -1e308,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  -(2 ** 63),
  1e21,
];
const strings = [
  "",
  " ",
  "a",
  "0",
  "-1",
  "null",
  "true",
  "\u0000",
  "\ud800",
  "\udc00\ud800",
  "\ufeff",
  "\u202e",
  "\ufdd0",
  "\uffff",
  "日本",
  "👨‍👩‍👧‍👦",
  "é".normalize("NFD"),
  "__proto__",
  "constructor",
  "toString",
  "../../etc/passwd",
  "<think>",
  "</think>",
  "<｜end▁of▁sentence｜>",
  "{{ 1 / 0 }}",
  "{% for a in b %}",
  "%s%n",
  "' OR 1=1 --",
  "a\r\nx: y",
  "(a+)+$",
  "x".repeat(100),
  "x".repeat(70_000),
];

export function hostileNumber(random: Random): number {
  return random.pick(numbers);
}

export function hostileString(random: Random): string {
  return random.pick(strings);
}

/** Any JSON value; deep and long ones are rarer. */
export function hostileJson(random: Random, depth = 3): Json {
  const kind = random.between(0, depth > 0 ? 11 : 7);
  if (kind <= 2) return hostileNumber(random);
  if (kind <= 5) return hostileString(random);
  if (kind === 6) return random.pick([null, true, false]);
  if (kind === 7)
    return random.pick<() => Json>([() => [], () => ({}), () => nested(random.between(1, 60)), () => Array(20_000).fill(0)])();
  if (kind <= 9) return Array.from({ length: random.between(1, 3) }, () => hostileJson(random, depth - 1));
  return Object.fromEntries(
    Array.from({ length: random.between(1, 3) }, () => [hostileString(random).slice(0, 300), hostileJson(random, depth - 1)]),
  );
}

function nested(depth: number): Json {
  let value: Json = [];
  for (let i = 1; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value };
  return value;
}

/** A copy in which somewhere something else stands, is missing or is one too many; `path` says where (`model.vocab.a`). */
export function changedSomewhere(random: Random, value: Json): { value: Json; path: string[] } {
  if (Array.isArray(value) && value.length > 0 && random.chance(0.8)) {
    const at = random.between(0, value.length - 1);
    const copy = [...value];
    if (random.chance(0.1)) {
      copy.splice(at, 1);
      return { value: copy, path: [String(at)] };
    }
    const inner = changedSomewhere(random, value[at] as Json);
    copy[at] = inner.value;
    return { value: copy, path: [String(at), ...inner.path] };
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length > 0 && random.chance(0.95)) {
    const key = random.pick(Object.keys(value));
    const copy = { ...value };
    if (random.chance(0.1)) {
      delete copy[key];
      return { value: copy, path: [key] };
    }
    const inner = changedSomewhere(random, value[key] as Json);
    copy[key] = inner.value;
    return { value: copy, path: [key, ...inner.path] };
  }
  return { value: hostileJson(random), path: [] };
}
