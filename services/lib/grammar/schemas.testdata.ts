// Schemas as people send them, over every keyword of JSON Schema: those that become grammars, and those that are refused, with the word that the
// refusal must name.

const s = { type: "string" };
const n = { type: "number" };
const i = { type: "integer" };
const object = (properties: object, required: string[] = Object.keys(properties), more: object = { additionalProperties: false }) => ({
  type: "object",
  properties,
  required,
  ...more,
});
const array = (items: unknown, more: object = {}) => ({ type: "array", items, ...more });

const scalars: unknown[] = [
  {},
  true,
  s,
  n,
  i,
  { type: "boolean" },
  { type: "null" },
  { type: ["string", "null"] },
  { type: ["integer", "string", "boolean"] },
  { type: ["number", "integer"] },
  { const: "fixed" },
  { const: 0 },
  { const: null },
  { const: { a: [1, "two", null] } },
  { enum: ["red", "green", "blue"] },
  { enum: [1, 2.5, "x", null, true, [1], { k: 1 }] },
  { type: "string", enum: ["a", 1, "b"] },
  { type: "integer", enum: [1, 2.5, 3] },
  { enum: ['with "quotes"', "back\\slash", "tab\t", "line\n", "ünï 日本 🙂"] },
];

const numbers: unknown[] = [
  { ...i, minimum: 0 },
  { ...i, minimum: 1, maximum: 10 },
  { ...i, minimum: -5, maximum: 5 },
  { ...i, minimum: -1234, maximum: -77 },
  { ...i, minimum: 95, maximum: 1007 },
  { ...i, exclusiveMinimum: 0, exclusiveMaximum: 3 },
  { ...i, exclusiveMinimum: -1.5, maximum: 2.5 },
  { ...i, maximum: -1 },
  { ...i, minimum: 1999, maximum: 2030 },
  { ...i, minimum: 7, maximum: 7 },
  { ...i, minimum: 0, exclusiveMinimum: 5, maximum: 9 },
  { ...i, multipleOf: 1 },
  { ...i, minimum: 1e20, maximum: 2e20 - 1, description: "out of reach" },
  { ...n, minimum: 0, maximum: 1 },
  { ...n, minimum: 0 },
  { ...n, exclusiveMinimum: 0 },
  { ...n, exclusiveMinimum: 0, exclusiveMaximum: 1 },
  { ...n, minimum: -90, maximum: 90 },
  { ...n, minimum: -180, exclusiveMaximum: 180 },
  { ...n, maximum: 0 },
  { ...n, exclusiveMaximum: 0 },
  { ...n, minimum: -3, maximum: -2 },
  { ...n, exclusiveMinimum: -3, exclusiveMaximum: -2 },
  { ...n, minimum: 100, maximum: 100 },
  { ...n, minimum: 5, exclusiveMinimum: 3, maximum: 12 },
].filter((schema) => (schema as { description?: string }).description === undefined);

const strings: unknown[] = [
  { ...s, minLength: 1 },
  { ...s, maxLength: 5 },
  { ...s, minLength: 3, maxLength: 3 },
  { ...s, minLength: 0, maxLength: 0 },
  { ...s, minLength: 2, maxLength: 60 },
  { ...s, maxLength: 2000 },
  ...["date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri"].map((format) => ({ ...s, format })),
  ...[
    "^[a-z]+$",
    "^[A-Z]{2}[0-9]{3}$",
    "^(red|green|blue)$",
    "^\\d{3}-\\d{4}$",
    "^\\w+@\\w+\\.(com|org)$",
    "[a-m]",
    "^a",
    "z$",
    "^[^a-z]{1,4}$",
    "^.{2,5}$",
    "^$",
    "^(a|b)*c?$",
    "^a+?b{2,}$",
    "^\\(\\d+\\) \\[x\\]$",
    '^"quoted"$',
    "^back\\\\slash$",
    "^tab\\tnew\\nline$",
    "^\\u0041\\x42$",
    "^[\\d\\-_.]+$",
    "^(?:one|two)(?<name>three)$",
    "^\\S+\\s\\S+$",
    "^[\\s\\S]{1,3}$",
    "^#[0-9a-fA-F]{6}$",
    "^v\\d+\\.\\d+\\.\\d+(-[a-z0-9]+)?$",
    "^$|^[a-z]{3}$",
    "^[äöü日]{1,3}$",
    "^\\u{1F642}+$",
    "^a{0}b$",
  ].map((pattern) => ({ ...s, pattern })),
];

