// Names for full KV blocks by what they hold (design: "The latent block is the unit").
//   root     = SHA-256(model digest, cache layout, KV dtype, numerics id, tenant salt)
//   blockKey = SHA-256(parent key, the 64 token ids, and where decode's form of row begins, if it does so in this block)
// On CUDA prompt rows are computed in another form than decode's (rows from P-1 on), with other bits. A backend with one form
// of row needs no such note.
import { createHash, hash } from "node:crypto";

export const kvBlockTokens = 64;

/** What one key is made of, which fits: hashed at once, for it is done for every block of every prompt. */
const hashed = Buffer.alloc(1024);

/** Everything that must be equal for two workers' blocks to be interchangeable. */
export interface CacheIdentity {
  modelDigest: string;
  numericsId: string;
  kvDtype: string;
}

/** 64 hex digits. */
export function rootKey(identity: CacheIdentity, cacheSalt: string): string {
  const hash = createHash("sha256");
  for (const part of [identity.modelDigest, "mla", identity.kvDtype, identity.numericsId, cacheSalt]) {
    hash.update(`${part.length}:${part}`);
  }
  return hash.digest("hex");
}

/**
 * Keys of the full blocks among tokens[0, rowCount), first block first; extends `known`, keys already derived for the same tokens.
 * decodeForm: the first row in decode's form; Infinity with one form of row.
 */
export function blockKeys(
  root: string,
  tokens: Uint32Array,
  rowCount: number,
  known: string[] = [],
  decodeForm = Number.POSITIVE_INFINITY,
): string[] {
  const keys = known.slice();
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  for (let block = keys.length; (block + 1) * kvBlockTokens <= rowCount; block++) {
    let length = hashed.write(block === 0 ? root : (keys[block - 1] as string), "latin1");
    hashed.set(bytes.subarray(4 * block * kvBlockTokens, 4 * (block + 1) * kvBlockTokens), length);
    length += 4 * kvBlockTokens;
    // Later blocks have it from their parent.
    const promptRows = decodeForm - block * kvBlockTokens;
    if (promptRows >= 0 && promptRows < kvBlockTokens) length += hashed.write(`decode's from ${promptRows}`, length, "latin1");
    keys.push(hash("sha256", hashed.subarray(0, length), "hex"));
  }
  return keys;
}

/** The form in which workers announce keys: enough to route by, short enough to send. */
export function shortKey(key: string): string {
  return key.slice(0, 16);
}

/** Rows of a P-token prompt that a cache hit may cover: whole blocks below row P-1, whose logits decode must compute. */
export function reusableRows(promptLength: number): number {
  return Math.floor((promptLength - 1) / kvBlockTokens) * kvBlockTokens;
}
