// What the stubs answer: it follows from the request's seed alone, so that every reader can tell whether it got its own answer, and all of it.
import { Detokenizer } from "../../gateway/detokenizer.ts";
import type { TokenTable } from "../../lib/model/token-table.ts";

/** Tokens whose text is plain letters and spaces: no end of sentence, nothing that waits for a second half. */
export function plainTokens(table: TokenTable, vocabularySize: number): Uint32Array {
  const plain: number[] = [];
  for (let id = 0; id < vocabularySize; id++) {
    const bytes = table.bytesOf(id);
    if (bytes.length > 0 && !table.isSpecial(id) && bytes.every(isPlain)) plain.push(id);
  }
  return Uint32Array.from(plain);
}

export function answerToken(plain: Uint32Array, seed: number, index: number): number {
  let hash = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(index + 1, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 13), 0x297a2d39);
  return plain[(hash >>> 0) % plain.length] as number;
}

export function answerText(table: TokenTable, plain: Uint32Array, seed: number, tokens: number): string {
  const detokenizer = new Detokenizer(table);
  return Array.from({ length: tokens }, (_, index) => detokenizer.push(answerToken(plain, seed, index))).join("");
}

function isPlain(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a);
}