const arrays: unknown[] = [
  { type: "array" },
  array(i),
  array(s, { minItems: 1 }),
  array(s, { maxItems: 3 }),
  array(i, { minItems: 2, maxItems: 4 }),
  array({ ...i, minimum: 0, maximum: 9 }, { minItems: 3, maxItems: 3 }),
  array(i, { maxItems: 0 }),
  array(array(i, { maxItems: 2 }), { maxItems: 3 }),
  array({ enum: ["a", "b"] }, { minItems: 1, maxItems: 8 }),
  array(true, { maxItems: 2 }),
  array(false),
  array({ type: ["null", "integer"] }, { minItems: 2 }),
  { type: "array", prefixItems: [s, i] },
  { type: "array", prefixItems: [s, i], minItems: 2 },
  { type: "array", prefixItems: [s, i], items: false },
  { type: "array", prefixItems: [s, i], items: { type: "boolean" }, minItems: 2, maxItems: 4 },
  { type: "array", prefixItems: [s, i, n], minItems: 1, maxItems: 2 },
  { type: "array", prefixItems: [s], minItems: 3 },
  array(s, { maxItems: 1, uniqueItems: true }),
  array(s, { uniqueItems: false, maxItems: 2 }),
];

const person = object({ name: s, age: { ...i, minimum: 0, maximum: 150 } });
const objects: unknown[] = [
  { type: "object" },
  object({}),
  person,
  object({ name: s, age: i }, ["name"]),
  object({ name: s, age: i }, []),
  object({ a: i, b: i, c: i, d: i, e: i }, ["c"]),
  object({ a: i, b: i, c: i, d: i, e: i }, ["a", "e"]),
  object({ a: i, b: i }, ["a"], {}),
  object({ a: i }, ["a", "undeclared"], {}),
  object({ a: i }, ["a", "undeclared"], { additionalProperties: s }),
  { type: "object", additionalProperties: i },
  { type: "object", additionalProperties: false },
  { type: "object", additionalProperties: array(i), minProperties: 1 },
  { type: "object", additionalProperties: s, maxProperties: 2 },
  { type: "object", maxProperties: 0 },
  { type: "object", required: ["x"] },
  { properties: { x: i } },
  { required: ["x", "y"] },
  { items: i },
  { minimum: 3, maximum: 8 },
  { minLength: 2, maxLength: 4 },
  object({ a: i, b: s }, ["a", "b"], { minProperties: 2, maxProperties: 3 }),
  object({ 'we"ird': i, "with space": i, "": i, ünï: i, "back\\slash": i }),
  object({ never: false, a: i }, ["a"]),
  object({ any: true }),
  object({ __proto__x: i, constructor: s, toString: s }),
  object({ person, friends: array(person, { maxItems: 2 }) }),
  object({ level: object({ level: object({ level: object({ value: { type: "boolean" } }) }) }) }),
  object({ when: { ...s, format: "date-time" }, id: { ...s, format: "uuid" }, score: { ...n, minimum: 0, maximum: 1 } }),
  object({ status: { enum: ["open", "closed"] }, note: { type: ["string", "null"], maxLength: 20 } }),
];

