// The gateway's OpenAPI document as operations and fields: every place in a body where a value can stand, however deep. Pure.

/** Of JSON Schema what the document is written in. */
export interface Schema {
  $ref?: string;
  type?: string | string[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  const?: unknown;
  enum?: unknown[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema | boolean;
  items?: Schema;
  prefixItems?: Schema[];
  minItems?: number;
  maxItems?: number;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
}

export interface Parameter {
  name: string;
  in: string;
  schema: Schema;
}

export interface Operation {
  method: string;
  path: string;
  body: Schema | null;
  parameters: Parameter[];
  /** Bodies of the refusals that the document knows, by status. */
  refusals: Map<number, Schema>;
  /** Of the JSON answer to a good request; null: none is promised. */
  answer: Schema | null;
}

/** How to get to a field: through one of a schema's alternatives each time. */
export type Step = { alternative: number } & ({ kind: "property"; name: string } | { kind: "item" } | { kind: "entry" });

export interface Field {
  /** `messages[role=user].content` */
  name: string;
  /** The property of the body that it is in. */
  root: string;
  steps: Step[];
  schema: Schema;
  required: boolean;
}

interface Document {
  paths: Record<string, Record<string, unknown>>;
}

interface RawOperation {
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { content?: Record<string, { schema: Schema }> }>;
  parameters?: Parameter[];
}

const methods = ["get", "post", "put", "patch", "delete"];
/** A schema that contains itself is followed so far. */
const maxSteps = 7;

export function operationsOf(document: unknown): Operation[] {
  const { paths } = document as Document;
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item)
      .filter(([method]) => methods.includes(method))
      .map(([method, raw]) => {
        const { requestBody, responses, parameters } = raw as RawOperation;
        const whole = (schema: Schema | undefined) => (schema === undefined ? null : inlined(schema, document));
        return {
          method: method.toUpperCase(),
          path,
          body: whole(requestBody?.content["application/json"]?.schema),
          parameters: (parameters ?? []).map((parameter) => ({ ...parameter, schema: inlined(parameter.schema, document) })),
          refusals: new Map(
            Object.entries(responses)
              .filter(([status]) => status !== "200")
              .map(([status, { content }]) => [Number(status), whole(content?.["application/json"]?.schema) ?? {}]),
          ),
          answer: whole(responses["200"]?.content?.["application/json"]?.schema),
        };
      }),
  );
}

/** References written out, as far as they do not go in circles. */
function inlined<T>(value: T, document: unknown, open: readonly string[] = []): T {
  if (Array.isArray(value)) return value.map((one) => inlined(one as unknown, document, open)) as T;
  if (typeof value !== "object" || value === null) return value;
  const reference = (value as Schema).$ref;
  if (reference === undefined)
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, inlined(one as unknown, document, open)])) as T;
  if (open.filter((one) => one === reference).length > 1) return {} as T;
  let at = document;
  for (const step of reference.slice(2).split("/")) at = (at as Record<string, unknown>)[step.replaceAll("~1", "/").replaceAll("~0", "~")];
  if (at === undefined) throw new Error(`the document has nothing at ${reference}`);
  return inlined(at as T, document, [...open, reference]);
}

/** The schemas of one type each that a schema is made of. */
export function alternatives(schema: Schema): Schema[] {
  const choices = schema.anyOf ?? schema.oneOf;
  // Rules that stand beside an object's properties (exactly one of these): the first of them is kept.
  if (choices !== undefined && schema.properties !== undefined) {
    const { anyOf: _, oneOf: __, ...rest } = schema;
    return [{ ...rest, required: [...(schema.required ?? []), ...(choices[0]?.required ?? [])] }];
  }
  if (choices !== undefined) return choices.flatMap(alternatives);
  if (!Array.isArray(schema.type)) return [schema];
  return schema.type.map((type) => ({ ...schema, type }));
}

export function fieldsOf(body: Schema): Field[] {
  const fields: Field[] = [];
  walk(body, [], "", false, fields);
  // The body as a whole is no field: it has no name that an error could give.
  return fields.filter(({ steps }) => steps.length > 0);
}

function walk(schema: Schema, steps: Step[], name: string, required: boolean, fields: Field[]): void {
  const first = steps[0];
  fields.push({ name, steps, schema, required, root: first?.kind === "property" ? first.name : "" });
  if (steps.length >= maxSteps) return;
  const choices = alternatives(schema);
  const objects = choices.filter((choice) => choice.properties !== undefined).length;
  for (const [alternative, choice] of choices.entries()) {
    const here = objects > 1 && choice.properties !== undefined ? name + qualifier(choice, alternative) : name;
    for (const [key, property] of Object.entries(choice.properties ?? {})) {
      const path = here === "" ? key : `${here}.${key}`;
      walk(property, [...steps, { alternative, kind: "property", name: key }], path, choice.required?.includes(key) ?? false, fields);
    }
    if (choice.properties === undefined && typeof choice.additionalProperties === "object")
      walk(choice.additionalProperties, [...steps, { alternative, kind: "entry" }], `${here}.*`, true, fields);
    if (choice.items !== undefined) walk(choice.items, [...steps, { alternative, kind: "item" }], `${here}[]`, true, fields);
  }
}

/** What tells an alternative from the others: the constants that it asks for. */
function qualifier(choice: Schema, alternative: number): string {
  const constants = Object.entries(choice.properties ?? {}).filter(([, { const: value }]) => value !== undefined);
  const [key, property] = constants[0] ?? [];
  return key === undefined ? `(${alternative})` : `(${key}=${String(property?.const)})`;
}
