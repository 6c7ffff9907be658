// Regular expressions, stop strings and JSON schemas that take for ever, or gigabytes, where nobody bounds them.
import type { Json } from "./hostile-json.ts";

const nest = (depth: number, wrap: (inner: Json) => Json, inner: Json): Json => {
  let value = inner;
  for (let i = 0; i < depth; i++) value = wrap(value);
  return value;
};
const times = (count: number, make: (i: number) => Json) => Array.from({ length: count }, (_, i) => make(i));
const object = (count: number, make: (i: number) => [string, Json]): Json =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => make(i)));
const text = { type: "string" };
/** References that double at every level. */
const doubling = (levels: number, keyword: string): Json => ({
  $defs: object(levels, (i) => {
    const next = `#/$defs/a${i + 1}`;
    const both: Json[] = [{ $ref: next }, { $ref: next, minLength: 1 }];
    return [`a${i}`, i === levels - 1 ? text : { [keyword]: both }];
  }),
  $ref: "#/$defs/a0",
});

export const hostilePatterns: readonly string[] = [
  "(a+)+$",
  "(a|a)*b",
  "(a|aa)+$",
  "(.*)*x",
  "(.*a){20}",
  "([a-z]+)*[0-9]",
  "^(([a-z])+.)+[A-Z]([a-z])+$",
  "(x+x+)+y",
  "((a{0,100}){0,100}){0,100}",
  "a{1000}",
  "(a{1,1000}){1,1000}",
  "((((a?){30})?){30}){30}",
  "[\\u0000-\\u{10ffff}]{1000}",
  "[^\\w\\s]{500}",
  `(${Array.from({ length: 200 }, (_, i) => `w${i}`).join("|")})`,
  `${"(".repeat(400)}a${")".repeat(400)}`,
  "(".repeat(1000),
  `[${"a-z".repeat(300)}]`,
  "\\u{110000}",
  "\\ud800",
  "(?<=a)b",
  "(?=a)*",
  "\\1",
  "a{2,1}",
  "a{99999999999}",
  "[z-a]",
  "[",
  "\\",
  "*",
  "\u0000",
  "\ud83d",
  "🐚{1,1000}",
  "(?<__proto__>a)",
];

export const hostileStops: readonly (string | string[])[] = [
  `${"a".repeat(1023)}b`,
  Array(16)
    .fill(0)
    .map((_, i) => `${"a".repeat(1000 - i)}b`),
  Array(16).fill("ab".repeat(512)),
  "(a+)+$",
  "\u0000",
  "\n",
  "é".normalize("NFD"),
  "👨‍👩‍👧‍👦",
];