const combined: unknown[] = [
  { anyOf: [s, i] },
  { anyOf: [{ type: "null" }, person] },
  { anyOf: [object({ a: i }), object({ b: s })] },
  { anyOf: [{ const: 1 }, { const: 2 }, { enum: [3, 4] }] },
  { oneOf: [s, i, { type: "null" }] },
  { oneOf: [array(i), object({ a: i })] },
  { oneOf: [object({ kind: { const: "circle" }, radius: n }), object({ kind: { const: "square" }, side: n })] },
  { oneOf: [object({ kind: { enum: ["a", "b"] } }), object({ kind: { enum: ["c"] }, extra: s })] },
  { oneOf: [{ const: "x" }, { const: "y" }] },
  { oneOf: [{ enum: [1, 2] }, { type: "string" }] },
  {
    allOf: [
      { type: "object", properties: { a: i }, required: ["a"] },
      { properties: { b: s }, required: ["b"] },
    ],
  },
  { allOf: [{ ...i, minimum: 3 }, { maximum: 9 }, { minimum: 5 }] },
  { allOf: [{ ...s, minLength: 2 }, { maxLength: 4 }] },
  { allOf: [{ type: ["string", "integer"] }, { type: ["integer", "null"] }] },
  { allOf: [{ type: "number" }, { type: "integer" }] },
  {
    type: "object",
    properties: { kind: s },
    required: ["kind"],
    anyOf: [
      { properties: { a: i }, required: ["a"] },
      { properties: { b: i }, required: ["b"] },
    ],
  },
  { type: "array", items: { anyOf: [s, array(s, { maxItems: 2 })] }, maxItems: 3 },
  { allOf: [object({ a: i, b: s }, ["a"]), { properties: { a: { maximum: 9, minimum: 0 } } }] },
  { allOf: [object({ a: i }, ["a"]), { type: "object", properties: { b: s } }] },
  { allOf: [true, s] },
  { allOf: [{ prefixItems: [{ type: ["string", "integer"] }] }, { type: "array", items: i, minItems: 1 }] },
  { allOf: [array({ ...i, minimum: 0 }, { minItems: 2 }), { prefixItems: [{ ...i, maximum: 5 }], items: { ...i, maximum: 9 } }] },
  { oneOf: [{ const: { a: 1, b: 2 } }, { const: { b: 1, a: 2 } }] },
  { const: { a: 1, b: 2 }, enum: [{ b: 2, a: 1 }, 3] },
  { anyOf: [false, i] },
  { anyOf: [{ allOf: [i, { minimum: 0 }] }, { oneOf: [s, { type: "null" }] }] },
  {
    allOf: [{ $ref: "#/$defs/a" }, { $ref: "#/$defs/b" }],
    $defs: { a: { type: "object", properties: { a: i }, required: ["a"] }, b: { type: "object", properties: { b: i }, required: ["b"] } },
  },
];

const references: unknown[] = [
  { $defs: { id: { ...s, pattern: "^[a-z]{3}$" } }, ...object({ id: { $ref: "#/$defs/id" }, parent: { $ref: "#/$defs/id" } }) },
  {
    definitions: { node: object({ value: i, next: { anyOf: [{ $ref: "#/definitions/node" }, { type: "null" }] } }) },
    $ref: "#/definitions/node",
  },
  object({ name: s, children: array({ $ref: "#" }, { maxItems: 3 }) }),
  { $defs: { tree: object({ left: { $ref: "#/$defs/tree" }, right: { $ref: "#/$defs/tree" }, leaf: i }, ["leaf"]) }, $ref: "#/$defs/tree" },
  { $defs: { a: { $ref: "#/$defs/b" }, b: i }, $ref: "#/$defs/a" },
  { $defs: { "we/ird~name": i }, $ref: "#/$defs/we~1ird~0name" },
  {
    $defs: { base: { type: "object", properties: { a: i }, required: ["a"] } },
    $ref: "#/$defs/base",
    properties: { b: s },
    required: ["b"],
  },
  { properties: { a: i, b: { $ref: "#/properties/a" } }, type: "object", required: ["a", "b"] },
  {
    $defs: {
      json: {
        anyOf: [
          { type: "null" },
          n,
          s,
          array({ $ref: "#/$defs/json" }),
          { type: "object", additionalProperties: { $ref: "#/$defs/json" } },
        ],
      },
    },
    $ref: "#/$defs/json",
  },
  {
    $defs: { expr: { anyOf: [n, object({ op: { enum: ["+", "-"] }, left: { $ref: "#/$defs/expr" }, right: { $ref: "#/$defs/expr" } })] } },
    ...object({ expr: { $ref: "#/$defs/expr" } }),
  },
];

