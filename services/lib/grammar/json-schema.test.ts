// Whatever a grammar lets through, the schema accepts: random walks over the tokens that may come, judged by ajv.
import { Ajv2020, type AnySchema } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { toEbnf, utf8Ranges } from "./expression.ts";
import { jsonObjectGrammar, schemaGrammar } from "./json-schema.ts";
import { UnsupportedSchema } from "./schema-keywords.ts";
import { GrammarCompiler } from "./matcher.ts";
import { loosenedSchemas, refusedSchemas, schemas } from "./schemas.testdata.ts";

const endToken = 257;
/** Bytes, and some longer tokens that cross the borders of what a grammar names. */
const words = ['{"', '": ', '", "', '"}', "true", "null", "[{", "}]", " 1", "00", "é", "日本"];
const encoder = new TextEncoder();
const tokens: Uint8Array[] = [
  ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  new Uint8Array(0),
  new Uint8Array(0),
  ...words.map((word) => encoder.encode(word)),
];
const compiler = new GrammarCompiler(() => ({ size: tokens.length + 3, tokens }));
const maxTokens = 3_000;

/** A text that the grammar lets through, or null where the walk grew too long. `eager`: ends where it may, and prefers quotes and brackets that close. */
async function walk(ebnf: string, random: () => number, eager: boolean): Promise<string | null> {
  const matcher = await compiler.matcher(ebnf, [endToken]);
  const bytes: number[] = [];
  for (let step = 0; step < maxTokens; step++) {
    const allowed = await matcher.allowed();
    const may = (id: number) => (((allowed[id >>> 5] as number) >>> (id & 31)) & 1) === 1;
    const ids = Array.from({ length: tokens.length + 3 }, (_, id) => id).filter(may);
    expect(ids.length).toBeGreaterThan(0);
    expect(ids.every((id) => id === endToken || (tokens[id]?.length ?? 0) > 0)).toBe(true);
    const closing = ids.filter((id) => id === endToken || ['"', "}", "]"].includes(String.fromCharCode(id)));
    const from = (eager || step > 150) && closing.length > 0 && random() < (step > 400 ? 1 : 0.5) ? closing : ids;
    const token = from[Math.floor(random() * from.length)] as number;
    expect(matcher.accept(token)).toBe(true);
    if (token === endToken) {
      matcher.dispose();
      return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
    }
    bytes.push(...(tokens[token] as Uint8Array));
  }
  matcher.dispose();
  return null;
}

