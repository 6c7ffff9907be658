// Seeded chance: the same seed offers the same load.

export type Uniform = () => number;

/** Numbers in [0, 1): Marsaglia's xorshift, 32 bits, scrambled by a multiplication. */
export function uniform(seed: number): Uniform {
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (Math.imul(state >>> 0, 0x2c1b3c6d) >>> 0) / 2 ** 32;
  };
}

export function exponential(random: Uniform): number {
  return -Math.log(1 - random());
}

function normal(random: Uniform): number {
  return Math.sqrt(2 * exponential(random)) * Math.cos(2 * Math.PI * random());
}

/** Of mean 1 and this shape (Marsaglia and Tsang 2000; below shape 1 with their power of a uniform number). */
export function gamma(random: Uniform, shape: number): number {
  if (shape < 1) return (gamma(random, shape + 1) * (shape + 1) * random() ** (1 / shape)) / shape;
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = normal(random);
    const v = (1 + c * x) ** 3;
    if (v <= 0) continue;
    if (Math.log(1 - random()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return (d * v) / shape;
  }
}
