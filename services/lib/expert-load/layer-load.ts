// How a layer's tokens were shared among its experts, as people see it. Runs in the console's page, too.

export interface LayerLoad {
  tokens: number;
  /** Each expert's tokens over the layer's mean: 1 is an equal share. All 0 where there were none. */
  relative: number[];
  busiest: number;
  /** Of the busiest expert; what an expert-parallel step waits for. */
  highest: number;
  unused: number;
}

export function layerLoad(tokens: readonly number[]): LayerLoad {
  const sum = tokens.reduce((total, count) => total + count, 0);
  const relative = tokens.map((count) => (sum === 0 ? 0 : (count * tokens.length) / sum));
  let busiest = 0;
  relative.forEach((load, expert) => {
    if (load > (relative[busiest] as number)) busiest = expert;
  });
  return { tokens: sum, relative, busiest, highest: relative[busiest] ?? 0, unused: tokens.filter((count) => count === 0).length };
}

/** The sum over workers of the same model; those of another shape are left out. */
export function addTokens(parts: readonly (readonly (readonly number[])[])[]): readonly (readonly number[])[] | null {
  const [first, ...others] = parts;
  if (first === undefined) return null;
  const alike = others.filter((part) => part.length === first.length && part[0]?.length === first[0]?.length);
  return first.map((layer, i) => layer.map((count, expert) => alike.reduce((sum, part) => sum + (part[i]?.[expert] ?? 0), count)));
}
