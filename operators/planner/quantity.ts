// Kubernetes quantities as numbers, for comparing and for counting whole CPUs.

const suffixes: Record<string, number> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** undefined: not a quantity. */
export function quantityValue(quantity: string | number): number | undefined {
  if (typeof quantity === "number") return quantity;
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$/.exec(quantity);
  if (match === null) return undefined;
  const [, number, exponent, suffix] = match;
  return exponent === undefined ? Number(number) * (suffixes[suffix ?? ""] as number) : Number(`${number}${exponent}`);
}

/** Compute threads for so much CPU: whole ones, at least one. */
export function wholeCpus(quantity: string | number): number {
  return Math.max(1, Math.floor(quantityValue(quantity) ?? 1));
}
