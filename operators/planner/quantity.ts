// Kubernetes quantities as numbers, for comparing and for counting whole CPUs.

/** As powers of ten, or of two: multiplied by 0.001, "9m" would be another number than "0.009". */
const decimal: Record<string, number> = { n: -9, u: -6, m: -3, "": 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };
const binary: Record<string, number> = { Ki: 10, Mi: 20, Gi: 30, Ti: 40, Pi: 50, Ei: 60 };

/** undefined: not a quantity. Two ways of writing one number give the same. */
export function quantityValue(quantity: string | number): number | undefined {
  if (typeof quantity === "number") return quantity;
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$/.exec(quantity);
  if (match === null) return undefined;
  const [, number, exponent, suffix = ""] = match;
  if (exponent !== undefined) return Number(`${number}${exponent}`);
  const power = binary[suffix];
  return power === undefined ? Number(`${number}e${decimal[suffix]}`) : Number(number) * 2 ** power;
}

/** Compute threads for so much CPU: whole ones, at least one. */
export function wholeCpus(quantity: string | number): number {
  return Math.max(1, Math.floor(quantityValue(quantity) ?? 1));
}
