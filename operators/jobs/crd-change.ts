// What is to be done with a CRD that a cluster has, or lacks.
import { crdOf, crdVersionAnnotation } from "../api/crd.ts";

export interface FoundCrd {
  metadata: { annotations?: Record<string, string>; labels?: Record<string, string> };
  spec: object;
}

export type CrdChange = { action: "create" | "replace"; object: object } | { action: "keep"; reason: string };

/** Only upwards: with an older schema the API server would drop what newer objects have. */
export function crdChange(name: string, found: FoundCrd | undefined, version: string): CrdChange {
  const wanted = crdOf(name, version);
  if (found === undefined) return { action: "create", object: wanted };
  const has = found.metadata.annotations?.[crdVersionAnnotation];
  if (has !== undefined && compareVersions(has, version) > 0)
    return { action: "keep", reason: `the cluster has that of ${has}, which is newer than ${version}` };
  return {
    action: "replace",
    object: {
      ...found,
      apiVersion: wanted.apiVersion,
      kind: wanted.kind,
      metadata: {
        ...found.metadata,
        labels: { ...found.metadata.labels, ...wanted.metadata.labels },
        annotations: { ...found.metadata.annotations, ...wanted.metadata.annotations },
      },
      spec: wanted.spec,
    },
  };
}

/** As semantic versions are ordered: above 0 where the first is newer. */
export function compareVersions(first: string, second: string): number {
  const [a, b] = [parts(first), parts(second)];
  return comparePart(a.core, b.core) || Number(a.pre.length === 0) - Number(b.pre.length === 0) || comparePart(a.pre, b.pre);
}

function parts(version: string): { core: string[]; pre: string[] } {
  const [core = "", ...pre] = (version.split("+")[0] as string).split("-");
  return { core: core.split("."), pre: pre.length === 0 ? [] : pre.join("-").split(".") };
}

function comparePart(first: string[], second: string[]): number {
  for (let at = 0; at < Math.max(first.length, second.length); at++) {
    const [a, b] = [first[at], second[at]];
    if (a === undefined || b === undefined) return a === undefined ? -1 : 1;
    const numbers = [/^\d+$/.test(a), /^\d+$/.test(b)];
    const difference =
      numbers[0] && numbers[1] ? Number(a) - Number(b) : Number(numbers[1]) - Number(numbers[0]) || (a < b ? -1 : Number(a > b));
    if (difference !== 0) return difference;
  }
  return 0;
}
