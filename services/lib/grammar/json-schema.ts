// JSON Schema (draft 2020-12 and what came before with the same words) as a grammar whose every text is a value that the schema accepts. Where
// the grammar has fewer values than the schema, that is by choice: properties come in the schema's order and undeclared ones not at all, white
// space is fixed, numbers are short, items that must differ come in the order of their list. A keyword that would need more is refused by name, or
// let go and told of, as the caller says. Pure.
import { either, type Expression, empty, type Grammar, optional, productiveRules, repeat, rule, sequence, text } from "./expression.ts";
import { formats } from "./format-grammar.ts";
import { integers, multiples, numbers, widest } from "./number-grammar.ts";
import { anyCharacter, patternGrammar, UnsupportedPattern } from "./pattern-grammar.ts";
import {
  canonical,
  checkForms,
  constraining,
  count,
  decoded,
  holdsEndlessNumber,
  isOfType,
  isSchema,
  type JsonType,
  type Keywords,
  type NotKept,
  refuse,
  refusedKeywords,
  type Schema,
  typesOf,
  unkeptKeywords,
  UnsupportedSchema,
} from "./schema-keywords.ts";
import { areDisjoint, merge } from "./schema-merge.ts";

const maxRules = 4_000;
/** Schemas looked at, references followed each time: a few that refer to one another twice would be millions. */
const maxVisits = 20_000;
const maxDepth = 60;
const maxDisjoint = 256;
/** Longer strings and arrays than this are not generated, whatever the schema allows. */
const maxLength = 4_000;
const maxItems = 1_000;
/** Rules for items that must differ, or values that are written out. */
const maxListed = 1_000;

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
  return new SchemaCompiler({}, refuse).compile({ type: "object" });
}

/** Throws UnsupportedSchema; of a keyword that is only too much to keep, what `notKept` does. */
export function schemaGrammar(schema: unknown, notKept: NotKept = refuse): Grammar {
  if (!isSchema(schema)) throw new UnsupportedSchema("", "a schema is an object or a boolean");
  const { $id: _, ...document } = typeof schema === "object" ? schema : {};
  const whole = typeof schema === "object" ? document : schema;
  return new SchemaCompiler(whole, notKept).compile(whole);
}

class SchemaCompiler {
  private readonly document: Schema;
  private readonly notKept: NotKept;
  private readonly rules = new Map<string, Expression>();
  /** Rules of schemas that $ref names, by pointer; null: no value. */
  private readonly named = new Map<string, string>();
  private count = 0;
  private visits = 0;

