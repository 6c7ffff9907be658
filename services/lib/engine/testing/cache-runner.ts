// For tests: a model whose "latent" of a row is a digest of the latent before it, read from the cache, and the token; and whose next token
// depends on the row's latents in every layer. A missing, stale or swapped block therefore changes the answer.
import { createHash } from "node:crypto";
import { kvBlockTokens } from "../../contracts/block-key.ts";
import { frameHeaderBytes, headerIntact, payloadIntact, sealFrame } from "../../contracts/frame.ts";
import type { ModelRunner, RunOptions, RunResult, SampledToken, SequenceWork } from "../model-runner.ts";

const layerCount = 3;
const vocabSize = 97;
const rowBytes = 16;

export class CacheRunner implements ModelRunner {
  /** Its experts are asked for nothing: a test adds to the tally what it wants. */
  readonly info: ModelRunner["info"] = {
    layerCount,
    vocabSize,
    latentWidth: rowBytes / 4,
    maxPositionEmbeddings: 4096,
    moeLayerCount: 2,
    logicalExpertCount: 3,
  };
  readonly rowBytes = rowBytes;
  readonly cache: Uint8Array;
  private readonly blockCount: number;
  private running = false;
  steps = 0;
  /** Rows computed so far: what a cache hit saves. */
  rows = 0;
  /** Called in every call before its first step; a test holds the call here. */
  beforeStep: () => Promise<void> = async () => {};

  constructor(blockCount: number) {
    this.blockCount = blockCount;
    this.cache = new Uint8Array(layerCount * blockCount * kvBlockTokens * rowBytes).fill(0xee);
  }

  async run(work: readonly SequenceWork[], options: RunOptions = {}): Promise<RunResult[]> {
    if (this.running) throw new Error("two calls at once");
    this.running = true;
    try {
      await this.beforeStep();
      const results = [await this.step(work, options)];
      for (let step = 1; step < (options.steps ?? 1); step++) {
        const next: SequenceWork[] = [];
        work.forEach((sequence, i) => {
          const token = results.at(-1)?.sequences[i]?.sampled?.token;
          if (token === undefined || sequence.sampling?.stopTokens?.includes(token)) return;
          next.push({ ...sequence, tokens: Uint32Array.of(token), firstRow: sequence.firstRow + step });
        });
        if (next.length < work.length) break;
        results.push(await this.step(next, options));
      }
      return results;
    } finally {
      this.running = false;
    }
  }

  private async step(work: readonly SequenceWork[], options: RunOptions): Promise<RunResult> {
    this.steps++;
    for (let layer = 0; layer < layerCount; layer++) {
      for (const sequence of work) {
        for (const [i, token] of sequence.tokens.entries()) this.computeRow(layer, sequence, sequence.firstRow + i, token);
      }
      options.onLayer?.(layer);
      await Promise.resolve();
    }
    this.rows += work.reduce((sum, sequence) => sum + sequence.tokens.length, 0);
    return {
      expertCounts: new Uint32Array(0),
      sequences: work.map((sequence) => {
        const end = sequence.firstRow + sequence.tokens.length;
        const digests: bigint[] = [];
        for (let row = Math.max(sequence.firstRow, sequence.logitsFrom); row < end; row++) digests.push(this.rowDigest(sequence, row));
        const scored = Array.from(sequence.scores?.next ?? [], (token, i) => scoreOf(digests[i] as bigint, token));
        const result = { digests, ...(sequence.scores && { scored }) };
        if (!sequence.sampling || digests.length === 0) return result;
        const last = digests[digests.length - 1] as bigint;
        return { ...result, sampled: { token: Number(last % BigInt(vocabSize)), logprob: -1, rank: 0, top: [] } };
      }),
    };
  }

  packRows(layer: number, block: number, firstRow: number, rowCount: number, out: Uint8Array, offset: number): bigint {
    const from = this.at(layer, block, firstRow);
    out.set(this.cache.subarray(from, from + rowCount * rowBytes), offset);
    return this.xxh64(out.subarray(offset, offset + rowCount * rowBytes));
  }

  packFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): void {
    this.packRows(layer, block, firstRow, rowCount, frame, frameHeaderBytes);
    sealFrame(frame, this.xxh64);
  }

  unpackFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): boolean {
    if (!headerIntact(frame, this.xxh64)) return false;
    this.cache.set(frame.subarray(frameHeaderBytes, frameHeaderBytes + rowCount * rowBytes), this.at(layer, block, firstRow));
    return payloadIntact(frame, this.xxh64);
  }

  xxh64(data: Uint8Array): bigint {
    return createHash("md5").update(data).digest().readBigUInt64LE();
  }

  async close(): Promise<void> {}

  private computeRow(layer: number, sequence: SequenceWork, row: number, token: number): void {
    const hash = createHash("md5").update(`${layer}:${token}`);
    if (row > 0) hash.update(this.rowAt(layer, sequence, row - 1));
    this.cache.set(hash.digest(), this.offsetOf(layer, sequence, row));
  }

  private rowDigest(sequence: SequenceWork, row: number): bigint {
    const hash = createHash("md5");
    for (let layer = 0; layer < layerCount; layer++) hash.update(this.rowAt(layer, sequence, row));
    return hash.digest().readBigUInt64LE();
  }

  private rowAt(layer: number, sequence: SequenceWork, row: number): Uint8Array {
    const from = this.offsetOf(layer, sequence, row);
    return this.cache.subarray(from, from + rowBytes);
  }

  private offsetOf(layer: number, sequence: SequenceWork, row: number): number {
    return this.at(layer, sequence.blocks[Math.floor(row / kvBlockTokens)] as number, row % kvBlockTokens);
  }

  private at(layer: number, block: number, row: number): number {
    if (block >= this.blockCount || row >= kvBlockTokens) throw new Error(`block ${block} row ${row}`);
    return ((layer * this.blockCount + block) * kvBlockTokens + row) * rowBytes;
  }
}

function scoreOf(digest: bigint, token: number): SampledToken {
  return { token, logprob: -Number((digest + BigInt(token)) % 1009n), rank: 1, top: [] };
}
