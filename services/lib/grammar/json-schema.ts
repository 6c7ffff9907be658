// JSON Schema (draft 2020-12 and what came before with the same words) as a grammar whose every text is a value that the schema accepts. Where
// the grammar has fewer values than the schema, that is by choice: properties come in the schema's order and undeclared ones not at all, white
// space is fixed, numbers are short. A keyword that would need more is refused by name. Pure.
import { either, type Expression, empty, type Grammar, optional, productiveRules, repeat, rule, sequence, text } from "./expression.ts";
import { formats } from "./format-grammar.ts";
import { integers, numbers, widest } from "./number-grammar.ts";
import { anyCharacter, patternGrammar, UnsupportedPattern } from "./pattern-grammar.ts";

/** A schema that cannot be a grammar: where (`.properties.age`), and why, the keyword named. */
export class UnsupportedSchema extends Error {
  readonly path: string;

  constructor(path: string, message: string) {
    super(message);
    this.path = path;
  }
}

type Schema = boolean | Record<string, unknown>;
type Keywords = Record<string, unknown>;
type JsonType = "object" | "array" | "string" | "number" | "integer" | "boolean" | "null";

const maxRules = 4_000;
/** Schemas looked at, references followed each time: a few that refer to one another twice would be millions. */
const maxVisits = 20_000;
const maxDepth = 60;
const maxDisjoint = 256;
/** Longer strings and arrays than this are not generated, whatever the schema allows. */
const maxLength = 4_000;
const maxItems = 1_000;

const allTypes: readonly JsonType[] = ["object", "array", "string", "number", "boolean", "null"];
/** What they would ask for, a grammar of ours does not promise. */
const refusedKeywords = [
  "not",
  "if",
  "then",
  "else",
  "dependentSchemas",
  "dependentRequired",
  "dependencies",
  "patternProperties",
  "propertyNames",
  "unevaluatedProperties",
  "unevaluatedItems",
  "contains",
  "minContains",
  "maxContains",
  "$dynamicRef",
  "$recursiveRef",
  // Below the root (whose own is dropped): references inside it would begin there.
  "$id",
];
/** Formats that validators check and we do not generate. Any other word is a remark (JSON Schema 2020-12, "format-annotation"). */
const refusedFormats: ReadonlySet<string> = new Set([
  ...[
    "idn-email",
    "idn-hostname",
    "uri-reference",
    "iri",
    "iri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
  ],
  // ajv's own
  ...["url", "byte", "iso-time", "iso-date-time", "json-pointer-uri-fragment"],
]);

function isAnnotation(format: unknown): boolean {
  return typeof format === "string" && !formats.has(format) && !refusedFormats.has(format);
}

/** Names of properties are strings: what zod writes of a record. */
function saysNothing(propertyNames: unknown): boolean {
  return propertyNames === true || ["{}", '{"type":"string"}'].includes(JSON.stringify(propertyNames));
}

const impossible = null;
type Built = Expression | typeof impossible;

/** A JSON object, whatever it holds. */
export function jsonObjectGrammar(): Grammar {
  return new SchemaCompiler({}).compile({ type: "object" });
}

/** Throws UnsupportedSchema. */
export function schemaGrammar(schema: unknown): Grammar {
  if (!isSchema(schema)) throw new UnsupportedSchema("", "a schema is an object or a boolean");
  const { $id: _, ...document } = typeof schema === "object" ? schema : {};
  const whole = typeof schema === "object" ? document : schema;
  return new SchemaCompiler(whole).compile(whole);
}

function isSchema(value: unknown): value is Schema {
  return typeof value === "boolean" || (typeof value === "object" && value !== null && !Array.isArray(value));
}

class SchemaCompiler {
  private readonly document: Schema;
  private readonly rules = new Map<string, Expression>();
  /** Rules of schemas that $ref names, by pointer; null: no value. */
  private readonly named = new Map<string, string>();
  private count = 0;
  private visits = 0;