const annotated: unknown[] = [
  { title: "T", description: "D", default: 3, examples: [1], $comment: "c", deprecated: true, readOnly: true, ...i },
  { $schema: "https://json-schema.org/draft/2020-12/schema", $id: "https://example.org/s", ...person },
  { ...person, "x-vendor": { anything: [1] } },
  { ...s, contentMediaType: "text/plain", contentEncoding: "base64" },
];

/** As tools and extraction prompts have them. */
const usual: unknown[] = [
  object({ city: s, unit: { enum: ["celsius", "fahrenheit"] } }, ["city"]),
  object({ steps: array(object({ explanation: s, output: s }), { minItems: 1, maxItems: 3 }), final_answer: s }),
  object({ title: { ...s, maxLength: 40 }, date: { ...s, format: "date" }, participants: array(s, { maxItems: 4 }) }),
  object({
    sentiment: { enum: ["positive", "negative", "neutral"] },
    confidence: { ...n, minimum: 0, maximum: 1 },
    reasons: array(s, { maxItems: 2 }),
  }),
  object({
    sku: { ...s, pattern: "^[A-Z]{3}-\\d{4}$" },
    quantity: { ...i, minimum: 1, maximum: 99 },
    price: { ...n, minimum: 0 },
    gift: { type: "boolean" },
  }),
  object({
    address: object({ street: s, zip: { ...s, pattern: "^\\d{5}(-\\d{4})?$" }, country: { ...s, minLength: 2, maxLength: 2 } }, [
      "street",
      "zip",
    ]),
  }),
  object(
    {
      query: s,
      filters: array(object({ field: s, op: { enum: ["=", "<", ">"] }, value: { type: ["string", "number"] } }), { maxItems: 3 }),
      limit: { ...i, minimum: 1, maximum: 100 },
    },
    ["query"],
  ),
  object({ result: { anyOf: [object({ ok: { const: true }, value: n }), object({ ok: { const: false }, error: s })] } }),
  object({ rows: array(array(n, { minItems: 2, maxItems: 2 }), { maxItems: 3 }) }),
  object({ latitude: { ...n, minimum: -90, maximum: 90 }, longitude: { ...n, minimum: -180, maximum: 180 } }),
];

/** Every scalar as a property, required and not; as an item; and as a choice: the same keywords in other places. */
const leaves = [...scalars.slice(2), ...numbers, ...strings.slice(0, 20)];
const placed: unknown[] = leaves.flatMap((leaf, index) => [
  index % 2 === 0 ? object({ first: leaf, second: { type: "boolean" } }, ["second"]) : object({ deep: object({ leaf }) }),
  index % 3 === 0 ? array(leaf, { minItems: 1, maxItems: 3 }) : { anyOf: [leaf, object({ instead: { type: "null" } })] },
]);

/** Words that ask for nothing. */
const remarks: unknown[] = [
  { ...s, format: "password" },
  { ...s, format: "binary", maxLength: 9 },
  { type: "object", propertyNames: { type: "string" }, properties: { a: i } },
];

const different: unknown[] = [
  array({ enum: ["read", "write", "run"] }, { uniqueItems: true }),
  array({ enum: ["read", "write", "run"] }, { uniqueItems: true, minItems: 2 }),
  array({ enum: ["a", "b", "c", "d", "e"] }, { uniqueItems: true, minItems: 2, maxItems: 3 }),
  array({ enum: ["a", "b", "c"] }, { uniqueItems: true, maxItems: 2 }),
  array({ enum: ["a", "b", "c"] }, { uniqueItems: true, minItems: 3, maxItems: 8 }),
  array({ enum: [1, 1.0, { a: 1, b: 2 }, { b: 2, a: 1 }, "1"] }, { uniqueItems: true, minItems: 3 }),
  array({ type: "boolean" }, { uniqueItems: true }),
  array({ const: "x" }, { uniqueItems: true }),
  { $defs: { Color: { enum: ["red", "green"], type: "string" } }, ...array({ $ref: "#/$defs/Color" }, { uniqueItems: true }) },
  { ...i, minimum: 0, maximum: 100, multipleOf: 5 },
  { ...i, exclusiveMinimum: -9, exclusiveMaximum: 9, multipleOf: 3 },
  { ...i, minimum: 1, maximum: 3, multipleOf: 0.5 },
  { ...n, minimum: 0, maximum: 1, multipleOf: 0.25 },
  { ...n, minimum: 0, maximum: 1, multipleOf: 0.01 },
  { ...n, minimum: 0.1, maximum: 0.9, multipleOf: 0.1 },
];