export const hostileSchemas: readonly Json[] = [
  { $ref: "#" },
  { $ref: "#/" },
  { $ref: "#/%zz" },
  { $ref: "#/%F0%9F" },
  { $ref: "#/$defs/__proto__", $defs: {} },
  { $ref: "#/constructor" },
  { $ref: "#/$defs/~2", $defs: { "~2": text } },
  { $ref: 1 },
  { $ref: `#/${"a/".repeat(10_000)}` },
  { $defs: { a: { $ref: "#/$defs/b" }, b: { $ref: "#/$defs/a" } }, $ref: "#/$defs/a" },
  { $defs: { a: { allOf: [{ $ref: "#/$defs/a" }] } }, $ref: "#/$defs/a" },
  { $defs: { a: { anyOf: [{ $ref: "#/$defs/a" }, { type: "null" }] } }, $ref: "#/$defs/a" },
  { properties: { a: { $ref: "#" } }, required: ["a"] },
  { properties: { a: { $ref: "#" } }, type: "object" },
  doubling(30, "anyOf"),
  doubling(20, "allOf"),
  nest(45, (inner) => ({ type: "array", items: inner }), text),
  nest(28, (inner) => ({ type: "object", properties: { a: inner }, required: ["a"] }), text),
  nest(40, (inner) => ({ anyOf: [inner] }), text),
  nest(40, (inner) => ({ allOf: [inner] }), text),
  nest(4, (inner) => ({ type: "array", items: inner, minItems: 1000, maxItems: 1000 }), text),
  nest(6, (inner) => ({ type: "array", items: inner, maxItems: 100 }), text),
  { enum: times(10_000, (i) => `value ${i}`) },
  { enum: times(5_000, (i) => ({ a: i, b: [i] })) },
  { enum: ["x".repeat(200_000)] },
  { enum: [] },
  { enum: "a" },
  { enum: [nest(50, (inner) => [inner], 1)] },
  { const: nest(50, (inner) => [inner], 1) },
  { type: "object", properties: object(2_000, (i) => [`p${i}`, text]) },
  { type: "object", properties: object(300, (i) => [`p${i}`, { type: "object", properties: object(20, (k) => [`q${k}`, text]) }]) },
  { type: "object", required: times(3_000, (i) => `r${i}`) },
  { type: "object", required: 1 },
  { type: "object", properties: null },
  { type: "object", properties: { a: null } },
  { allOf: [{ required: ["a"] }, { required: 1 }] },
  { allOf: [{ properties: { a: text } }, { properties: null }] },
  { allOf: [{ properties: { a: text } }, { properties: { a: 7 } }] },
  { allOf: [{ type: "string" }, { type: 1 }] },
  { allOf: [{ minimum: 1 }, { minimum: "x" }] },
  { allOf: [{ additionalProperties: false, properties: [] }, { required: {} }] },
  { allOf: times(5_000, () => ({ minLength: 1 })) },
  { anyOf: times(5_000, (i) => ({ const: i })) },
  { anyOf: [] },
  { oneOf: times(300, (i) => ({ const: i })) },
  { oneOf: times(1_500, (i) => ({ type: "object", properties: { k: { const: i } }, required: ["k"] })) },
  {
    oneOf: [
      { type: "object", properties: { a: { $ref: "#" } }, required: ["a"] },
      { type: "object", properties: { a: { $ref: "#" } }, required: ["a"] },
    ],
  },
  { oneOf: [{ enum: [1] }, null] },
  { type: "string", maxLength: 1e308 },
  { type: "string", minLength: 4_000, maxLength: 4_000 },
  { type: "string", minLength: -1 },
  { type: "string", maxLength: 0.5 },
  { type: "array", minItems: 1000, items: text },
  { type: "array", prefixItems: times(2_000, () => text), minItems: 2_000 },
  { type: "array", minItems: 1e15 },
  { type: "integer", minimum: -1e308, maximum: 1e308 },
  { type: "integer", minimum: 1e20 },
  { type: "number", minimum: 0.1 },
  { type: "number", exclusiveMinimum: 5, exclusiveMaximum: 5 },
  { type: "integer", minimum: 123456789, maximum: 987654321 },
  { type: "integer", multipleOf: 0 },
  { type: ["string", "string", "null"] },
  { type: [] },
  { type: {} },
  { type: "toString" },
  { properties: { __proto__x: text, constructor: text, toString: text, hasOwnProperty: text } },
  { type: "object", additionalProperties: nest(30, (inner) => ({ type: "object", additionalProperties: inner }), text) },
  { type: "string", format: "__proto__" },
  { not: {} },
  { if: {} },
  { $dynamicRef: "#a" },
  { $schema: "http://127.0.0.1:1/x", $ref: "http://127.0.0.1:1/x" },
  { title: "x".repeat(100_000), description: "y".repeat(100_000), type: "null" },
  ...hostilePatterns.map((pattern) => ({ type: "string", pattern })),
  { allOf: [{ type: "string", pattern: "a" }, { pattern: "b" }] },
  true,
  false,
  {},
];

/** Too deep for a body, but not for a schema in a string. */
export const hostileSchemaTexts: readonly string[] = [
  `${'{"items":'.repeat(20_000)}{}${"}".repeat(20_000)}`,
  `{"enum":[${"[".repeat(20_000)}${"]".repeat(20_000)}]}`,
  `{"const":${'{"a":'.repeat(20_000)}1${"}".repeat(20_000)}}`,
  "[".repeat(1_000_000),
  '{"type":"string","minLength":1e999}',
  '{"__proto__":{"type":"string"}}',
  '{"properties":{"__proto__":{"type":"string"}},"required":["__proto__"],"type":"object"}',
  "null",
  "{",
  "",
  '"x"',
];
