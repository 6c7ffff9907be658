// Bodies in which one field, and sometimes a second one, is another than in a body that is known to be accepted. Pure.
import type { Random } from "../../lib/simulator/random.ts";
import { allowed, type Names, notQuite, smallest } from "./draw.ts";
import { hostileJson, type Json } from "./hostile-json.ts";
import { alternatives, type Field, type Schema, type Step } from "./schema.ts";

export type Body = Record<string, Json>;

export interface Mutant {
  body: Body;
  /** Properties of the body that differ from the accepted one. */
  roots: string[];
  /** For a person. */
  what: string;
}

/** Stands for a value that is not there. */
const absent = Symbol("absent");

/** Answers are kept short, whatever an endpoint calls it, so that thousands can be asked for. */
const shortAnswer = 8;
const isLength = (name: string) => /^max_.*tokens$/.test(name);

/** Bodies that may be accepted, the likeliest first: the least that is required, then with one property more. */
export function candidateBodies(schema: Schema, names: Names): Body[] {
  const least = smallest(schema, "", names) as Body;
  const properties = alternatives(schema)[0]?.properties ?? {};
  for (const name of Object.keys(properties)) if (isLength(name)) least[name] = shortAnswer;
  const more = Object.entries(properties).filter(([name]) => !Object.hasOwn(least, name));
  return [least, ...more.map(([name, property]) => ({ ...least, [name]: atLeastOne(property, name, names) }))];
}

function atLeastOne(schema: Schema, name: string, names: Names): Json {
  const choice = alternatives(schema).find(({ type }) => type === "array");
  return choice?.items === undefined ? smallest(schema, name, names) : [smallest(choice.items, name, names)];
}

/** The `turn`-th value of a field: in turns one that is allowed, one that is not quite, and one that nobody thought of. */
export function mutantOf(
  random: Random,
  turn: number,
  field: Field,
  fields: readonly Field[],
  schema: Schema,
  base: Body,
  names: Names,
): Mutant {
  const lastStep = field.steps.at(-1);
  const name = nearestName(field.steps);
  let value: Json | typeof absent;
  if (turn === 1 && lastStep?.kind === "property") value = absent;
  else if (turn === 3) value = null;
  else if (turn % 4 === 1) value = notQuite(random, field.schema, name, names);
  else if (turn % 4 === 3) value = hostileJson(random);
  else value = allowed(random, field.schema, name, names);
  let body = placed(schema, base, field.steps, value, names) as Body;
  const roots = [field.root];
  const others = fields.filter(({ steps, root }) => steps.length === 1 && root !== field.root && !isLength(root) && root !== "model");
  const whats = [`${field.name} = ${value === absent ? "(absent)" : JSON.stringify(value)}`];
  if (random.chance(0.3) && others.length > 0) {
    const other = random.pick(others);
    const second = allowed(random, other.schema, other.root, names);
    body = { ...body, [other.root]: second };
    roots.push(other.root);
    whats.push(`${other.name} = ${JSON.stringify(second)}`);
  }
  if (fields.some(({ name: one }) => one === "stream") && !roots.includes("stream")) body = { ...body, stream: random.chance(0.5) };
  return { body, roots, what: whats.map((what) => what.slice(0, 300)).join(", ") };
}

function nearestName(steps: readonly Step[]): string {
  return steps.findLast((step) => step.kind === "property")?.name ?? "";
}

/** A copy of what stands in a body, with the value at the end of the steps. */
function placed(schema: Schema, current: Json | undefined, steps: readonly Step[], value: Json | typeof absent, names: Names): Json {
  const [step, ...rest] = steps;
  if (step === undefined) return value as Json;
  const choice = alternatives(schema)[step.alternative] as Schema;
  const inside = (one: Schema, was: Json | undefined) => placed(one, was, rest, value, names);
  if (step.kind === "item") {
    const list = Array.isArray(current) && current.length > 0 ? [...current] : [smallest(choice.items ?? {}, "", names)];
    list[list.length - 1] = inside(choice.items ?? {}, list.at(-1));
    return list;
  }
  const object = { ...(fits(choice, current) ? (current as Body) : (smallest(choice, "", names) as Body)) };
  if (step.kind === "entry") {
    const key = Object.keys(object)[0] ?? "17";
    object[key] = inside(choice.additionalProperties as Schema, object[key]);
  } else if (rest.length === 0 && value === absent) {
    delete object[step.name];
  } else {
    object[step.name] = inside(choice.properties?.[step.name] ?? {}, object[step.name]);
  }
  return object;
}

function fits(schema: Schema, value: Json | undefined): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return Object.entries(schema.properties ?? {}).every(([key, property]) => property.const === undefined || value[key] === property.const);
}
