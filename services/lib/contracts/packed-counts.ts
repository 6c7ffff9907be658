// Counts in 16 bits each, two in a word of a message's tail: those below 4,096 exactly, larger ones to one part in 4,096, up to 2^42.

const kept = 11;
const firstStep = 2 ** kept;

export const largestPackedCount = (2 * firstStep - 1) * 2 ** 30;

/** Whole numbers, 0 or more; what is above the largest is taken for it. */
export function packCounts(counts: ArrayLike<number>): Uint32Array {
  const packed = new Uint16Array(counts.length + (counts.length % 2));
  for (let i = 0; i < counts.length; i++) packed[i] = pack(counts[i] as number);
  return new Uint32Array(packed.buffer);
}

/** The first `length` of them; the tail must have room for these and no more. */
export function unpackCounts(tail: Uint32Array, length: number): Float64Array {
  if (tail.length !== Math.ceil(length / 2)) throw new RangeError(`counts: ${2 * tail.length} values, not ${length}`);
  const packed = new Uint16Array(tail.buffer, tail.byteOffset, length);
  return Float64Array.from(packed, unpack);
}

/** A power of two in the upper 5 bits, and the 11 digits behind the leading one; below 2^11 the count itself. */
function pack(count: number): number {
  if (count < firstStep) return count;
  const exact = Math.min(count, largestPackedCount);
  const power = Math.floor(Math.log2(exact)) - kept;
  // Rounding up may reach the next power of two, whose code follows.
  return (power + 1) * firstStep + Math.round(exact / 2 ** power) - firstStep;
}

function unpack(code: number): number {
  if (code < firstStep) return code;
  const power = Math.floor(code / firstStep) - 1;
  return (firstStep + (code % firstStep)) * 2 ** power;
}