function seeded(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

test.each(["^\\S$", "^[^\\s]$", "^[^\\sa-z]$"])("%s has no character that \\s matches", async (pattern) => {
  const ebnf = toEbnf(schemaGrammar({ type: "string", pattern }));
  const allows = async (character: string) => {
    const matcher = await compiler.matcher(ebnf, [endToken]);
    const taken = [...encoder.encode(JSON.stringify(character)), endToken].every((token) => matcher.accept(token));
    matcher.dispose();
    return taken;
  };
  const spaces = Array.from({ length: 0x10000 }, (_, code) => String.fromCharCode(code)).filter((one) => /\s/.test(one));
  for (const space of spaces) expect({ space: space.charCodeAt(0), allowed: await allows(space) }).toMatchObject({ allowed: false });
  for (const other of ["A", '"', "é", "日"]) expect(await allows(other), other).toBe(true);
});

function without(value: unknown, keywords: ReadonlySet<string>): unknown {
  if (Array.isArray(value)) return value.map((one) => without(one, keywords));
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(([name]) => !keywords.has(name));
  return Object.fromEntries(kept.map(([name, one]) => [name, without(one, keywords)]));
}

describe("schemas", () => {
  let ajv: Ajv2020;
  beforeAll(() => {
    ajv = new Ajv2020({ strict: false, allErrors: true });
    addFormats.default(ajv);
  });

  test.each(schemas.map((schema, index) => [index, JSON.stringify(schema).slice(0, 80), schema] as const))(
    "%i: %s",
    async (index, _, schema) => {
      const validate = ajv.compile(schema as AnySchema);
      const ebnf = toEbnf(schemaGrammar(schema));
      let whole = 0;
      for (let round = 0; round < 6; round++) {
        const said = await walk(ebnf, seeded(index * 100 + round + 1), round % 2 === 0);
        if (said === null) continue;
        whole++;
        const value: unknown = JSON.parse(said);
        if (!validate(value)) expect.fail(`${said}: ${ajv.errorsText(validate.errors)}`);
      }
      expect(whole).toBeGreaterThan(0);
    },
  );

  test.each(refusedSchemas.map(([keyword, schema]) => [keyword, schema] as const))("refused, by name: %s", (keyword, schema) => {
    expect(() => schemaGrammar(schema)).toThrow(UnsupportedSchema);
    expect(() => schemaGrammar(schema)).toThrow(keyword);
  });

  test.each(loosenedSchemas)("not strict, %j is let go and told", async (expected, schema) => {
    expect(() => schemaGrammar(schema)).toThrow(UnsupportedSchema);
    const told = new Set<string>();
    const ebnf = toEbnf(schemaGrammar(schema, (path, keyword) => told.add(`${path}: ${keyword}`)));
    expect([...told].sort()).toEqual([...expected].sort());
    // What is left is valid but for those.
    const validate = ajv.compile(without(schema, new Set(expected.map((one) => one.split(": ")[1] as string))) as AnySchema);
    for (let round = 1; round < 4; round++) {
      const said = await walk(ebnf, seeded(round), true);
      if (said !== null && !validate(JSON.parse(said))) expect.fail(`${said}: ${ajv.errorsText(validate.errors)}`);
    }
  });

  // Not among refusedSchemas, since JSON.stringify cannot write them: a client's own text can.
  test.each([
    ["enum", '{"enum": [{"k": [1e400]}]}'],
    ["const", '{"const": -1e400}'],
    ["minimum", '{"type": "integer", "minimum": -1e400}'],
  ])("a number that is too large is refused, by name: %s", (keyword, body) => {
    expect(() => schemaGrammar(JSON.parse(body))).toThrow(UnsupportedSchema);
    expect(() => schemaGrammar(JSON.parse(body))).toThrow(`"${keyword}"`);
  });

  test("a broken schema is refused, never crashes", () => {
    fc.assert(
      fc.property(
        fc.jsonValue(),
        fc.constantFrom(
          "type",
          "properties",
          "items",
          "enum",
          "required",
          "anyOf",
          "oneOf",
          "allOf",
          "$ref",
          "pattern",
          "minLength",
          "maximum",
          "prefixItems",
          "patternProperties",
          "propertyNames",
          "multipleOf",
        ),
        fc.boolean(),
        (value, keyword, strict) => {
          try {
            toEbnf(schemaGrammar({ type: keyword === "type" ? value : undefined, [keyword]: value }, strict ? undefined : () => {}));
          } catch (error) {
            expect(error).toBeInstanceOf(UnsupportedSchema);
          }
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

test("an object of anything", async () => {
  const ebnf = toEbnf(jsonObjectGrammar());
  for (let round = 1; round < 12; round++) {
    const said = await walk(ebnf, seeded(round), round % 2 === 0);
    if (said !== null) expect(typeof JSON.parse(said)).toBe("object");
  }
});

test("what is no grammar is refused, and the compiler goes on", async () => {
  await expect(compiler.matcher("root ::= (", [endToken])).rejects.toBeDefined();
  await expect(compiler.matcher('root ::= "a"', [endToken])).resolves.toBeDefined();
});

test("ranges of code points as bytes: exactly their UTF-8 forms", () => {
  const point = fc.oneof(
    fc.nat(0x10ffff),
    fc.constantFrom(0, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xd800, 0xdfff, 0xe000, 0xffff, 0x10000, 0x10ffff),
  );
  fc.assert(
    fc.property(point, point, fc.array(point), (a, b, others) => {
      const [from, to] = [Math.min(a, b), Math.max(a, b)];
      const sequences = utf8Ranges(from, to);
      for (const code of [from, to, ...others, from - 1, to + 1]) {
        if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) continue;
        const bytes = encoder.encode(String.fromCodePoint(code));
        const matching = sequences.filter(
          (ranges) =>
            ranges.length === bytes.length && ranges.every(([low, high], i) => low <= (bytes[i] as number) && (bytes[i] as number) <= high),
        );
        expect(matching.length).toBe(from <= code && code <= to ? 1 : 0);
      }
    }),
  );
});