  constructor(document: Schema) {
    this.document = document;
  }

  compile(schema: Schema): Grammar {
    this.rules.set("root", empty);
    const root = this.value(schema, "", 0, []);
    if (root === impossible) throw new UnsupportedSchema("", "no value fits this schema");
    this.rules.set("root", root);
    if (!productiveRules(this.rules).has("root")) throw new UnsupportedSchema("", "every value of this schema would be endless");
    return this.rules;
  }

  /** `open`: the references that were followed since the last brace, bracket or comma. */
  private value(schema: unknown, path: string, depth: number, open: readonly string[]): Built {
    if (!isSchema(schema)) throw new UnsupportedSchema(path, "a schema is an object or a boolean");
    if (++this.visits > maxVisits) throw new UnsupportedSchema(path, "the schema is too large, references followed");
    if (depth > maxDepth) throw new UnsupportedSchema(path, "nested too deep");
    if (schema === false) return impossible;
    if (schema === true) return this.any();
    checkForms(schema, path);
    for (const keyword of refusedKeywords) {
      if (schema[keyword] !== undefined && !(keyword === "propertyNames" && saysNothing(schema[keyword])))
        throw new UnsupportedSchema(path, `the keyword "${keyword}" is not supported`);
    }
    if (schema.$ref !== undefined) return this.reference(schema, path, depth, open);
    if (schema.allOf !== undefined) return this.value(this.merged(schema, path, open), path, depth + 1, open);
    for (const keyword of ["anyOf", "oneOf"] as const)
      if (schema[keyword] !== undefined) return this.union(schema, keyword, path, depth, open);
    if (schema.const !== undefined || schema.enum !== undefined) return this.listed(schema, path);
    const types = typesOf(schema, path);
    const choices = types.map((type) => this.ofType(type, schema, path, depth)).filter((choice) => choice !== impossible);
    return choices.length === 0 ? impossible : either(...choices);
  }

  private ofType(type: JsonType, schema: Keywords, path: string, depth: number): Built {
    switch (type) {
      case "null":
        return text("null");
      case "boolean":
        return either(text("true"), text("false"));
      case "integer":
      case "number":
        return this.number(type, schema, path);
      case "string":
        return this.string(schema, path);
      case "array":
        return this.array(schema, path, depth);
      case "object":
        return this.object(schema, path, depth);
    }
  }

  // Scalars

  private number(type: "integer" | "number", schema: Keywords, path: string): Built {
    const { multipleOf } = schema;
    if (multipleOf !== undefined && !(type === "integer" && multipleOf === 1))
      throw new UnsupportedSchema(path, 'the keyword "multipleOf" is not supported');
    const limit = (keyword: string, otherwise: number): number => {
      const value = schema[keyword];
      if (value === undefined) return otherwise;
      if (typeof value !== "number") throw new UnsupportedSchema(path, `"${keyword}" is no number`);
      return value;
    };
    const bounds = {
      least: Math.max(limit("minimum", -widest), limit("exclusiveMinimum", -Infinity)),
      above: limit("exclusiveMinimum", -Infinity) >= limit("minimum", -widest),
      most: Math.min(limit("maximum", widest), limit("exclusiveMaximum", Infinity)),
      below: limit("exclusiveMaximum", Infinity) <= limit("maximum", widest),
    };
    if (type === "integer") {
      const least = bounds.above ? Math.floor(bounds.least) + 1 : Math.ceil(bounds.least);
      const most = bounds.below ? Math.ceil(bounds.most) - 1 : Math.floor(bounds.most);
      return integers(Math.max(least, -widest), Math.min(most, widest));
    }
    for (const [keyword, bound] of [
      ["minimum", bounds.least],
      ["maximum", bounds.most],
    ] as const) {
      if (!Number.isInteger(bound)) throw new UnsupportedSchema(path, `"${keyword}" of a number: only whole numbers are supported`);
    }
    if (bounds.least < -widest || bounds.most > widest)
      return numbers({ ...bounds, least: Math.max(bounds.least, -widest), most: Math.min(bounds.most, widest) });
    return bounds.least > bounds.most ? impossible : numbers(bounds);
  }

