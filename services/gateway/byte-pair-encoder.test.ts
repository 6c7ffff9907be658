// The library is the judge: with its own merges, one string after another.
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inTree } from "../cli/tree.ts";
import type { TokenizerJson } from "../lib/model/folder.ts";
import { byteLevelCharacters } from "../lib/model/token-table.ts";
import { BytePairEncoder } from "./byte-pair-encoder.ts";

const corpus = readFileSync(inTree("README.md"), "utf8");
const merges = learn(corpus, 400);
const split = (regex: string) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
const byteLevel = (useRegex: boolean) => ({ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: useRegex });
/** As the tokenizers of DeepSeek V3, GPT-2 and the model in the box cut text. */
const preTokenizers = {
  deepseek: {
    type: "Sequence",
    pretokenizers: [
      split("\\p{N}{1,3}"),
      split("[一-龥぀-ゟ゠-ヿ]+"),
      split(
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
      ),
      byteLevel(false),
    ],
  },
  gpt2: byteLevel(true),
  uncut: byteLevel(false),
};

function tokenizer(preTokenizer: object, more: object = {}): TokenizerJson {
  const tokens = [...byteLevelCharacters, ...merges.map(([left, right]) => left + right)];
  const vocab = Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id]));
  const model = { type: "BPE", unk_token: null, vocab, merges: merges.map((pair) => pair.join(" ")), ...more };
  return {
    added_tokens: [],
    normalizer: null,
    post_processor: null,
    pre_tokenizer: preTokenizer,
    decoder: byteLevel(true),
    model,
  } as TokenizerJson;
}

/** Byte-pair merges of a text, the most frequent pair first. */
function learn(text: string, count: number): [string, string][] {
  const words = (text.match(/ ?\S+|\s/g) ?? []).map((word) =>
    Array.from(new TextEncoder().encode(word), (byte) => byteLevelCharacters[byte] as string),
  );
  return Array.from({ length: count }, () => {
    const seen = new Map<string, number>();
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) seen.set(`${word[i]} ${word[i + 1]}`, (seen.get(`${word[i]} ${word[i + 1]}`) ?? 0) + 1);
    const [best = ""] = [...seen].reduce((one, other) => (other[1] > one[1] ? other : one));
    const [left = "", right = ""] = best.split(" ");
    for (const word of words)
      for (let i = word.length - 2; i >= 0; i--) if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
    return [left, right];
  });
}

const texts = fc
  .array(
    fc.oneof(
      fc.constantFrom(...new Set(corpus.match(/\S+|\s+/g))),
      fc.string({ unit: "grapheme", maxLength: 12 }),
      fc.constantFrom(" ", "  ", "\n", "\r\n\t", "12345", "é", "日本語", "🙂", "don't", "ééé", "\ud800", "a".repeat(100)),
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(""));

describe.each(Object.entries(preTokenizers))("byte pairs, text cut as %s", (_, preTokenizer) => {
  it("become the library's tokens, the first time and again", () => {
    const json = tokenizer(preTokenizer);
    const library = new Tokenizer(json, {});
    const encoder = new BytePairEncoder(json, new Set());
    fc.assert(
      fc.property(texts, (text) => {
        const expected = library.encode(text, { add_special_tokens: false }).ids;
        expect(encoder.encode(text)).toEqual(expected);
        expect(encoder.encode(text)).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });
});

describe("a byte-pair encoder", () => {
  it("takes whole pieces as tokens where the model has it so", () => {
    const json = tokenizer(preTokenizers.gpt2, { ignore_merges: true, merges: [] });
    const library = new Tokenizer(json, {});
    const encoder = new BytePairEncoder(json, new Set());
    for (const text of ["the the gateway", corpus])
      expect(encoder.encode(text)).toEqual(library.encode(text, { add_special_tokens: false }).ids);
  });

  it("never makes a token that is no text", () => {
    const [first, second] = merges[0] as [string, string];
    const json = tokenizer(preTokenizers.uncut);
    const encoder = new BytePairEncoder(json, new Set([first + second]));
    const ids = encoder.encode(corpus);
    expect(ids).not.toContain(json.model.vocab[first + second]);
    const bytesOf = new Map(Object.entries(json.model.vocab).map(([token, id]) => [id, token]));
    expect(ids.map((id) => bytesOf.get(id)).join("")).toBe(
      Array.from(new TextEncoder().encode(corpus), (byte) => byteLevelCharacters[byte]).join(""),
    );
  });

  it("takes a long piece that is one word in its stride", () => {
    const encoder = new BytePairEncoder(tokenizer(preTokenizers.uncut), new Set());
    const text = "the the ".repeat(50_000);
    expect(encoder.encode(text).length).toBeLessThan(text.length / 2);
  });

  it("says what it cannot do", () => {
    expect(() => new BytePairEncoder(tokenizer({ type: "Whitespace" }), new Set())).toThrow("pre_tokenizer: Whitespace");
    expect(() => new BytePairEncoder(tokenizer(byteLevel(true), { byte_fallback: true }), new Set())).toThrow("model:");
    expect(() => new BytePairEncoder(tokenizer({ ...byteLevel(true), add_prefix_space: true }), new Set())).toThrow("add_prefix_space");
  });
});
