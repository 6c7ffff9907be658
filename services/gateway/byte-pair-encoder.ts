// Ordinary text to token ids, for byte-level BPE tokenizers: the library normalizes and cuts the text as tokenizer.json says, and each piece's
// bytes are merged here, by numbers instead of strings. Pieces are mostly words seen before: those are looked up.
import { Tokenizer } from "@huggingface/tokenizers";
import type { TokenizerJson } from "../lib/model/folder.ts";
import { byteLevelCharacters } from "../lib/model/token-table.ts";

interface PreTokenizer {
  type: string;
  pretokenizers?: PreTokenizer[];
  add_prefix_space?: boolean;
  use_regex?: boolean;
}

interface BpeModel {
  type?: string;
  merges?: (string | [string, string])[];
  ignore_merges?: boolean;
  dropout?: number | null;
  byte_fallback?: boolean;
  continuing_subword_prefix?: string | null;
  end_of_word_suffix?: string | null;
}

/** GPT-2's, which byte-level tokenizers cut by unless they say how. */
const usualCuts = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/** Remembered pieces, and how long one may be. */
const maxWords = 20_000;
const maxWordCharacters = 64;

export class BytePairEncoder {
  private readonly cutter: Tokenizer;
  /** Of each byte alone. */
  private readonly byteIds: Int32Array;
  /** Of two tokens side by side: which merge it is (the lower, the sooner), and what they become. */
  private readonly merges = new Map<number, number>();
  private readonly merged: number[] = [];
  /** Which merge two bytes side by side are, at 256 times the first and the second; -1: none. All that most bytes of a text are ever asked. */
  private readonly byteMerges = new Int32Array(65_536).fill(-1);
  private readonly idBound: number;
  /** Whole pieces that are tokens whatever the merges say, where the model has it so. */
  private readonly wholePieces: ReadonlyMap<string, number> | null;
  private readonly words = new Map<string, readonly number[]>();
  private readonly utf8 = new TextEncoder();

  /** `notText`: tokens that no text becomes. Throws what it cannot do. */
  constructor(json: TokenizerJson, notText: ReadonlySet<string>) {
    const model = json.model as BpeModel & TokenizerJson["model"];
    const { dropout, byte_fallback: fallback, continuing_subword_prefix: prefix, end_of_word_suffix: suffix } = model;
    if ((model.type ?? "BPE") !== "BPE" || dropout || fallback || prefix || suffix) {
      throw new Error("model: only byte-level BPE without dropout, fallback, prefix and suffix is supported");
    }
    const preTokenizer = (json as { pre_tokenizer?: PreTokenizer | null }).pre_tokenizer ?? null;
    const emptyModel = { type: "BPE", vocab: {}, merges: [] };
    this.cutter = new Tokenizer(
      {
        ...json,
        added_tokens: [],
        post_processor: null,
        model: emptyModel,
        pre_tokenizer: { type: "Sequence", pretokenizers: cutsOf(preTokenizer) },
      },
      {},
    );
    const vocabulary = new Map<string, number>();
    let largest = 0;
    for (const token of Object.keys(model.vocab)) {
      if (notText.has(token)) continue;
      const id = model.vocab[token] as number;
      vocabulary.set(token, id);
      largest = Math.max(largest, id);
    }
    this.idBound = largest + 1;
    this.byteIds = Int32Array.from(byteLevelCharacters, (character) => vocabulary.get(character) ?? -1);
    for (const merge of model.merges ?? []) {
      const space = merge.indexOf(" ");
      const [left, right] = typeof merge === "string" ? [merge.slice(0, space), merge.slice(space + 1)] : merge;
      const [leftId, rightId, id] = [vocabulary.get(left), vocabulary.get(right), vocabulary.get(left + right)];
      if (leftId === undefined || rightId === undefined || id === undefined) continue;
      this.merges.set(this.pair(leftId, rightId), this.merged.length);
      this.merged.push(id);
    }
    for (const [left, leftId] of this.byteIds.entries()) {
      for (const [right, rightId] of this.byteIds.entries()) {
        if (leftId < 0 || rightId < 0) continue;
        this.byteMerges[256 * left + right] = this.merges.get(this.pair(leftId, rightId)) ?? -1;
      }
    }
    this.wholePieces = model.ignore_merges ? vocabulary : null;
  }

