// What the chart's values.schema.json says of a ModelService that the chart creates: the spec as a closed JSON Schema (draft 7, as Helm reads
// it), so that a mistyped value is refused before anything is sent. Rules that need CEL stay with the API server.
import { z } from "zod";
import { ModelServiceSpec } from "./model-service.ts";

type Json = Record<string, unknown>;

export function modelServiceSpecSchema(): Json {
  return closedSchema(ModelServiceSpec);
}

export function closedSchema(of: z.ZodType): Json {
  const { $schema: _, ...schema } = z.toJSONSchema(of, { target: "draft-7", io: "input" }) as Json;
  return closed(schema);
}

function closed(node: unknown): Json {
  const out: Json = {};
  for (const [key, value] of Object.entries(node as Json)) {
    if (key.startsWith("x-kubernetes-") || key === "maxProperties") continue;
    if (key === "properties")
      out.properties = Object.fromEntries(Object.entries(value as Json).map(([name, field]) => [name, closed(field)]));
    else if (key === "items" || (key === "additionalProperties" && typeof value === "object")) out[key] = closed(value);
    else if (key === "anyOf") out.anyOf = (value as Json[]).map(closed);
    else out[key] = value;
  }
  if (out.properties !== undefined) out.additionalProperties = false;
  return out;
}
