// Writes the files that are derived from schemas; with --check, fails where a file differs instead. Run from the repository's root.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { crdFiles } from "../../operators/api/crd-yaml.ts";
import { expertPlacementReference, modelServiceReference } from "../../operators/api/reference.ts";
import { chartFiles } from "../../operators/chart/files.ts";
import { observabilityFiles } from "../../operators/dashboards/generated.ts";
import { openApiDocument } from "../lib/contracts/openapi.ts";
import { composeNatsConfig } from "./compose-nats.ts";

const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };

const generated: Record<string, string> = {
  "docs/openapi.json": `${JSON.stringify(openApiDocument())}\n`,
  "deploy/images/nats.conf": composeNatsConfig(),
  ...Object.fromEntries(Object.entries(crdFiles(version)).map(([path, text]) => [`charts/pelagic/${path}`, text])),
  "docs/modelservice.md": modelServiceReference(),
  "docs/expertplacement.md": expertPlacementReference(),
  ...chartFiles(version, composeNatsConfig()),
  ...observabilityFiles(),
};

function current(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

if (process.argv.includes("--check")) {
  const stale = Object.keys(generated).filter((path) => current(path) !== generated[path]);
  if (stale.length > 0) {
    console.error(`${stale.join(", ")} differ from what the schemas give. Run: npm run generate`);
    process.exitCode = 1;
  }
} else {
  for (const [path, content] of Object.entries(generated)) {
    if (current(path) === content) continue;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    console.log(`wrote ${path}`);
  }
}
