// How deep a JSON text is nested, told without reading it: what reads it recursively afterwards has an end.

/** Of bodies, and of JSON in their strings. */
export const maxJsonDepth = 64;

const quote = 0x22;
const backslash = 0x5c;

/** null: it is not. Else the property of the outermost object in which it is, or an empty name. Of a text that is no JSON anything may be said. */
export function whereTooDeep(bytes: Uint8Array): string | null {
  let depth = 0;
  /** The last string that is neither in an array nor in an inner object: what opens next is its value. */
  let key: Uint8Array = bytes.subarray(0, 0);
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === quote) {
      const begin = i + 1;
      for (i++; i < bytes.length && bytes[i] !== quote; i++) if (bytes[i] === backslash) i++;
      if (depth === 1) key = bytes.subarray(begin, i);
    } else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > maxJsonDepth) return new TextDecoder().decode(key);
    } else if (byte === 0x5d || byte === 0x7d) {
      depth--;
    }
  }
  return null;
}

export function isTooDeep(text: string): boolean {
  return whereTooDeep(Buffer.from(text)) !== null;
}