  private string(schema: Keywords, path: string): Built {
    const least = count(schema, "minLength", path) ?? 0;
    const most = count(schema, "maxLength", path);
    const { pattern } = schema;
    const format = isAnnotation(schema.format) ? undefined : schema.format;
    const inQuotes = (content: Expression) => sequence(text('"'), content, text('"'));
    if (pattern === undefined && format === undefined) {
      if (least > maxLength) throw new UnsupportedSchema(path, `"minLength": at most ${maxLength} is supported`);
      if (most !== undefined && most < least) return impossible;
      return inQuotes(repeat(anyCharacter, least, most === undefined ? null : Math.min(most, maxLength)));
    }
    if (least > 0 || most !== undefined)
      throw new UnsupportedSchema(
        path,
        `"minLength" and "maxLength" beside "${pattern === undefined ? "format" : "pattern"}" are not supported`,
      );
    if (pattern !== undefined && format !== undefined) throw new UnsupportedSchema(path, '"pattern" beside "format" is not supported');
    if (format !== undefined) {
      const known = typeof format === "string" ? formats.get(format) : undefined;
      if (known === undefined) throw new UnsupportedSchema(path, `"format": ${JSON.stringify(format)} is not supported`);
      return inQuotes(known);
    }
    if (typeof pattern !== "string") throw new UnsupportedSchema(path, '"pattern" is no string');
    try {
      return inQuotes(patternGrammar(pattern));
    } catch (error) {
      if (!(error instanceof UnsupportedPattern)) throw error;
      throw new UnsupportedSchema(path, `"pattern": ${error.message} is not supported`);
    }
  }

  /** The values of const and enum that the other keywords allow, as far as types go; what else there is must not be left unseen. */
  private listed(schema: Keywords, path: string): Built {
    const values = schema.const !== undefined ? [schema.const] : schema.enum;
    if (!Array.isArray(values)) throw new UnsupportedSchema(path, '"enum" is no array');
    const others = constraining(schema).filter((keyword) => !["const", "enum", "type"].includes(keyword));
    if (others.length > 0)
      throw new UnsupportedSchema(path, `"${others[0]}" beside "${schema.const === undefined ? "enum" : "const"}" is not supported`);
    if (values.some(holdsEndlessNumber))
      throw new UnsupportedSchema(path, `"${schema.const === undefined ? "enum" : "const"}" has a number that is too large`);
    const types = schema.type === undefined ? null : typesOf(schema, path);
    const both = schema.const !== undefined && Array.isArray(schema.enum) ? new Set(schema.enum.map(canonical)) : null;
    const kept = values.filter(
      (value) => (types === null || types.some((type) => isOfType(value, type))) && (both?.has(canonical(value)) ?? true),
    );
    const texts = [...new Set(kept.map((value) => JSON.stringify(value)))];
    return texts.length === 0 ? impossible : either(...texts.map(text));
  }

  // Arrays and objects

