// What the CRD says beyond JSON Schema: CEL rules and list types, as metadata of a zod schema. They travel into the CRD and nowhere else:
// the API server checks them before anything of ours sees the object.
export interface Rule {
  /** A CEL expression; true: fine. */
  rule: string;
  /** For the person who wrote the object: names the field and says what to write. */
  message: string;
  /** Where the complaint points, under the object that carries the rule: ".maxReplicas". */
  fieldPath?: string;
}

/** Metadata for zod's meta(). */
export function rules(...all: Rule[]) {
  return { "x-kubernetes-validations": all };
}

/** A list whose items are told apart by these fields: two equal ones are refused, and two writers may each own some. */
export function listMap(...keys: string[]) {
  return { "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys };
}
