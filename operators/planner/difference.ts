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
  const { metadata, spec } = observed;
  return !contains({ metadata, spec }, { metadata: wanted.metadata, spec: wanted.spec }, false);
}

/** Everything in `wanted` is in `observed`. Named list items may have others between them; other lists are equal item by item. */
function contains(observed: unknown, wanted: unknown, asQuantity: boolean): boolean {
  if (Array.isArray(wanted)) {
    if (!Array.isArray(observed)) return false;
    const key = ["name", "mountPath", "uid"].find((name) => wanted.every((item) => isObject(item) && name in item));
    if (key === undefined) return observed.length === wanted.length && wanted.every((item, i) => contains(observed[i], item, asQuantity));
    return wanted.every((item) =>
      contains(
        observed.find((other) => isObject(other) && other[key] === item[key]),
        item,
        asQuantity,
      ),
    );
  }
  if (isObject(wanted)) {
    // An empty object that was written may come back as none.
    if (!isObject(observed)) return observed === undefined && Object.keys(wanted).length === 0;
    return Object.entries(wanted).every(([key, value]) =>
      contains(observed[key], value, asQuantity || ["requests", "limits", "sizeLimit"].includes(key)),
    );
  }
  if (observed === wanted) return true;
  // An empty value of a variable is left out by the API server.
  if (wanted === "" && observed === undefined) return true;
  if (!asQuantity || (typeof observed !== "string" && typeof observed !== "number")) return false;
  // The API server writes "1000m" as "1".
  const value = quantityValue(wanted as string | number);
  return value !== undefined && value === quantityValue(observed);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, inner) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}
