// Seeded values for a schema: what it allows, what it just does not, and what it never thought of. Pure.
import type { Random } from "../../lib/simulator/random.ts";
import { hostileJson, hostileNumber, hostileString, type Json } from "./hostile-json.ts";
import { hostilePatterns, hostileSchemas, hostileSchemaTexts, hostileStops } from "./patterns.ts";
import { alternatives, type Schema } from "./schema.ts";

/** What a name says of its values and a schema does not: the model that is served, and where a text is a pattern or a schema. */
export interface Names {
  model: string;
}

const ordinaryTexts = ["a", "What is 1 + 1?", "0", "17", "é 日本 🙂", "x y z", "\n", "A longer text, of several words.", "abc_1"];
const keys = ["0", "17", "256", "a", "name", "__proto__x", "é", "constructor"];
/** A token each, with the model in the box: more would be a test of its speed. */
const manyCharacters = 300;

/** The least that the schema allows. */
export function smallest(schema: Schema, name: string, names: Names): Json {
  const choice = alternatives(schema).find(({ type }) => type !== "null") ?? schema;
  if (choice.const !== undefined) return choice.const as Json;
  if (choice.enum !== undefined) return choice.enum[0] as Json;
  switch (choice.type) {
    case "object": {
      const required = choice.required ?? [];
      return Object.fromEntries(required.map((key) => [key, smallest(choice.properties?.[key] ?? {}, key, names)]));
    }
    case "array":
      if (choice.prefixItems !== undefined) return choice.prefixItems.map((item) => smallest(item, name, names));
      return Array.from({ length: choice.minItems ?? 0 }, () => smallest(choice.items ?? {}, name, names));
    case "string":
      if (name === "model") return names.model;
      return fittingText(choice, ordinaryTexts) ?? "a".repeat(choice.minLength ?? 1);
    case "integer":
    case "number": {
      const { minimum, maximum } = bounds(choice);
      return Math.max(minimum, Math.min(0, maximum));
    }
    case "boolean":
      return false;
    default:
      return null;
  }
}

/** Something that the schema allows. */
export function allowed(random: Random, schema: Schema, name: string, names: Names): Json {
  const choice = random.pick(alternatives(schema));
  if (choice.const !== undefined) return choice.const as Json;
  if (choice.enum !== undefined) return random.pick(choice.enum) as Json;
  switch (choice.type) {
    case "object":
      return allowedObject(random, choice, name, names);
    case "array": {
      if (choice.prefixItems !== undefined) return choice.prefixItems.map((item) => allowed(random, item, name, names));
      const least = choice.minItems ?? 0;
      const length = Math.min(choice.maxItems ?? 4, random.pick([least, least + 1, least + 3]));
      return Array.from({ length }, () => allowed(random, choice.items ?? {}, name, names));
    }
    case "string":
      return allowedText(random, choice, name, names);
    case "integer":
    case "number":
      return allowedNumber(random, choice);
    case "boolean":
      return random.chance(0.5);
    case "null":
      return null;
    default:
      return hostileJson(random);
  }
}

function allowedObject(random: Random, schema: Schema, name: string, names: Names): Json {
  if (/schema$|^parameters$|^json$/.test(name) && schema.properties === undefined && random.chance(0.8)) return random.pick(hostileSchemas);
  const out: Record<string, Json> = {};
  for (const [key, property] of Object.entries(schema.properties ?? {})) {
    if (schema.required?.includes(key) || random.chance(0.3)) out[key] = allowed(random, property, key, names);
  }
  const others = schema.additionalProperties;
  if (typeof others === "object") {
    for (let i = random.between(0, 3); i > 0; i--) out[random.pick(keys)] = allowed(random, others, name, names);
  }
  return out;
}

