// Schemas taken together: one that accepts what two do, and whether no value fits both. Pure.
import {
  allTypes,
  canonical,
  constrainingKeywords,
  isOfType,
  isSchema,
  type JsonType,
  type Keywords,
  type NotKept,
  type Schema,
  UnsupportedSchema,
} from "./schema-keywords.ts";

/** A schema that accepts what both do; where that is not plain, what the left one asks for is kept. */
export function merge(left: Schema, right: Schema, path: string, notKept: NotKept): Schema {
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
        properties[name] =
          known === undefined ? property : merge(known as Schema, property as Schema, `${path}.properties.${name}`, notKept);
      }
      out.properties = properties;
    } else if (["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"].includes(keyword))
      out[keyword] = Math.max(a as number, b as number);
    else if (["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"].includes(keyword))
      out[keyword] = Math.min(a as number, b as number);
    else if (keyword === "items" || keyword === "prefixItems") continue;
    else notKept(path, keyword, `two different "${keyword}" at once are not supported`);
  }
  if (left.prefixItems !== undefined || right.prefixItems !== undefined || (left.items !== undefined && right.items !== undefined))
    mergeItems(out, left, right, path, notKept);
  // A closed object knows its own properties only.
  for (const [closed, other] of [
    [left, right],
    [right, left],
  ] as const) {
    if (closed.additionalProperties === undefined || closed.additionalProperties === true) continue;
    if (other.patternProperties !== undefined && closed.patternProperties === undefined)
      notKept(path, "additionalProperties", '"additionalProperties" beside "patternProperties" of another schema is not supported');
    const own = (closed.properties ?? {}) as Keywords;
    const names = [...Object.keys((other.properties ?? {}) as Keywords), ...((other.required as string[] | undefined) ?? [])];
    const stranger = names.find((name) => !Object.hasOwn(own, name));
    if (stranger === undefined) continue;
    if (closed.additionalProperties !== false) {
      notKept(path, "additionalProperties", '"additionalProperties" beside properties of another schema is not supported');
      continue;
    }
    const properties = { ...(out.properties as Keywords | undefined) };
    for (const name of names) if (!Object.hasOwn(own, name)) properties[name] = false;
    out.properties = properties;
  }
  return out;
}

/** One side's `items` also hold for what only the other side's `prefixItems` name. */
function mergeItems(out: Keywords, left: Keywords, right: Keywords, path: string, notKept: NotKept): void {
  const [a, b] = [left, right].map(({ prefixItems = [], items = true }) => {
    if (!Array.isArray(prefixItems) || ![...prefixItems, items].every(isSchema))
      throw new UnsupportedSchema(path, '"prefixItems" are schemas, and "items" is one');
    return { prefix: prefixItems as Schema[], items: items as Schema };
  }) as [{ prefix: Schema[]; items: Schema }, { prefix: Schema[]; items: Schema }];
  const length = Math.max(a.prefix.length, b.prefix.length);
  if (length > 0)
    out.prefixItems = Array.from({ length }, (_, i) =>
      merge(a.prefix[i] ?? a.items, b.prefix[i] ?? b.items, `${path}.prefixItems[${i}]`, notKept),
    );
  if (left.items !== undefined || right.items !== undefined) out.items = merge(a.items, b.items, `${path}.items`, notKept);
}

function commonTypes(left: JsonType[], right: JsonType[]): JsonType[] {
  const has = (types: JsonType[], type: JsonType) => types.includes(type) || (type === "integer" && types.includes("number"));
  return [...new Set([...left.filter((type) => has(right, type)), ...right.filter((type) => has(left, type))])];
}

export function areDisjoint(left: Schema, right: Schema): boolean {
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
