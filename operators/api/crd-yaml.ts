// The CRD as a file. Apart from crd.ts: the image that brings a cluster's CRD up to date has no YAML writer.
import { stringify } from "yaml";
import { modelServiceCrd } from "./crd.ts";

export function modelServiceCrdYaml(productVersion: string): string {
  const note = "# Generated from operators/api by `npm run generate`.\n";
  return note + stringify(modelServiceCrd(productVersion), { lineWidth: 140, aliasDuplicateObjects: false });
}
