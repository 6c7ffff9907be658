// Integers of JSON that a float64 does not hold: what was written, not what JSON.parse made of it. Pure.
const quote = 0x22;
const backslash = 0x5c;

/** Of a text that is JSON: the integer that this property of its outermost object is, in plain digits. null: it is written otherwise. */
export function writtenInteger(bytes: Uint8Array, name: string): bigint | null {
  const decoder = new TextDecoder();
  let found: bigint | null = null;
  let depth = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === quote) {
      const begin = i + 1;
      for (i++; i < bytes.length && bytes[i] !== quote; i++) if (bytes[i] === backslash) i++;
      if (depth !== 1 || i - begin !== name.length || decoder.decode(bytes.subarray(begin, i)) !== name) continue;
      // The last one counts, as in JSON.parse; the longest integer that is finite has 309 digits.
      const value = /^\s*:\s*(?:(-?\d+)\s*[,}])?/.exec(decoder.decode(bytes.subarray(i + 1, i + 1 + 1_000)));
      if (value !== null) found = value[1] === undefined ? null : BigInt(value[1]);
    } else if (byte === 0x5b || byte === 0x7b) depth++;
    else if (byte === 0x5d || byte === 0x7d) depth--;
  }
  return found;
}
