// The chart's generated files: values.yaml, values.schema.json, README.md, Chart.yaml, and the rules of all roles.
import { stringify } from "yaml";
import { z } from "zod";
import { closedSchema } from "../api/values-schema.ts";
import { applyCrdsRules, deleteModelsRules } from "../jobs/rights.ts";
import { clusterRules, everywhereRules, leaseRules, modelServiceRules } from "../kube/rights.ts";
import { readmeHead } from "./readme-head.ts";
import { ChartValues } from "./values.ts";

const note = "# Generated from operators/ by `npm run generate`.\n";

export function chartFiles(version: string, natsConfig: string): Record<string, string> {
  const chart = "charts/pelagic";
  return {
    [`${chart}/Chart.yaml`]: chartYaml(version),
    [`${chart}/values.yaml`]: valuesYaml(),
    [`${chart}/values.schema.json`]: `${JSON.stringify(valuesSchema())}\n`,
    [`${chart}/README.md`]: readme(),
    [`${chart}/generated/nats.conf`]: natsConfig,
    [`${chart}/generated/modelservice-rules.yaml`]: yaml(modelServiceRules),
    [`${chart}/generated/cluster-rules.yaml`]: yaml(clusterRules),
    [`${chart}/generated/everywhere-rules.yaml`]: yaml(everywhereRules),
    [`${chart}/generated/lease-rules.yaml`]: yaml(leaseRules),
    [`${chart}/generated/apply-crds-rules.yaml`]: yaml(applyCrdsRules),
    [`${chart}/generated/delete-models-rules.yaml`]: yaml(deleteModelsRules),
  };
}

function yaml(value: unknown): string {
  return note + stringify(value, { lineWidth: 140, aliasDuplicateObjects: false });
}

function chartYaml(version: string): string {
  return yaml({
    apiVersion: "v2",
    name: "pelagic",
    description: "Serves DeepSeek-class models: operator, gateway, NATS and a first served model.",
    type: "application",
    version,
    appVersion: version,
    kubeVersion: ">=1.30.0-0",
  });
}

export function valuesSchema(): object {
  return closedSchema(ChartValues);
}

interface Node {
  type?: string;
  description?: string;
  enum?: string[];
  properties?: Record<string, Node>;
  items?: Node;
}
type Fields = Record<string, unknown>;

/** Each field with what it is for above it. */
function valuesYaml(): string {
  const head = `${note}# README.md beside this file says the same as a table.\n`;
  return `${head}${yamlLines(valuesNode(), ChartValues.parse({}), "").join("\n")}\n`;
}

function yamlLines(schema: Node, values: Fields, indent: string): string[] {
  return Object.entries(values).flatMap(([name, value]) => {
    const field = schema.properties?.[name] ?? {};
    const comment = wrapped(field.description ?? "", 130).map((line) => `${indent}# ${line}`);
    const body = isGroup(field, value)
      ? [`${indent}${name}:`, ...yamlLines(field, value, `${indent}  `)]
      : stringify({ [name]: value }, { lineWidth: 0 })
          .trimEnd()
          .split("\n")
          .map((line) => `${indent}${line}`);
    return [...(indent === "" ? [""] : []), ...comment, ...body];
  });
}

function valuesNode(): Node {
  return z.toJSONSchema(ChartValues, { target: "draft-7", io: "input" }) as Node;
}

/** A value of its own is what has fields without a default, such as resources: it is shown whole. */
function isGroup(field: Node, value: unknown): value is Fields {
  const names = Object.keys(field.properties ?? {});
  return names.length > 0 && names.every((name) => Object.hasOwn(value as Fields, name));
}

function wrapped(text: string, width: number): string[] {
  const out: string[] = [];
  for (const word of text.split(" ").filter((each) => each !== "")) {
    const last = out.at(-1);
    if (last !== undefined && last.length + word.length < width) out[out.length - 1] = `${last} ${word}`;
    else out.push(word);
  }
  return out;
}

export interface ValueRow {
  path: string;
  type: string;
  default: unknown;
  description: string;
}

/** Every value that can be set. */
export function valueRows(schema: Node = valuesNode(), values: Fields = ChartValues.parse({}), prefix = ""): ValueRow[] {
  return Object.entries(values).flatMap(([name, value]) => {
    const field = schema.properties?.[name] ?? {};
    const path = `${prefix}${name}`;
    if (isGroup(field, value)) return valueRows(field, value, `${path}.`);
    return [{ path, type: typeOf(field), default: value, description: field.description ?? "" }];
  });
}

function typeOf({ type, enum: choices, items }: Node): string {
  if (choices !== undefined) return choices.map((choice) => (choice === "" ? '""' : choice)).join(" \\| ");
  if (type === "array") return items?.type === "object" ? "list of objects" : "list of texts";
  return type === undefined || type === "string" ? "text" : type;
}

function readme(): string {
  const rows = valueRows().map(
    (row) => `| \`${row.path}\` | ${row.type} | \`${JSON.stringify(row.default)}\` | ${row.description.replaceAll("|", "\\|")} |`,
  );
  return `${readmeHead}
${["| value | type | default | what it is |", "|---|---|---|---|", ...rows].join("\n")}
`;
}