  constructor(document: Schema, notKept: NotKept) {
    this.document = document;
    this.notKept = notKept;
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
  private value(given: unknown, path: string, depth: number, open: readonly string[]): Built {
    if (!isSchema(given)) throw new UnsupportedSchema(path, "a schema is an object or a boolean");
    if (++this.visits > maxVisits) throw new UnsupportedSchema(path, "the schema is too large, references followed");
    if (depth > maxDepth) throw new UnsupportedSchema(path, "nested too deep");
    if (given === false) return impossible;
    if (given === true) return this.any();
    let schema: Keywords = given;
    checkForms(schema, path);
    for (const keyword of refusedKeywords)
      if (schema[keyword] !== undefined) throw new UnsupportedSchema(path, `the keyword "${keyword}" is not supported`);
    for (const keyword of unkeptKeywords) {
      if (schema[keyword] === undefined) continue;
      this.notKept(path, keyword, `the keyword "${keyword}" is not supported`);
      schema = { ...schema, [keyword]: undefined };
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
    const { multipleOf } = schema;
    if (multipleOf !== undefined && !(type === "integer" && multipleOf === 1)) {
      if (typeof multipleOf !== "number" || multipleOf <= 0) throw new UnsupportedSchema(path, '"multipleOf" is no number above 0');
      const listed = multiples(multipleOf, bounds, type === "integer", maxListed);
      if (listed !== null) return listed.length === 0 ? impossible : either(...listed.map(text));
      this.notKept(path, "multipleOf", `the keyword "multipleOf" is supported between bounds with at most ${maxListed} multiples only`);
    }
    if (type === "integer") {
      const least = bounds.above ? Math.floor(bounds.least) + 1 : Math.ceil(bounds.least);
      const most = bounds.below ? Math.ceil(bounds.most) - 1 : Math.floor(bounds.most);
      return integers(Math.max(least, -widest), Math.min(most, widest));
    }
    const whole = (keyword: string, bound: number, wider: (bound: number) => number) => {
      if (Number.isInteger(bound)) return bound;
      this.notKept(path, keyword, `"${keyword}" of a number: only whole numbers are supported`);
      return wider(bound);
    };
    bounds.least = whole("minimum", bounds.least, Math.floor);
    bounds.most = whole("maximum", bounds.most, Math.ceil);
    if (bounds.least < -widest || bounds.most > widest)
      return numbers({ ...bounds, least: Math.max(bounds.least, -widest), most: Math.min(bounds.most, widest) });
    return bounds.least > bounds.most ? impossible : numbers(bounds);
  }

  private string(schema: Keywords, path: string): Built {
    const least = count(schema, "minLength", path) ?? 0;
    const most = count(schema, "maxLength", path);
    const content = this.content(schema, path);
    const inQuotes = (inside: Expression) => sequence(text('"'), inside, text('"'));
    if (content !== null) {
      const beside = schema.pattern === undefined ? "format" : "pattern";
      for (const keyword of ["minLength", "maxLength"] as const) {
        if (keyword === "minLength" ? least > 0 : most !== undefined)
          this.notKept(path, keyword, `"${keyword}" beside "${beside}" is not supported`);
      }
      return inQuotes(content);
    }
    if (least > maxLength) throw new UnsupportedSchema(path, `"minLength": at most ${maxLength} is supported`);
    if (most !== undefined && most < least) return impossible;
    return inQuotes(repeat(anyCharacter, least, most === undefined ? null : Math.min(most, maxLength)));
  }

  /** What `pattern` and `format` let stand in a string; null: they say nothing of it, or nothing that is kept. */
  private content(schema: Keywords, path: string): Expression | null {
    const { pattern } = schema;
    const format = isAnnotation(schema.format) ? undefined : schema.format;
    const found = pattern === undefined ? null : this.ofPattern(pattern, "pattern", path);
    if (format === undefined) return found;
    if (pattern !== undefined) {
      this.notKept(path, "format", '"pattern" beside "format" is not supported');
      return found;
    }
    const known = typeof format === "string" ? formats.get(format) : undefined;
    if (known === undefined) this.notKept(path, "format", `"format": ${JSON.stringify(format)} is not supported`);
    return known ?? null;
  }

  private ofPattern(pattern: unknown, keyword: string, path: string): Expression | null {
    if (typeof pattern !== "string") throw new UnsupportedSchema(path, `"${keyword}" is no string`);
    try {
      return patternGrammar(pattern);
    } catch (error) {
      if (!(error instanceof UnsupportedPattern)) throw error;
      this.notKept(path, keyword, `"${keyword}": ${error.message}`);
      return null;
    }
  }

  /** The values of const and enum that the other keywords allow, as far as types go; what else there is must not be left unseen. */
  private listed(schema: Keywords, path: string): Built {
    const texts = this.listedTexts(schema, path);
    return texts.length === 0 ? impossible : either(...texts.map(text));
  }

  private listedTexts(schema: Keywords, path: string): string[] {
    const keyword = schema.const === undefined ? "enum" : "const";
    const values = schema.const !== undefined ? [schema.const] : schema.enum;
    if (!Array.isArray(values)) throw new UnsupportedSchema(path, '"enum" is no array');
    for (const other of constraining(schema).filter((one) => !["const", "enum", "type"].includes(one)))
      this.notKept(path, other, `"${other}" beside "${keyword}" is not supported`);
    if (values.some(holdsEndlessNumber)) throw new UnsupportedSchema(path, `"${keyword}" has a number that is too large`);
    const types = schema.type === undefined ? null : typesOf(schema, path);
    const both = schema.const !== undefined && Array.isArray(schema.enum) ? new Set(schema.enum.map(canonical)) : null;
    const kept = values.filter(
      (value) => (types === null || types.some((type) => isOfType(value, type))) && (both?.has(canonical(value)) ?? true),
    );
    return [...new Map(kept.map((value) => [canonical(value), JSON.stringify(value)])).values()];
  }

  // Arrays and objects

  private array(schema: Keywords, path: string, depth: number): Built {
    const least = count(schema, "minItems", path) ?? 0;
    const declared = count(schema, "maxItems", path);
    if (Array.isArray(schema.items)) throw new UnsupportedSchema(path, 'an array as "items" is not supported: use "prefixItems"');
    if (least > maxItems) throw new UnsupportedSchema(path, `"minItems": at most ${maxItems} is supported`);
    const prefix = schema.prefixItems ?? [];
    if (!Array.isArray(prefix)) throw new UnsupportedSchema(path, '"prefixItems" is no array');
    const most = declared ?? (prefix.length > 0 && schema.items === undefined ? Math.max(prefix.length, least) : null);
    if (most !== null && most < least) return impossible;
    if (schema.uniqueItems === true && (most === null || most > 1)) {
      const texts = prefix.length === 0 ? this.fewTexts(schema.items, `${path}.items`) : null;
      if (texts !== null && texts.length * Math.max(1, least, most !== null && most < texts.length ? most : 0) <= maxListed)
        return this.differentItems(texts, least, most);
      this.notKept(path, "uniqueItems", 'the keyword "uniqueItems" is supported beside "items" with a short "enum" only');
    }
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

  /** All values of a schema that lists them; null: it does not. */
  private fewTexts(given: unknown, path: string): string[] | null {
    const schema = this.followed(given, path);
    if (!isSchema(schema) || typeof schema === "boolean") return null;
    const asked = constraining(schema).filter((keyword) => keyword !== "type");
    if (asked.length === 0 && schema.type === "boolean") return ["true", "false"];
    const isListed = asked.length > 0 && asked.every((keyword) => keyword === "enum" || keyword === "const");
    return isListed ? this.listedTexts(schema, path) : null;
  }

  /** Each at most once, in their order: no two are equal then. */
  private differentItems(texts: readonly string[], least: number, most: number | null): Built {
    const limit = most !== null && most < texts.length ? most : null;
    // Where no more than these count, higher numbers of items are one state.
    const highest = limit ?? Math.max(1, least);
    const known = new Map<number, Built>();
    const from = (i: number, before: number): Built => {
      if (texts.length - i < least - before) return impossible;
      if (i === texts.length || before === limit) return empty;
      const key = i * (highest + 1) + before;
      const found = known.get(key);
      if (found !== undefined) return found;
      const taken = from(i + 1, Math.min(before + 1, highest));
      const passed = from(i + 1, before);
      const item = text(`${before > 0 ? ", " : ""}${texts[i]}`);
      const choices = [taken === impossible ? impossible : sequence(item, taken), passed].filter((choice) => choice !== impossible);
      const built = choices.length === 0 ? impossible : this.define(either(...choices));
      known.set(key, built);
      return built;
    };
    const all = from(0, 0);
    return all === impossible ? impossible : sequence(text("["), all, text("]"));
  }

  private object(schema: Keywords, path: string, depth: number): Built {
    const declared = schema.properties ?? {};
    if (typeof declared !== "object" || declared === null || Array.isArray(declared))
      throw new UnsupportedSchema(path, '"properties" is no object');
    const required = schema.required ?? [];
    if (!Array.isArray(required) || required.some((name) => typeof name !== "string"))
      throw new UnsupportedSchema(path, '"required" is no array of names');
    const others = schema.additionalProperties ?? true;
    const patterns = patternsOf(schema, path);
    const properties = new Map<string, unknown>(Object.entries(declared as Keywords));
    const names = this.possibleNames(schema.propertyNames, path);
    for (const name of [...(required as string[]), ...(properties.size === 0 ? (names ?? []) : [])])
      if (!properties.has(name)) properties.set(name, patterns.some(({ fits }) => fits(name)) ? true : others);
    for (const [name, property] of properties) {
      const both = (all: Schema, { schema: one }: PatternProperty) => merge(all, one, `${path}.patternProperties`, this.notKept);
      const isPossible = names === null || names.includes(name);
      properties.set(name, isPossible && patterns.filter(({ fits }) => fits(name)).reduce(both, property as Schema));
    }
    const least = count(schema, "minProperties", path) ?? 0;
    const most = count(schema, "maxProperties", path) ?? null;
    if (properties.size === 0 && patterns.length > 0) return this.patternMap(patterns, least, most, path, depth);
    if (properties.size === 0)
      return this.map(this.any("text"), this.inside(others, `${path}.additionalProperties`, depth), least, most, path);
    const isRequired = (name: string) => (required as string[]).includes(name);
    if (least > new Set(required as string[]).size)
      this.notKept(path, "minProperties", '"minProperties" above the number of required ones is not supported');
    if (most !== null && most < properties.size)
      this.notKept(path, "maxProperties", '"maxProperties" below the number of properties is not supported');

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

  /** The only names that there may be; null: any. */
  private possibleNames(propertyNames: unknown, path: string): string[] | null {
    if (propertyNames === undefined || saysNothing(propertyNames)) return null;
    if (propertyNames === false) return [];
    const listed = this.fewTexts(propertyNames, `${path}.propertyNames`)?.map((one) => JSON.parse(one) as unknown);
    if (listed === undefined) this.notKept(path, "propertyNames", 'the keyword "propertyNames" is supported with an "enum" only');
    return listed?.filter((name) => typeof name === "string") ?? null;
  }

  /** An object whose names are found by patterns; others, which might have been as well, do not come. */
  private patternMap(patterns: readonly PatternProperty[], least: number, most: number | null, path: string, depth: number): Built {
    const member = `${path}.patternProperties`;
    const isPlain = patterns.every((one, i) => patterns.slice(0, i).every((other) => areApart(one, other)));
    if (!isPlain) this.notKept(path, "patternProperties", '"patternProperties" of which several may match one name are not supported');
    const members = patterns.flatMap(({ pattern, schema }) => {
      const name = this.ofPattern(pattern, "patternProperties", path);
      const value = this.inside(schema, member, depth);
      if (value === impossible) return [];
      return [{ name: name === null ? this.any("text") : this.define(sequence(text('"'), name, text('"'))), value }];
    });
    if (members.length === 1) return this.map(members[0]?.name as Expression, members[0]?.value as Expression, least, most, path);
    const all = members.map(({ name, value }) => this.define(sequence(name, text(": "), value)));
    return this.mapOf(all.length === 0 ? impossible : either(...all), least, most, path);
  }

  /** An object whose names are free. */
  private map(name: Expression, value: Built, least: number, most: number | null, path: string): Built {
    return this.mapOf(value === impossible ? impossible : sequence(name, text(": "), value), least, most, path);
  }

  private mapOf(member: Built, least: number, most: number | null, path: string): Built {
    if (member === impossible || most === 0) return least > 0 ? impossible : text("{}");
    // Equal names would be one property.
    if (least > 1) this.notKept(path, "minProperties", '"minProperties" above 1 without "properties" is not supported');
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
    if (constraining(rest).length > 0) return this.value(merge(rest, target, path, this.notKept), path, depth + 1, [...open, pointer]);
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
      const one = this.followed(part, path, open);
      if (!isSchema(one)) throw new UnsupportedSchema(path, '"allOf": a schema is an object or a boolean');
      checkForms(one, path);
      all = merge(all, one, path, this.notKept);
    }
    return all;
  }

  /** Through references that have nothing beside them. */
  private followed(schema: unknown, path: string, open: readonly string[] = []): unknown {
    let one = schema;
    for (let hops = 0; isSchema(one) && typeof one === "object" && typeof one.$ref === "string" && constraining(one).length === 1; hops++) {
      if (hops > maxDepth || open.includes(one.$ref)) throw new UnsupportedSchema(path, `"$ref": ${one.$ref} refers to itself`);
      one = this.find(one.$ref, path);
    }
    return one;
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
      .map((branch, i) => this.value(base ? merge(rest, branch, path, this.notKept) : branch, `${path}.${keyword}[${i}]`, depth + 1, open))
      .filter((choice) => choice !== impossible);
    return choices.length === 0 ? impossible : either(...choices);
  }

  /** oneOf means exactly one: nothing that one branch gives may fit another. */
  private checkDisjoint(branches: readonly Schema[], path: string): void {
    const not = (message: string) => this.notKept(path, "oneOf", `"oneOf": ${message}`);
    // Each is compared with each.
    if (branches.length > maxDisjoint) {
      not(`more than ${maxDisjoint} branches are not supported; "anyOf" takes more`);
      return;
    }
    const plain = branches.map((branch) =>
      typeof branch === "object" && typeof branch.$ref === "string" ? this.find(branch.$ref, path) : branch,
    );
    if (plain.some((one, i) => plain.slice(0, i).some((other) => !areDisjoint(one, other))))
      not('its branches must differ in type, or in the constant of a property that both require; or use "anyOf"');
  }
}

interface PatternProperty {
  pattern: string;
  schema: Schema;
  fits(name: string): boolean;
}

function patternsOf({ patternProperties: given }: Keywords, path: string): PatternProperty[] {
  if (given === undefined) return [];
  if (!isSchema(given) || typeof given === "boolean") throw new UnsupportedSchema(path, '"patternProperties" is no object');
  return Object.entries(given).map(([pattern, schema]) => {
    if (!isSchema(schema)) throw new UnsupportedSchema(`${path}.patternProperties`, "a schema is an object or a boolean");
    checkForms(schema, `${path}.patternProperties`);
    try {
      const expression = new RegExp(pattern, "u");
      return { pattern, schema, fits: (name) => expression.test(name) };
    } catch {
      throw new UnsupportedSchema(path, `"patternProperties": ${pattern.slice(0, 100)} is no regular expression`);
    }
  });
}

/** No name fits both, or it makes no difference. */
function areApart(one: PatternProperty, other: PatternProperty): boolean {
  if (canonical(one.schema) === canonical(other.schema)) return true;
  const [a, b] = [literalBeginning(one.pattern), literalBeginning(other.pattern)];
  return !a.startsWith(b) && !b.startsWith(a);
}

/** What every name that the pattern fits begins with. */
function literalBeginning(pattern: string): string {
  const [, literal = ""] = pattern.includes("|") ? [] : (/^\^([\w-]*)(?![\w-])/.exec(pattern) ?? []);
  return /^[*+?{]/.test(pattern.slice(1 + literal.length)) ? literal.slice(0, -1) : literal;
}