  private array(schema: Keywords, path: string, depth: number): Built {
    const least = count(schema, "minItems", path) ?? 0;
    const declared = count(schema, "maxItems", path);
    if (schema.uniqueItems === true && (declared === undefined || declared > 1))
      throw new UnsupportedSchema(path, 'the keyword "uniqueItems" is not supported');
    if (Array.isArray(schema.items)) throw new UnsupportedSchema(path, 'an array as "items" is not supported: use "prefixItems"');
    if (least > maxItems) throw new UnsupportedSchema(path, `"minItems": at most ${maxItems} is supported`);
    const prefix = schema.prefixItems ?? [];
    if (!Array.isArray(prefix)) throw new UnsupportedSchema(path, '"prefixItems" is no array');
    const most = declared ?? (prefix.length > 0 && schema.items === undefined ? Math.max(prefix.length, least) : null);
    if (most !== null && most < least) return impossible;
    // From the last of the first items: each is there only with those before it.
    const item = this.inside(schema.items ?? true, `${path}.items`, depth);
    const extraLeast = Math.max(0, least - prefix.length);
    const extraMost = most === null ? null : Math.min(maxItems, most - prefix.length);
    if (item === impossible && extraLeast > 0) return impossible;
    const comma = text(", ");
    let rest: Expression =
      item === impossible || (extraMost !== null && extraMost <= 0) ? empty : repeat(sequence(comma, item), extraLeast, extraMost);
    if (prefix.length === 0) {
      if (rest === empty || item === impossible) return least > 0 ? impossible : text("[]");
      const some = sequence(item, repeat(sequence(comma, item), Math.max(0, extraLeast - 1), extraMost === null ? null : extraMost - 1));
      return sequence(text("["), extraLeast > 0 ? some : optional(some), text("]"));
    }
    for (let i = prefix.length - 1; i >= 0; i--) {
      const one = most !== null && i >= most ? impossible : this.inside(prefix[i], `${path}.prefixItems[${i}]`, depth);
      if (one === impossible && i < least) return impossible;
      const here = one === impossible ? empty : sequence(...(i === 0 ? [] : [comma]), one, rest);
      rest = i < least || here === empty ? here : optional(here);
    }
    return sequence(text("["), rest, text("]"));
  }

  private object(schema: Keywords, path: string, depth: number): Built {
    const declared = schema.properties ?? {};
    if (typeof declared !== "object" || declared === null || Array.isArray(declared))
      throw new UnsupportedSchema(path, '"properties" is no object');
    const required = schema.required ?? [];
    if (!Array.isArray(required) || required.some((name) => typeof name !== "string"))
      throw new UnsupportedSchema(path, '"required" is no array of names');
    const others = schema.additionalProperties ?? true;
    const properties = new Map<string, unknown>(Object.entries(declared as Keywords));
    for (const name of required as string[]) if (!properties.has(name)) properties.set(name, others);
    const least = count(schema, "minProperties", path) ?? 0;
    const most = count(schema, "maxProperties", path) ?? null;
    if (properties.size === 0) return this.map(others, least, most, path, depth);
    const isRequired = (name: string) => (required as string[]).includes(name);
    if (least > new Set(required as string[]).size)
      throw new UnsupportedSchema(path, '"minProperties" above the number of required ones is not supported');
    if (most !== null && most < properties.size)
      throw new UnsupportedSchema(path, '"maxProperties" below the number of properties is not supported');

    const members: { member: Expression; required: boolean }[] = [];
    for (const [name, property] of properties) {
      const value = this.inside(property, `${path}.properties.${name}`, depth);
      if (value === impossible && isRequired(name)) return impossible;
      if (value !== impossible) members.push({ member: sequence(text(`${JSON.stringify(name)}: `), value), required: isRequired(name) });
    }
    // From the last member on: what may follow when something stands before, and what when nothing does.
    let after: Expression = empty;
    let alone: Expression = empty;
    for (const { member, required } of members.reverse()) {
      const next = this.define(after);
      const nextAlone = this.define(alone);
      const withComma = sequence(text(", "), member, next);
      after = required ? withComma : either(withComma, next);
      alone = required ? sequence(member, next) : either(sequence(member, next), nextAlone);
    }
    return sequence(text("{"), alone, text("}"));
  }

  /** An object whose names are free. */
  private map(others: unknown, least: number, most: number | null, path: string, depth: number): Built {
    const value = this.inside(others, `${path}.additionalProperties`, depth);
    if (value === impossible || most === 0) return least > 0 ? impossible : text("{}");
    // Equal names would be one property.
    if (least > 1) throw new UnsupportedSchema(path, '"minProperties" above 1 without "properties" is not supported');
    const member = sequence(this.any("text"), text(": "), value);
    const some = sequence(member, repeat(sequence(text(", "), member), 0, most === null ? null : most - 1));
    return sequence(text("{"), least > 0 ? some : optional(some), text("}"));
  }

