// The API server's own schemas as files that kubeconform reads: every field that it does not know is an error.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestApiServer } from "./api-server.ts";

interface Kind {
  group: string;
  version: string;
  kind: string;
}

// biome-ignore lint/suspicious/noExplicitAny: JSON Schema
type Schema = any;

/** For kubeconform's -schema-location. */
export async function writeSchemas(server: TestApiServer, dir: string): Promise<string> {
  mkdirSync(dir, { recursive: true });
  const index = await server.call("GET", "/openapi/v3");
  for (const [path, { serverRelativeURL }] of Object.entries(index.body.paths as Record<string, { serverRelativeURL: string }>)) {
    if (!/^api(s\/[^/]+)?\/v[^/]+$/.test(path)) continue;
    const schemas: Record<string, Schema> = (await server.call("GET", serverRelativeURL)).body.components?.schemas ?? {};
    const definitions = Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, closed(schema)]));
    for (const [name, schema] of Object.entries(schemas)) {
      for (const { group, version, kind } of (schema["x-kubernetes-group-version-kind"] ?? []) as Kind[]) {
        const file = `${kind.toLowerCase()}-${group === "" ? version : group}-${version}.json`;
        writeFileSync(join(dir, file), JSON.stringify({ ...definitions[name], definitions }));
      }
    }
  }
  return `${dir}/{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json`;
}

/** As JSON Schema: references into the same file, and objects with no fields but their own. */
function closed(node: Schema): Schema {
  if (Array.isArray(node)) return node.map(closed);
  if (typeof node !== "object" || node === null) return node;
  const out: Schema = {};
  for (const [key, value] of Object.entries(node)) {
    if (key === "$ref") out[key] = (value as string).replace("#/components/schemas/", "#/definitions/");
    else if (key === "default" || key === "x-kubernetes-validations") continue;
    else if (key === "properties")
      out[key] = Object.fromEntries(Object.entries(value as Schema).map(([name, field]) => [name, closed(field)]));
    // Numbers of Go's formats, which JSON Schema does not know.
    else if (key === "format") continue;
    else out[key] = closed(value);
  }
  if (node["x-kubernetes-int-or-string"] || node.format === "int-or-string") return { oneOf: [{ type: "string" }, { type: "integer" }] };
  if (out.properties !== undefined && !node["x-kubernetes-preserve-unknown-fields"] && out.additionalProperties === undefined)
    out.additionalProperties = false;
  return out;
}
