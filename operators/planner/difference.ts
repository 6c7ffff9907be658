// Whether an object must be applied again: where what we would write is not what was written last, or is no longer there.
import { createHash } from "node:crypto";
import type { KubernetesObject } from "./kubernetes.ts";
import { hashAnnotation } from "./names.ts";
import { quantityValue } from "./quantity.ts";

/** The object with its hash as an annotation: a field that is left out from now on changes the hash and nothing else that can be seen. */
export function withHash<T extends KubernetesObject>(object: T): T {
  const hash = createHash("sha256").update(canonicalJson(object)).digest("hex").slice(0, 16);
  const annotations = { ...object.metadata.annotations, [hashAnnotation]: hash };
  return { ...object, metadata: { ...object.metadata, annotations } };
}

/** `wanted` with its hash; `observed` as the API server has it, with everything that it and others added. */
export function differs(wanted: KubernetesObject, observed: KubernetesObject): boolean {
  return difference(wanted, observed) !== undefined;
}

/** The first field that is not as it is wanted: "spec.replicas". */
export function difference(wanted: KubernetesObject, observed: KubernetesObject): string | undefined {
  const { metadata, spec } = observed;
  return lacking({ metadata, spec }, { metadata: wanted.metadata, spec: wanted.spec }, "", false);
}

/** Of an observed object all that can differ from what is wanted. */
export function fingerprint({ metadata: { labels, annotations, ownerReferences }, spec }: KubernetesObject): string {
  return createHash("sha256").update(canonicalJson({ labels, annotations, ownerReferences, spec })).digest("hex").slice(0, 16);
}

/** Where `observed` does not have what is in `wanted`. Named list items may have others between them; other lists are equal item by item. */
function lacking(observed: unknown, wanted: unknown, path: string, asQuantity: boolean): string | undefined {
  if (Array.isArray(wanted)) {
    // As an empty object below.
    if (!Array.isArray(observed)) return observed === undefined && wanted.length === 0 ? undefined : path;
    const key = ["name", "mountPath", "uid"].find((name) => wanted.every((item) => isObject(item) && name in item));
    if (key === undefined && observed.length !== wanted.length) return path;
    return first(wanted, (item, i) => {
      const other = key === undefined ? observed[i] : observed.find((each) => isObject(each) && each[key] === (item as never)[key]);
      return lacking(other, item, `${path}[${i}]`, asQuantity);
    });
  }
  if (isObject(wanted)) {
    // An empty object that was written may come back as none.
    if (!isObject(observed)) return observed === undefined && Object.keys(wanted).length === 0 ? undefined : path;
    return first(Object.entries(wanted), ([key, value]) =>
      lacking(observed[key], value, path === "" ? key : `${path}.${key}`, asQuantity || ["requests", "limits", "sizeLimit"].includes(key)),
    );
  }
  if (observed === wanted) return undefined;
  // An empty value of a variable is left out by the API server.
  if (wanted === "" && observed === undefined) return undefined;
  if (!asQuantity || (typeof observed !== "string" && typeof observed !== "number")) return path;
  // The API server writes "1000m" as "1".
  const value = quantityValue(wanted as string | number);
  return value !== undefined && value === quantityValue(observed) ? undefined : path;
}

function first<T>(items: T[], look: (item: T, index: number) => string | undefined): string | undefined {
  for (const [i, item] of items.entries()) {
    const found = look(item, i);
    if (found !== undefined) return found;
  }
  return undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, inner) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}