  /** A value within braces or brackets, as a rule of its own. */
  private inside(schema: unknown, path: string, depth: number): Built {
    if (schema === true) return this.any();
    const built = this.value(schema, path, depth + 1, []);
    return built === impossible || built.kind === "rule" ? built : this.define(built);
  }

  private define(expression: Expression): Expression {
    if (expression === empty || expression.kind === "rule") return expression;
    return rule(this.reserve(expression));
  }

  private reserve(expression: Expression): string {
    if (this.rules.size > maxRules) throw new UnsupportedSchema("", "the schema is too large");
    const name = `r${this.count++}`;
    this.rules.set(name, expression);
    return name;
  }

  /** Any JSON value, or any JSON string. */
  private any(what: "any" | "text" = "any"): Expression {
    if (!this.rules.has("any")) {
      this.rules.set("text", sequence(text('"'), repeat(anyCharacter, 0, null), text('"')));
      const number = numbers({ least: -widest, above: false, most: widest, below: false }) as Expression;
      const [value, string] = [rule("any"), rule("text")];
      const list = (open: string, member: Expression, close: string) =>
        sequence(text(open), optional(sequence(member, repeat(sequence(text(", "), member), 0, null))), text(close));
      this.rules.set("any", empty);
      this.rules.set(
        "any",
        either(
          text("null"),
          text("true"),
          text("false"),
          number,
          string,
          list("[", value, "]"),
          list("{", sequence(string, text(": "), value), "}"),
        ),
      );
    }
    return rule(what);
  }

  // References and combinations

  private reference(schema: Keywords, path: string, depth: number, open: readonly string[]): Built {
    const pointer = schema.$ref;
    if (typeof pointer !== "string" || !pointer.startsWith("#"))
      throw new UnsupportedSchema(path, '"$ref": only references inside the schema (#/...) are supported');
    if (open.includes(pointer)) throw new UnsupportedSchema(path, `"$ref": ${pointer} refers to itself`);
    const { $ref: _, ...rest } = schema;
    const target = this.find(pointer, path);
    if (constraining(rest).length > 0) return this.value(merge(rest, target, path), path, depth + 1, [...open, pointer]);
    const known = this.named.get(pointer);
    if (known !== undefined) return rule(known);
    const name = this.reserve(empty);
    this.named.set(pointer, name);
    const built = this.value(target, path, depth + 1, [...open, pointer]);
    // Perhaps others refer to it already: a rule that nothing matches.
    this.rules.set(name, built ?? { kind: "characters", ranges: [] });
    return rule(name);
  }

  private find(pointer: string, path: string): Schema {
    let at: unknown = this.document;
    for (const step of pointer === "#" ? [] : pointer.slice(2).split("/")) {
      if (typeof at === "object" && at !== null && typeof (at as Keywords).$id === "string")
        throw new UnsupportedSchema(path, `"$ref": ${pointer.slice(0, 100)} leads through a schema with an "$id", which is not supported`);
      const name = decoded(step, path).replaceAll("~1", "/").replaceAll("~0", "~");
      at = typeof at === "object" && at !== null && Object.hasOwn(at, name) ? (at as Keywords)[name] : undefined;
    }
    if (!isSchema(at) || (pointer !== "#" && !pointer.startsWith("#/")))
      throw new UnsupportedSchema(path, `"$ref": nothing is at ${pointer.slice(0, 100)}`);
    checkForms(at, path);
    return at;
  }

