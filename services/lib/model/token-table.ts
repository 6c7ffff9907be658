// Token id to the bytes it stands for, for byte-level tokenizers: one flat array, so that detokenizing is a copy.
import type { TokenizerJson } from "./folder.ts";

const none = new Uint8Array(0);

export class TokenTable {
  private readonly bytes: Uint8Array;
  /** Token t is bytes[offsets[t], offsets[t + 1]). */
  private readonly offsets: Uint32Array;
  private readonly special: Uint8Array;
  /** By token: its text, as far as somebody asked; null: it has none of its own. */
  private readonly texts = new Map<number, string | null>();
  private readonly addedIds: Map<string, number>;
  /** Bytes of the longest token that ordinary text can become: a prompt of n bytes has at least n / this tokens. */
  readonly longestTokenBytes: number;

  constructor(json: TokenizerJson) {
    const decoder = json.decoder as { type: string; decoders?: { type: string }[] } | null | undefined;
    const decoders = decoder?.type === "Sequence" ? (decoder.decoders ?? []) : decoder ? [decoder] : [];
    if (!decoders.some((one) => one.type === "ByteLevel")) {
      throw new Error(`tokenizer.json: decoder: ${decoder?.type ?? "none"}; only byte-level tokenizers are supported`);
    }
    const vocabulary = json.model.vocab;
    const tokens: Uint8Array[] = [];
    let longest = 1;
    for (const [token, id] of Object.entries(vocabulary)) {
      const bytes = byteLevelBytes(token);
      if (tokens[id] !== undefined) throw new Error(`tokenizer.json: model.vocab.${token}: ${id} is another token's id`);
      tokens[id] = bytes;
      longest = Math.max(longest, bytes.length);
    }
    const missing = [...byteOfCharacter].find(([character, byte]) => isInUtf8(byte) && !Object.hasOwn(vocabulary, character));
    if (missing) throw new Error(`tokenizer.json: model.vocab: no token for byte ${missing[1]}, which no prompt could have then`);
    const encoder = new TextEncoder();
    for (const added of json.added_tokens) tokens[added.id] = encoder.encode(added.content);
    this.longestTokenBytes = longest;
    this.offsets = new Uint32Array(tokens.length + 1);
    for (let id = 0; id < tokens.length; id++) this.offsets[id + 1] = (this.offsets[id] as number) + (tokens[id]?.length ?? 0);
    this.bytes = new Uint8Array(this.offsets[tokens.length] as number);
    for (let id = 0; id < tokens.length; id++) this.bytes.set(tokens[id] ?? none, this.offsets[id]);
    this.special = new Uint8Array(tokens.length);
    for (const added of json.added_tokens) this.special[added.id] = added.special ? 1 : 0;
    this.addedIds = new Map(json.added_tokens.map((added) => [added.content, added.id]));
  }

  /** One that came from another thread, as plain data. */
  static revived(table: TokenTable): TokenTable {
    return Object.assign(Object.create(TokenTable.prototype) as TokenTable, table);
  }

  /** Empty for an id without a token. */
  bytesOf(id: number): Uint8Array {
    if (id + 1 >= this.offsets.length) return none;
    return this.bytes.subarray(this.offsets[id], this.offsets[id + 1]);
  }

  /** null: its bytes are no whole characters. */
  textOf(id: number): string | null {
    const known = this.texts.get(id);
    if (known !== undefined) return known;
    const bytes = this.bytesOf(id);
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString();
    const whole = Buffer.compare(Buffer.from(text), bytes) === 0 ? text : null;
    if (id + 1 < this.offsets.length) this.texts.set(id, whole);
    return whole;
  }

  /** Those of all of them, one after another: a view of each would cost more than its bytes. */
  bytesOfAll(ids: ArrayLike<number>): Uint8Array {
    const from = (id: number) => this.offsets[id] ?? 0;
    const until = (id: number) => this.offsets[id + 1] ?? from(id);
    let length = 0;
    for (let i = 0; i < ids.length; i++) length += until(ids[i] as number) - from(ids[i] as number);
    const all = new Uint8Array(length);
    let to = 0;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      for (let at = from(id), end = until(id); at < end; at++) all[to++] = this.bytes[at] as number;
    }
    return all;
  }

  /** A token that never belongs to an answer's text, like the end of sentence. */
  isSpecial(id: number): boolean {
    return this.special[id] === 1;
  }

  /** The id of a token that stands apart from ordinary text, like `</think>`. */
  addedTokenId(content: string): number | undefined {
    return this.addedIds.get(content);
  }
}

/** GPT-2's printable character for each byte. */
export const byteLevelCharacters: readonly string[] = (() => {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();
const byteOfCharacter: ReadonlyMap<string, number> = new Map(byteLevelCharacters.map((character, byte) => [character, byte]));

function isInUtf8(byte: number): boolean {
  return byte < 0xf5 && byte !== 0xc0 && byte !== 0xc1;
}

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = byteOfCharacter.get(character);
    // Not in byte-level form: a token added over the vocabulary (its own entry follows), which stands for itself.
    if (byte === undefined) return new TextEncoder().encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
