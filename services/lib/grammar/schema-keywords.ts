// The keywords of JSON Schema that a grammar is made of: of which types they speak, what form they have, which ask for something. Pure.

/** A schema that cannot be a grammar: where (`.properties.age`), and why, the keyword named. */
export class UnsupportedSchema extends Error {
  readonly path: string;

  constructor(path: string, message: string) {
    super(message);
    this.path = path;
  }
}

/** What to do with a keyword that cannot be kept: throw UnsupportedSchema, or let it go and say so. */
export type NotKept = (path: string, keyword: string, message: string) => void;

export const refuse: NotKept = (path, _keyword, message) => {
  throw new UnsupportedSchema(path, message);
};

export type Schema = boolean | Record<string, unknown>;
export type Keywords = Record<string, unknown>;
export type JsonType = "object" | "array" | "string" | "number" | "integer" | "boolean" | "null";

export const allTypes: readonly JsonType[] = ["object", "array", "string", "number", "boolean", "null"];
/** What they would ask for, a grammar of ours does not promise. */
export const unkeptKeywords = [
  "not",
  "if",
  "then",
  "else",
  "dependentSchemas",
  "dependentRequired",
  "dependencies",
  "unevaluatedProperties",
  "unevaluatedItems",
  "contains",
  "minContains",
  "maxContains",
];
/** Without them nobody knows what is meant. `$id` below the root (whose own is dropped): references inside it would begin there. */
export const refusedKeywords = ["$dynamicRef", "$recursiveRef", "$id"];
export function isSchema(value: unknown): value is Schema {
  return typeof value === "boolean" || (typeof value === "object" && value !== null && !Array.isArray(value));
}

/** What is done with keywords takes their form for granted: merging, comparing, counting. */
export function checkForms(schema: Schema, path: string): void {
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
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

/** What JSON.parse makes of 1e400, and JSON.stringify would write as null. */
export function holdsEndlessNumber(value: unknown): boolean {
  if (typeof value === "number") return !Number.isFinite(value);
  return typeof value === "object" && value !== null && Object.values(value).some(holdsEndlessNumber);
}

export function decoded(step: string, path: string): string {
  try {
    return decodeURIComponent(step);
  } catch {
    throw new UnsupportedSchema(path, `"$ref": ${step.slice(0, 100)} is no part of a JSON pointer`);
  }
}

export function typesOf(schema: Keywords, path: string): readonly JsonType[] {
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
  ["object", ["properties", "required", "additionalProperties", "minProperties", "maxProperties", "patternProperties", "propertyNames"]],
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
export const constrainingKeywords = new Set([
  ...combining,
  ...unkeptKeywords,
  ...refusedKeywords,
  ...keywordsOfTypes.flatMap(([, keywords]) => keywords),
]);

/** Keywords that ask for something; titles, defaults and unknown words do not. */
export function constraining(schema: Keywords): string[] {
  return Object.keys(schema).filter((keyword) => constrainingKeywords.has(keyword) && schema[keyword] !== undefined);
}

export function isOfType(value: unknown, type: JsonType): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  return type === "integer" ? Number.isInteger(value) : typeof value === type;
}

export function count(schema: Keywords, keyword: string, path: string): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0)
    throw new UnsupportedSchema(path, `"${keyword}" is no whole number of 0 or more`);
  return value;
}