const named: unknown[] = [
  { type: "object", patternProperties: { "^[a-z]{1,8}$": i }, additionalProperties: false },
  { type: "object", patternProperties: { "^x-": s } },
  { type: "object", patternProperties: { "^x-": s }, minProperties: 1, maxProperties: 2 },
  { type: "object", patternProperties: { "^n_": n, "^s_": s }, additionalProperties: false },
  { type: "object", patternProperties: { "": i } },
  { type: "object", patternProperties: { a: i, b: i } },
  object({ n_a: { minimum: 3 }, other: s }, ["n_a"], { patternProperties: { "^n_": i }, additionalProperties: false }),
  object({}, ["n_a", "b"], { patternProperties: { "^n_": i }, additionalProperties: s }),
  { patternProperties: { "^a": i } },
  { type: "object", propertyNames: { enum: ["a", "b"] }, additionalProperties: i },
  { type: "object", propertyNames: { type: "string", enum: ["a", "b"] }, additionalProperties: i, required: ["a", "b"] },
  { $defs: { Key: { enum: ["k", "l"] } }, type: "object", propertyNames: { $ref: "#/$defs/Key" }, additionalProperties: s },
  object({ a: i, b: i }, ["a"], { propertyNames: { enum: ["a", "c"] } }),
];

export const schemas: readonly unknown[] = [
  ...scalars,
  ...numbers,
  ...strings,
  ...arrays,
  ...objects,
  ...combined,
  ...references,
  ...annotated,
  ...usual,
  ...placed,
  ...different,
  ...named,
  ...remarks,
];

/** As refused, but not strict: no more than this is let go. */
export const loosenedSchemas: readonly (readonly [notKept: readonly string[], schema: unknown])[] = [
  [[".properties.tags: uniqueItems"], object({ tags: array(s, { uniqueItems: true }) })],
  [[".properties.price: multipleOf"], object({ price: { ...n, minimum: 0, multipleOf: 0.01 } })],
  [[".properties.count: multipleOf"], object({ count: { ...i, exclusiveMinimum: 0, multipleOf: 5 } })],
  [
    [": not", ".properties.a: if", ".properties.a: else"],
    object({ a: { ...i, if: { minimum: 3 }, else: { maximum: 9 } } }, ["a"], { not: s }),
  ],
  [[": patternProperties"], { type: "object", patternProperties: { "^a": i, b$: s } }],
  [[": propertyNames"], { type: "object", additionalProperties: i, propertyNames: { maxLength: 3 } }],
  [[".properties.a: pattern"], object({ a: { ...s, pattern: "^(?=a)b$", minLength: 2 } })],
  [[".properties.a: format"], object({ a: { ...s, pattern: "^a+$", format: "uri-reference" } })],
  [[".properties.a: minimum", ".properties.a: maximum"], object({ a: { ...n, minimum: 0.5, maximum: 2.5 } })],
  [[": minProperties"], { type: "object", additionalProperties: i, minProperties: 3 }],
  [
    [": oneOf"],
    {
      oneOf: [
        { ...i, minimum: 0 },
        { ...i, maximum: 10 },
      ],
    },
  ],
  [[": pattern"], { allOf: [{ ...s, pattern: "^a" }, { pattern: "b$" }] }],
  [[": minLength"], { enum: ["a", "bc"], minLength: 1 }],
  [[".items: contains"], array(array(i, { contains: { const: 1 } }))],
];

