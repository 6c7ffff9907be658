// From a zod schema to what a CustomResourceDefinition takes: a structural schema. It has no additionalProperties: false (unknown fields are
// pruned or refused by the API server itself), no bounds that say nothing, and formats that the API server knows.
import { z } from "zod";

export interface StructuralSchema {
  type?: string;
  description?: string;
  default?: unknown;
  format?: string;
  enum?: string[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: boolean;
  minLength?: number;
  maxLength?: number;
  maxItems?: number;
  maxProperties?: number;
  required?: string[];
  properties?: Record<string, StructuralSchema>;
  additionalProperties?: StructuralSchema;
  items?: StructuralSchema;
  anyOf?: StructuralSchema[];
  "x-kubernetes-int-or-string"?: boolean;
  "x-kubernetes-validations"?: { rule: string; message: string; fieldPath?: string }[];
  "x-kubernetes-list-type"?: string;
  "x-kubernetes-list-map-keys"?: string[];
}

export function structuralSchema(schema: z.ZodType): StructuralSchema {
  // As a person writes it: fields with a default may be left out.
  return structural(z.toJSONSchema(schema, { target: "openapi-3.0", io: "input" }) as StructuralSchema);
}

function structural(node: StructuralSchema): StructuralSchema {
  const { properties, items, additionalProperties, ...rest } = node;
  if (rest["x-kubernetes-int-or-string"]) {
    const { description, pattern, maxLength } = rest;
    return {
      ...(description === undefined ? {} : { description }),
      anyOf: [{ type: "integer" }, { type: "string" }],
      ...(pattern === undefined ? {} : { pattern }),
      ...(maxLength === undefined ? {} : { maxLength }),
      "x-kubernetes-int-or-string": true,
    };
  }
  const result: StructuralSchema = rest;
  if (result.minimum === Number.MIN_SAFE_INTEGER) delete result.minimum;
  if (result.maximum === Number.MAX_SAFE_INTEGER) delete result.maximum;
  if (result.type === "integer" && (result.maximum === undefined || result.maximum > 2 ** 31)) result.format = "int64";
  else if (result.type === "integer") result.format = "int32";
  if (result.format === "date-time") delete result.pattern;
  if (properties !== undefined && Object.keys(properties).length > 0)
    result.properties = Object.fromEntries(Object.entries(properties).map(([name, property]) => [name, structural(property)]));
  if (items !== undefined) result.items = structural(items);
  // A closed object is not structural; the values of a map are.
  if (typeof additionalProperties === "object" && Object.keys(additionalProperties).length > 0)
    result.additionalProperties = structural(additionalProperties);
  return result;
}