  private merged(schema: Keywords, path: string, open: readonly string[]): Schema {
    const { allOf, ...rest } = schema;
    if (!Array.isArray(allOf)) throw new UnsupportedSchema(path, '"allOf" is no array');
    let all: Schema = rest;
    for (const part of allOf) {
      let one: unknown = part;
      for (
        let hops = 0;
        isSchema(one) && typeof one === "object" && typeof one.$ref === "string" && constraining(one).length === 1;
        hops++
      ) {
        if (hops > maxDepth || open.includes(one.$ref)) throw new UnsupportedSchema(path, `"$ref": ${one.$ref} refers to itself`);
        one = this.find(one.$ref, path);
      }
      if (!isSchema(one)) throw new UnsupportedSchema(path, '"allOf": a schema is an object or a boolean');
      checkForms(one, path);
      all = merge(all, one, path);
    }
    return all;
  }

  private union(schema: Keywords, keyword: "anyOf" | "oneOf", path: string, depth: number, open: readonly string[]): Built {
    const { [keyword]: branches, ...rest } = schema;
    if (!Array.isArray(branches)) throw new UnsupportedSchema(path, `"${keyword}" is no array`);
    const resolved = branches.map((branch, i) => {
      if (!isSchema(branch)) throw new UnsupportedSchema(`${path}.${keyword}[${i}]`, "a schema is an object or a boolean");
      checkForms(branch, `${path}.${keyword}[${i}]`);
      return branch;
    });
    if (keyword === "oneOf") this.checkDisjoint(resolved, path);
    const base = constraining(rest).length > 0;
    const choices = resolved
      .map((branch, i) => this.value(base ? merge(rest, branch, path) : branch, `${path}.${keyword}[${i}]`, depth + 1, open))
      .filter((choice) => choice !== impossible);
    return choices.length === 0 ? impossible : either(...choices);
  }

  /** oneOf means exactly one: nothing that one branch gives may fit another. */
  private checkDisjoint(branches: readonly Schema[], path: string): void {
    // Each is compared with each.
    if (branches.length > maxDisjoint)
      throw new UnsupportedSchema(path, `"oneOf": more than ${maxDisjoint} branches are not supported; "anyOf" takes more`);
    const plain = branches.map((branch) =>
      typeof branch === "object" && typeof branch.$ref === "string" ? this.find(branch.$ref, path) : branch,
    );
    for (const [i, one] of plain.entries()) {
      for (const other of plain.slice(0, i)) {
        if (!areDisjoint(one, other))
          throw new UnsupportedSchema(
            path,
            '"oneOf": its branches must differ in type, or in the constant of a property that both require; or use "anyOf"',
          );
      }
    }
  }
}

/** What is done with keywords takes their form for granted: merging, comparing, counting. */
function checkForms(schema: Schema, path: string): void {
  if (typeof schema === "boolean") return;
  const { properties, required, type, items, additionalProperties } = schema;
  const refuse = (keyword: string, form: string) => {
    throw new UnsupportedSchema(path, `"${keyword}" is no ${form}`);
  };
  if (properties !== undefined) {
    if (!isSchema(properties) || typeof properties === "boolean") refuse("properties", "object");
    for (const [name, property] of Object.entries(properties as Keywords))
      if (!isSchema(property)) throw new UnsupportedSchema(`${path}.properties.${name}`, "a schema is an object or a boolean");
  }
  if (required !== undefined && !(Array.isArray(required) && required.every((name) => typeof name === "string")))
    refuse("required", "array of names");
  if (type !== undefined && ![type].flat().every((one) => typeof one === "string")) refuse("type", "name of a type, or array of them");
  if (items !== undefined && !isSchema(items) && !Array.isArray(items)) refuse("items", "schema");
  if (additionalProperties !== undefined && !isSchema(additionalProperties)) refuse("additionalProperties", "schema");
  for (const keyword of numericKeywords)
    if (schema[keyword] !== undefined && !Number.isFinite(schema[keyword])) refuse(keyword, "finite number");
}

/** Equal for equal JSON values: the order of properties says nothing. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

/** What JSON.parse makes of 1e400, and JSON.stringify would write as null. */
function holdsEndlessNumber(value: unknown): boolean {
  if (typeof value === "number") return !Number.isFinite(value);
  return typeof value === "object" && value !== null && Object.values(value).some(holdsEndlessNumber);
}