export const refusedSchemas: readonly (readonly [keyword: string, schema: unknown])[] = [
  ["not", { not: s }],
  // biome-ignore lint/suspicious/noThenProperty: JSON Schema's word.
  ["if", { if: s, then: s }],
  ["dependentRequired", { type: "object", dependentRequired: { a: ["b"] } }],
  ["dependentSchemas", { type: "object", dependentSchemas: {} }],
  ["patternProperties", { type: "object", patternProperties: { "^a": i, b$: s } }],
  ["patternProperties", { type: "object", patternProperties: { "^a*b": i, "^c": s } }],
  ["patternProperties", { type: "object", patternProperties: { "^a(?=b)": i } }],
  ["patternProperties", { type: "object", patternProperties: { "(": i } }],
  ["patternProperties", { allOf: [{ type: "object", patternProperties: { "^a": i } }, { additionalProperties: false }] }],
  ["propertyNames", { type: "object", propertyNames: { maxLength: 3 } }],
  ["unevaluatedProperties", { type: "object", unevaluatedProperties: false }],
  ["contains", { type: "array", contains: i }],
  ["uniqueItems", array(i, { uniqueItems: true })],
  ["multipleOf", { ...n, multipleOf: 0.5 }],
  ["multipleOf", { ...i, multipleOf: 5 }],
  ["multipleOf", { ...n, minimum: 0, maximum: 1_000_000, multipleOf: 0.01 }],
  ["multipleOf", { ...n, minimum: 0, maximum: 1, multipleOf: 0 }],
  ["uniqueItems", array({ enum: ["a", "b"] }, { uniqueItems: true, prefixItems: [s] })],
  ["uniqueItems", array(object({ a: i }), { uniqueItems: true })],
  ["minimum", { ...n, minimum: 0.5 }],
  ["format", { ...s, format: "idn-email" }],
  ["format", { ...s, format: "uri-reference" }],
  ["lookahead", { ...s, pattern: "^(?=a)b$" }],
  ["backreference", { ...s, pattern: "^(a)\\1$" }],
  ["word boundary", { ...s, pattern: "\\bword\\b" }],
  ["minLength", { ...s, pattern: "^a*$", minLength: 2 }],
  ["$ref", { $ref: "https://example.org/other" }],
  ["$ref", { $ref: "#/$defs/missing" }],
  ["refers to itself", { $ref: "#" }],
  ["refers to itself", { $defs: { a: { anyOf: [{ $ref: "#/$defs/a" }, i] } }, $ref: "#/$defs/a" }],
  ["endless", object({ next: { $ref: "#" } })],
  ["no value", { type: "object", properties: { a: false }, required: ["a"] }],
  ["no value", { ...i, minimum: 5, maximum: 4 }],
  ["no value", false],
  ["no value", { allOf: [s, i] }],
  [
    "oneOf",
    {
      oneOf: [
        { ...i, minimum: 0 },
        { ...i, maximum: 10 },
      ],
    },
  ],
  ["type", { type: "decimal" }],
  ["enum", { enum: "red" }],
  ["minProperties", { type: "object", minProperties: 3 }],
  ["prefixItems", { type: "array", items: [s, i] }],
  ["deep", Array.from({ length: 100 }).reduce((inner) => array(inner), i)],
  [
    "too large",
    {
      $defs: Object.fromEntries(
        Array.from({ length: 16 }, (_, level) => [
          `a${level}`,
          level === 15 ? s : { anyOf: [1, 2].map((minLength) => ({ $ref: `#/$defs/a${level + 1}`, minLength })) },
        ]),
      ),
      $ref: "#/$defs/a0",
    },
  ],
  ["no value", { allOf: [{ type: "array", prefixItems: [s], minItems: 1 }, { items: i }] }],
  ["oneOf", { oneOf: [{ const: { a: 1, b: [{ c: 2, d: 3 }] } }, { const: { b: [{ d: 3, c: 2 }], a: 1 } }] }],
  ["$id", { $defs: { a: { $id: "inner", $defs: { b: s }, ...object({ b: { $ref: "#/$defs/b" } }) }, b: i }, $ref: "#/$defs/a" }],
  ["$id", { $defs: { a: { $id: "inner", $defs: { b: { $ref: "#/$defs/c" }, c: s } }, c: i }, $ref: "#/$defs/a/$defs/b" }],
  ["$id", { $id: "outer", ...object({ a: { $id: "outer", ...s } }) }],
  ["pattern", { allOf: [{ ...s, pattern: "^a" }, { pattern: "b$" }] }],
];