  encode(text: string): number[] {
    const ids: number[] = [];
    const { normalizer, pre_tokenizer: cut } = this.cutter;
    const normalized = normalizer === null ? text : normalizer(text);
    for (const piece of cut === null ? [normalized] : cut(normalized, {})) for (const id of this.encodePiece(piece)) ids.push(id);
    return ids;
  }

  private encodePiece(piece: string): readonly number[] {
    const known = this.words.get(piece);
    if (known !== undefined) return known;
    const ids = this.merge(this.utf8.encode(piece));
    if (piece.length > maxWordCharacters) return ids;
    if (this.words.size >= maxWords) this.words.clear();
    this.words.set(piece, ids);
    return ids;
  }

  private pair(left: number, right: number): number {
    return left * this.idBound + right;
  }

  private merge(bytes: Uint8Array): number[] {
    if (this.wholePieces !== null) {
      const whole = this.wholePieces.get(Array.from(bytes, (byte) => byteLevelCharacters[byte]).join(""));
      if (whole !== undefined) return [whole];
    }
    const count = bytes.length;
    // Of the token that begins at each byte; -1 where none does.
    const ids = new Int32Array(count);
    const next = new Int32Array(count);
    const previous = new Int32Array(count);
    for (let at = 0; at < count; at++) {
      ids[at] = this.byteIds[bytes[at] as number] as number;
      next[at] = at + 1;
      previous[at] = at - 1;
    }
    const mergeAt = (at: number) => {
      const right = next[at] as number;
      if (at < 0 || right >= count) return undefined;
      const [one, other] = [ids[at] as number, ids[right] as number];
      return one < 0 || other < 0 ? undefined : this.merges.get(this.pair(one, other));
    };
    // The soonest merge first, and of equal ones the first in the text: one number orders both.
    const queue = new MinHeap();
    const consider = (at: number) => {
      const merge = mergeAt(at);
      if (merge !== undefined) queue.push(merge * count + at);
    };
    for (let at = 0; at + 1 < count; at++) {
      const merge = this.byteMerges[256 * (bytes[at] as number) + (bytes[at + 1] as number)] as number;
      if (merge >= 0) queue.push(merge * count + at);
    }
    for (let first = queue.pop(); first !== undefined; first = queue.pop()) {
      const at = first % count;
      const merge = (first - at) / count;
      // One of the two may have become something else since.
      if (mergeAt(at) !== merge) continue;
      const right = next[at] as number;
      const after = next[right] as number;
      ids[at] = this.merged[merge] as number;
      ids[right] = -1;
      next[at] = after;
      if (after < count) previous[after] = at;
      consider(at);
      consider(previous[at] as number);
    }
    const left: number[] = [];
    for (const id of ids) if (id >= 0) left.push(id);
    return left;
  }
}

/** All but the last step, which makes bytes of what was cut. */
function cutsOf(preTokenizer: PreTokenizer | null): object[] {
  const steps = preTokenizer?.type === "Sequence" ? (preTokenizer.pretokenizers ?? []) : preTokenizer ? [preTokenizer] : [];
  const last = steps.at(-1);
  if (last?.type !== "ByteLevel") throw new Error(`pre_tokenizer: ${last?.type ?? "none"}; only byte-level tokenizers are supported`);
  if (last.add_prefix_space) throw new Error("pre_tokenizer: add_prefix_space is not supported");
  const cuts: object[] = steps.slice(0, -1);
  if (last.use_regex ?? true) cuts.push({ type: "Split", pattern: { Regex: usualCuts }, behavior: "Isolated", invert: false });
  return cuts;
}

class MinHeap {
  private readonly items: number[] = [];

  push(item: number): void {
    const { items } = this;
    let at = items.length;
    for (let parent = (at - 1) >> 1; at > 0 && (items[parent] as number) > item; parent = (at - 1) >> 1) {
      items[at] = items[parent] as number;
      at = parent;
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const { items } = this;
    const first = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return first;
    let at = 0;
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      if (child + 1 < items.length && (items[child + 1] as number) < (items[child] as number)) child++;
      if ((items[child] as number) >= last) break;
      items[at] = items[child] as number;
      at = child;
    }
    items[at] = last;
    return first;
  }
}
