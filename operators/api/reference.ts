// docs/modelservice.md and docs/expertplacement.md: every field, its default, its rules and what each condition says; from the same source as the CRDs.
import { expertPlacementKind, ExpertPlacementSpec, ExpertPlacementStatus, placementConditionTypes } from "./expert-placement.ts";
import { kind, ModelServiceSpec, objectRules, version, group } from "./model-service.ts";
import { conditionTypes, ModelServiceStatus } from "./status.ts";
import { structuralSchema, type StructuralSchema } from "./structural.ts";

interface Row {
  path: string;
  type: string;
  required: boolean;
  default: string;
  description: string;
}

const smallest = `apiVersion: ${group}/${version}
kind: ${kind}
metadata:
  name: plankton
spec:
  model:
    embedded: {}
`;

const larger = `apiVersion: ${group}/${version}
kind: ${kind}
metadata:
  name: deepseek-r1
spec:
  servedName: deepseek-reasoner
  model:
    pvc:
      claimName: models
      path: deepseek-r1
  pools:
    prefill:
      backend: cuda
      replicas: 2
      cacheMemoryMib: 16384
      resources:
        requests: { cpu: "8", memory: 64Gi }
        limits: { memory: 64Gi }
    decode:
      backend: cuda
      cacheMemoryMib: 40960
      drainSeconds: 600
      tolerations:
        - key: nvidia.com/gpu
          operator: Exists
  slo:
    ttftSeconds: 2
    tpotSeconds: 0.05
  autoscaling:
    policy: slo
    prefill: { minReplicas: 1, maxReplicas: 8 }
    decode: { minReplicas: 1, maxReplicas: 8 }
`;

const spread = `apiVersion: ${group}/${version}
kind: ${kind}
metadata:
  name: spread
spec:
  model:
    embedded: {}
  experts:
    ranks: 4
    redundancy: 32
`;

/** The manifests of the page; tests apply them. */
export const examples = { smallest, larger, spread };

export function modelServiceReference(): string {
  const spec = structuralSchema(ModelServiceSpec);
  const status = structuralSchema(ModelServiceStatus);
  const rules = [...objectRules.map(({ message }) => ({ path: "", message })), ...rulesOf(spec, "spec")];
  return `# ModelService

Generated from operators/api by \`npm run generate\`. \`${group}/${version}\`, kind \`${kind}\`, short name \`ms\`, namespaced. Needs Kubernetes 1.30 or newer.

A ModelService is a model and the two pools of workers that serve it. The smallest one serves the model in the worker image:

\`\`\`yaml
${smallest}\`\`\`

A larger one:

\`\`\`yaml
${larger}\`\`\`

One whose experts are shared by four decode pods, of which any may be lost (docs/expertplacement.md):

\`\`\`yaml
${spread}\`\`\`

\`kubectl get ms\` shows it, \`kubectl describe ms NAME\` says what to do where something is wrong.

## spec

${table(rowsOf(spec, "spec"))}

## What the API server refuses

Beside types and bounds, in these words:

${rules.map(({ path, message }) => `- ${path === "" ? "" : `\`${path}\`: `}${message}`).join("\n")}

## status

${table(rowsOf(status, "status"))}

## Conditions

${conditionLines(conditionTypes)}
`;
}

export function expertPlacementReference(): string {
  return `# ExpertPlacement

Generated from operators/api by \`npm run generate\`. \`${group}/${version}\`, kind \`${expertPlacementKind}\`, short name \`exp\`, namespaced.

The operator makes one for each ModelService with \`spec.experts\`, under its name, and writes it every few seconds from what the decode pods say of themselves
(\`/experts\` on their port metrics): which ranks share the experts, by which plan, which was lost and when. \`kubectl get exp\` shows it; changing it changes nothing.

## spec

${table(rowsOf(structuralSchema(ExpertPlacementSpec), "spec"))}

## status

${table(rowsOf(structuralSchema(ExpertPlacementStatus), "status"))}

## Conditions

${conditionLines(placementConditionTypes)}
`;
}

function conditionLines(types: Record<string, string>): string {
  return Object.entries(types)
    .map(([type, meaning]) => `- **${type}**: ${meaning}`)
    .join("\n");
}

function table(rows: Row[]): string {
  const cells = rows.map(
    (row) => `| \`${row.path}\` | ${row.type} | ${row.required ? "required" : row.default} | ${row.description.replaceAll("|", "\\|")} |`,
  );
  return ["| field | type | default | what it is |", "|---|---|---|---|", ...cells].join("\n");
}

function rowsOf(schema: StructuralSchema, path: string): Row[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    const row = {
      path: `${path}.${name}`,
      type: typeOf(property),
      required: schema.required?.includes(name) ?? false,
      default: property.default === undefined || typeof property.default === "object" ? "" : `\`${JSON.stringify(property.default)}\``,
      description: property.description ?? "",
    };
    return [row, ...rowsOf(property, row.path), ...rowsOf(property.items ?? {}, `${row.path}[]`)];
  });
}

function typeOf(schema: StructuralSchema): string {
  if (schema["x-kubernetes-int-or-string"]) return "quantity";
  if (schema.enum) return schema.enum.join(" \\| ");
  if (schema.items) return `list of ${typeOf(schema.items)}`;
  if (schema.additionalProperties) return `map of ${typeOf(schema.additionalProperties)}`;
  const from = schema.exclusiveMinimum ? `over ${schema.minimum}` : (schema.minimum ?? "");
  const bounds = schema.minimum === undefined && schema.maximum === undefined ? "" : `, ${from} to ${schema.maximum ?? "any"}`;
  return `${schema.type ?? "any"}${bounds}`;
}

function rulesOf(schema: StructuralSchema, path: string): { path: string; message: string }[] {
  const own = (schema["x-kubernetes-validations"] ?? []).map(({ message, fieldPath }) => ({ path: `${path}${fieldPath ?? ""}`, message }));
  const inner = Object.entries(schema.properties ?? {}).flatMap(([name, property]) => rulesOf(property, `${path}.${name}`));
  const { items, additionalProperties } = schema;
  return [
    ...own,
    ...inner,
    ...(items ? rulesOf(items, `${path}[]`) : []),
    ...(additionalProperties ? rulesOf(additionalProperties, `${path}.*`) : []),
  ];
}
