import { describe, expect, it } from "vitest";
import { blockKeys } from "./block-key.ts";

const tokens = Uint32Array.from({ length: 4 * 64 }, (_, i) => i * 31);
const keys = (decodeForm?: number) => blockKeys("root", tokens, tokens.length, [], decodeForm);

describe("block keys where decode's rows have bits of their own", () => {
  it("are those of one form up to the block in which decode's rows begin, and others from there on", () => {
    for (const decodeForm of [0, 1, 63, 64, 65, 127, 128, 200, 255]) {
      const own = keys(decodeForm);
      const equal = own.map((key, block) => key === keys()[block]);
      expect(equal).toEqual(own.map((_, block) => (block + 1) * 64 <= decodeForm));
    }
  });

  it("differ with the row in which they begin", () => {
    const last = Array.from({ length: 257 }, (_, decodeForm) => keys(decodeForm)[3]);
    expect(new Set(last).size).toBe(257);
    expect(keys(256)[3]).toBe(keys()[3]);
  });

  it("are the same when some were known", () => {
    for (const known of [0, 1, 2, 3, 4]) {
      expect(blockKeys("root", tokens, tokens.length, keys(100).slice(0, known), 100)).toEqual(keys(100));
    }
  });
});
