// What each expert got, in the tail of ExpertCounts: every count as its low and its high word.
import type { ExpertCounts } from "./messages.ts";

const twoTo32 = 2 ** 32;

/** Exact up to 2^53. */
export function countWords(counts: Float64Array): Uint32Array {
  const words = new Uint32Array(2 * counts.length);
  counts.forEach((count, i) => {
    words[2 * i] = count % twoTo32;
    words[2 * i + 1] = Math.floor(count / twoTo32);
  });
  return words;
}

/** By MoE layer and expert; null where there are none, or not as many as the message says. */
export function countsByLayer(
  { moeLayers, logicalExperts }: Pick<ExpertCounts, "moeLayers" | "logicalExperts">,
  words: Uint32Array,
): number[][] | null {
  if (words.length === 0 || words.length !== 2 * moeLayers * logicalExperts) return null;
  return Array.from({ length: moeLayers }, (_, layer) =>
    Array.from({ length: logicalExperts }, (_, expert) => {
      const at = 2 * (layer * logicalExperts + expert);
      return (words[at] as number) + (words[at + 1] as number) * twoTo32;
    }),
  );
}