function allowedText(random: Random, schema: Schema, name: string, names: Names): Json {
  if (name === "model") return names.model;
  if (/regex|pattern/.test(name) && random.chance(0.9)) return fittingText(schema, [random.pick(hostilePatterns)]) ?? "a";
  if (name === "json" && random.chance(0.9))
    return random.chance(0.5) ? random.pick(hostileSchemaTexts) : JSON.stringify(random.pick(hostileSchemas));
  if (name === "stop" && random.chance(0.5)) return [random.pick(hostileStops)].flat()[0] as string;
  if (name === "arguments" && random.chance(0.7))
    return random.pick(['{"a": 1}', "{}", "", "{", `${"[".repeat(50_000)}${"]".repeat(50_000)}`, '{"__proto__": {"a": 1}}', "null"]);
  const texts = [random.pick(ordinaryTexts), hostileString(random), "z".repeat(random.between(1, manyCharacters))];
  const most = schema.maxLength;
  if (most !== undefined && most <= 1_024) texts.push("m".repeat(most));
  return fittingText(schema, random.chance(0.5) ? texts : texts.reverse()) ?? fittingText(schema, ordinaryTexts) ?? "a";
}

function fittingText(schema: Schema, texts: readonly string[]): string | undefined {
  const { minLength = 0, maxLength = Number.POSITIVE_INFINITY, pattern } = schema;
  const fits = pattern === undefined ? () => true : (text: string) => new RegExp(pattern, "u").test(text);
  return texts.find((text) => text.length >= minLength && text.length <= maxLength && fits(text));
}

function bounds({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Schema): { minimum: number; maximum: number } {
  const step = type === "integer" ? 1 : 1e-3;
  return {
    minimum: minimum ?? (exclusiveMinimum === undefined ? -(2 ** 31) : exclusiveMinimum + step),
    maximum: maximum ?? (exclusiveMaximum === undefined ? 2 ** 31 : exclusiveMaximum - step),
  };
}

function allowedNumber(random: Random, schema: Schema): number {
  const { type } = schema;
  const { minimum, maximum } = bounds(schema);
  const middle = minimum + random.real() * (maximum - minimum);
  const near = [0, 1, 2, 5, minimum + 1, type === "integer" ? Math.floor(middle) : middle].filter(
    (one) => one >= minimum && one <= maximum,
  );
  return random.chance(0.15) ? random.pick([minimum, maximum]) : random.pick(near.length > 0 ? near : [minimum]);
}

/** Just outside of what the schema allows, or of another type. */
export function notQuite(random: Random, schema: Schema, name: string, names: Names): Json {
  const choice = random.pick(alternatives(schema));
  const options: (() => Json)[] = [() => hostileNumber(random), () => hostileString(random), () => [], () => ({}), () => true];
  if (choice.minimum !== undefined) options.push(() => (choice.minimum as number) - 1);
  if (choice.maximum !== undefined) options.push(() => (choice.maximum as number) + 1);
  if (choice.type === "integer")
    options.push(
      () => 0.5,
      () => "1",
      () => 1e308,
    );
  if (choice.type === "string") {
    options.push(
      () => 1,
      () => ["a"],
      () => "\ud800",
    );
    if ((choice.minLength ?? 0) > 0) options.push(() => "");
    if (choice.maxLength !== undefined && choice.maxLength < 100_000) options.push(() => "w".repeat((choice.maxLength as number) + 1));
  }
  if (choice.enum !== undefined || choice.const !== undefined)
    options.push(
      () => "none of them",
      () => String(choice.const ?? choice.enum?.[0]).toUpperCase(),
    );
  if (choice.type === "array") {
    options.push(
      () => allowed(random, choice.items ?? {}, name, names),
      () => [hostileJson(random)],
    );
    if (choice.maxItems !== undefined && choice.maxItems < 100_000)
      options.push(() => Array((choice.maxItems as number) + 1).fill(smallest(choice.items ?? {}, name, names)));
  }
  if (choice.type === "object") {
    const object = allowedObject(random, choice, name, names) as Record<string, Json>;
    options.push(
      () => ({ ...object, [hostileString(random).slice(0, 200)]: hostileJson(random) }),
      () => Object.fromEntries(Object.entries(object).slice(1)),
      () => Object.fromEntries(Object.entries(object).map(([key, value]) => [key, random.chance(0.5) ? value : hostileJson(random)])),
    );
  }
  return random.pick(options)();
}
