// The CRDs as files. Apart from crd.ts: the image that brings a cluster's CRDs up to date has no YAML writer.
import { stringify } from "yaml";
import { crdNames, crdOf } from "./crd.ts";

/** By path in the chart. */
export function crdFiles(productVersion: string): Record<string, string> {
  const note = "# Generated from operators/api by `npm run generate`.\n";
  return Object.fromEntries(
    crdNames.map((name) => {
      const [plural, ...group] = name.split(".");
      const text = stringify(crdOf(name, productVersion), { lineWidth: 140, aliasDuplicateObjects: false });
      return [`crds/${group.join(".")}_${plural}.yaml`, note + text];
    }),
  );
}