function decoded(step: string, path: string): string {
  try {
    return decodeURIComponent(step);
  } catch {
    throw new UnsupportedSchema(path, `"$ref": ${step.slice(0, 100)} is no part of a JSON pointer`);
  }
}

function typesOf(schema: Keywords, path: string): readonly JsonType[] {
  const { type } = schema;
  if (type === undefined) return impliedTypes(schema);
  const types = Array.isArray(type) ? type : [type];
  for (const one of types) {
    if (!allTypes.includes(one as JsonType) && one !== "integer")
      throw new UnsupportedSchema(path, `"type": ${JSON.stringify(one)} is none`);
  }
  return types.includes("number") ? types.filter((one) => one !== "integer") : types;
}

const keywordsOfTypes: [JsonType, string[]][] = [
  ["object", ["properties", "required", "additionalProperties", "minProperties", "maxProperties"]],
  ["array", ["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]],
  ["string", ["minLength", "maxLength", "pattern", "format"]],
  ["number", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]],
];

/** Without `type` a schema accepts every type; what it says something of is what is meant. */
function impliedTypes(schema: Keywords): readonly JsonType[] {
  const meant = keywordsOfTypes.filter(([, keywords]) => keywords.some((keyword) => schema[keyword] !== undefined)).map(([type]) => type);
  return meant.length > 0 ? meant : allTypes;
}

const numericKeywords = [
  "minimum",
  "maximum",
  "exclusiveMinimum",
  "exclusiveMaximum",
  "multipleOf",
  "minLength",
  "maxLength",
  "minItems",
  "maxItems",
  "minProperties",
  "maxProperties",
];
const combining = ["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"];
const constrainingKeywords = new Set([...combining, ...refusedKeywords, ...keywordsOfTypes.flatMap(([, keywords]) => keywords)]);

/** Keywords that ask for something; titles, defaults and unknown words do not. */
function constraining(schema: Keywords): string[] {
  return Object.keys(schema).filter((keyword) => constrainingKeywords.has(keyword) && schema[keyword] !== undefined);
}

function isOfType(value: unknown, type: JsonType): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  return type === "integer" ? Number.isInteger(value) : typeof value === type;
}

/** A schema that accepts what both do. Throws where that is not plain. */
function merge(left: Schema, right: Schema, path: string): Schema {
  if (left === false || right === false) return false;
  if (left === true) return right;
  if (right === true) return left;
  const out: Keywords = { ...left };
  for (const keyword of Object.keys(right)) {
    const [a, b] = [left[keyword], right[keyword]];
    if (a === undefined || !constrainingKeywords.has(keyword) || JSON.stringify(a) === JSON.stringify(b)) out[keyword] = b;
    else if (keyword === "type") out.type = commonTypes([a].flat() as JsonType[], [b].flat() as JsonType[]);
    else if (keyword === "required") out.required = [...new Set([...(a as string[]), ...(b as string[])])];
    else if (keyword === "properties") {
      const properties: Keywords = { ...(a as Keywords) };
      for (const [name, property] of Object.entries(b as Keywords)) {
        const known = properties[name];
        properties[name] = known === undefined ? property : merge(known as Schema, property as Schema, `${path}.properties.${name}`);
      }
      out.properties = properties;
    } else if (["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"].includes(keyword))
      out[keyword] = Math.max(a as number, b as number);
    else if (["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"].includes(keyword))
      out[keyword] = Math.min(a as number, b as number);
    else if (keyword === "items" || keyword === "prefixItems") continue;
    else throw new UnsupportedSchema(path, `two different "${keyword}" at once are not supported`);
  }
  if (left.prefixItems !== undefined || right.prefixItems !== undefined || (left.items !== undefined && right.items !== undefined))
    mergeItems(out, left, right, path);
  // A closed object knows its own properties only.
  for (const [closed, other] of [
    [left, right],
    [right, left],
  ] as const) {
    if (closed.additionalProperties === undefined || closed.additionalProperties === true) continue;
    const own = (closed.properties ?? {}) as Keywords;
    const names = [...Object.keys((other.properties ?? {}) as Keywords), ...((other.required as string[] | undefined) ?? [])];
    const stranger = names.find((name) => !Object.hasOwn(own, name));
    if (stranger === undefined) continue;
    if (closed.additionalProperties !== false)
      throw new UnsupportedSchema(path, '"additionalProperties" beside properties of another schema is not supported');
    const properties = { ...(out.properties as Keywords | undefined) };
    for (const name of names) if (!Object.hasOwn(own, name)) properties[name] = false;
    out.properties = properties;
  }
  return out;
}

