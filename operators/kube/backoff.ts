// How long to wait after failures in a row: twice as long each time, half of it by chance, so that many who failed together do not come back together.

export interface BackoffBounds {
  baseMs: number;
  maxMs: number;
}

/** `failures`: 1 after the first. `random`: in [0, 1). */
export function backoffMs(failures: number, { baseMs, maxMs }: BackoffBounds, random: number): number {
  const full = Math.min(maxMs, baseMs * 2 ** Math.min(failures - 1, 30));
  return full / 2 + (random * full) / 2;
}
