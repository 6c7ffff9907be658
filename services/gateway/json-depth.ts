// How deep a JSON text is nested, told without reading it: what reads it recursively afterwards has an end.

/** Of bodies, and of JSON in their strings. */
export const maxJsonDepth = 64;

const quote = 0x22;
const backslash = 0x5c;

/** Of a text that is no JSON anything may be said. */
export function isTooDeep(bytes: Uint8Array): boolean {
  let depth = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === quote) {
      for (i++; i < bytes.length && bytes[i] !== quote; i++) if (bytes[i] === backslash) i++;
    } else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > maxJsonDepth) return true;
    } else if (byte === 0x5d || byte === 0x7d) {
      depth--;
    }
  }
  return false;
}