/** One side's `items` also hold for what only the other side's `prefixItems` name. */
function mergeItems(out: Keywords, left: Keywords, right: Keywords, path: string): void {
  const [a, b] = [left, right].map(({ prefixItems = [], items = true }) => {
    if (!Array.isArray(prefixItems) || ![...prefixItems, items].every(isSchema))
      throw new UnsupportedSchema(path, '"prefixItems" are schemas, and "items" is one');
    return { prefix: prefixItems as Schema[], items: items as Schema };
  }) as [{ prefix: Schema[]; items: Schema }, { prefix: Schema[]; items: Schema }];
  const length = Math.max(a.prefix.length, b.prefix.length);
  if (length > 0)
    out.prefixItems = Array.from({ length }, (_, i) => merge(a.prefix[i] ?? a.items, b.prefix[i] ?? b.items, `${path}.prefixItems[${i}]`));
  if (left.items !== undefined || right.items !== undefined) out.items = merge(a.items, b.items, `${path}.items`);
}

function commonTypes(left: JsonType[], right: JsonType[]): JsonType[] {
  const has = (types: JsonType[], type: JsonType) => types.includes(type) || (type === "integer" && types.includes("number"));
  return [...new Set([...left.filter((type) => has(right, type)), ...right.filter((type) => has(left, type))])];
}

function areDisjoint(left: Schema, right: Schema): boolean {
  if (left === false || right === false) return true;
  if (left === true || right === true) return false;
  const values = (schema: Keywords) =>
    schema.const !== undefined ? [schema.const] : Array.isArray(schema.enum) ? (schema.enum as unknown[]) : null;
  const [ours, theirs] = [values(left), values(right)];
  if (ours !== null && theirs !== null) {
    const known = new Set(theirs.map(canonical));
    return !ours.some((value) => known.has(canonical(value)));
  }
  const typesIn = (schema: Keywords, listed: unknown[] | null): JsonType[] | null => {
    if (listed !== null) return listed.map((value) => [...allTypes].find((type) => isOfType(value, type)) as JsonType);
    return schema.type === undefined ? null : ([schema.type].flat() as JsonType[]);
  };
  const [a, b] = [typesIn(left, ours), typesIn(right, theirs)];
  if (a !== null && b !== null && commonTypes(a, b).length === 0) return true;
  const tags = (schema: Keywords) =>
    new Map(
      Object.entries((schema.properties ?? {}) as Keywords).filter(([name]) => (schema.required as string[] | undefined)?.includes(name)),
    );
  const others = tags(right);
  const isObject = (schema: Keywords) => schema.type === "object";
  if (!isObject(left) || !isObject(right)) return false;
  return [...tags(left)].some(([name, property]) => {
    const other = others.get(name);
    if (!isSchema(property) || !isSchema(other) || typeof property === "boolean" || typeof other === "boolean") return false;
    return (values(property) !== null || property.type !== undefined) && areDisjoint(property, other);
  });
}

function count(schema: Keywords, keyword: string, path: string): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0)
    throw new UnsupportedSchema(path, `"${keyword}" is no whole number of 0 or more`);
  return value;
}
