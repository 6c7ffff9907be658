// A model for the simulator: cheap, and as forgetful of nothing as a real one. A row's latent is mixed from the row before it, read from the
// cache, and its token; logits are mixed from every cached row of the sequence, in every layer. So a block that is missing, stale, cut short or
// swapped changes all that follows. Sampling depends on seed, choice, position and penalties, as the real sampler does.
import { kvBlockTokens } from "../contracts/block-key.ts";
import type { Clock } from "../contracts/bus.ts";
import { frameHeaderBytes, headerIntact, payloadIntact, sealFrame } from "../contracts/frame.ts";
import type { ModelRunner, RunOptions, RunResult, SampledToken, SequenceResult, SequenceWork } from "../engine/model-runner.ts";
import type { RowSampling } from "../engine/native.ts";

export const layerCount = 2;
export const vocabSize = 61;
const rowWords = 4;
const rowBytes = 4 * rowWords;
const blockWords = kvBlockTokens * rowWords;

/** A call takes so long, and so much more for each row. */
export interface Pace {
  callMs: number;
  rowMs: number;
}

export class SimRunner implements ModelRunner {
  readonly info = { layerCount, vocabSize, latentWidth: rowWords, maxPositionEmbeddings: 4096 };
  readonly rowBytes = rowBytes;
  private readonly clock: Clock | null;
  private readonly blockCount: number;
  private readonly cache: Uint32Array;
  private readonly pace: Pace;
  private readonly build: number;
  /** Rows computed so far, in all steps. */
  rows = 0;

  /** Without a clock, no time passes. Runners of unequal builds compute unequal bits. */
  constructor(blockCount: number, clock: Clock | null, pace: Pace, build = 0) {
    this.blockCount = blockCount;
    this.clock = clock;
    this.pace = pace;
    this.build = build;
    this.cache = new Uint32Array(layerCount * blockCount * blockWords).fill(0xdeadbeef);
  }

  async run(work: readonly SequenceWork[], options: RunOptions = {}): Promise<RunResult[]> {
    const begunMs = this.clock?.nowMs() ?? 0;
    const results: RunResult[] = [];
    let current = work;
    for (;;) {
      const rows = current.reduce((sum, { tokens }) => sum + tokens.length, 0);
      this.rows += rows;
      for (let layer = 0; layer < layerCount; layer++) {
        for (const sequence of current) this.computeLayer(layer, sequence);
        await this.pass((this.pace.callMs + rows * this.pace.rowMs) / layerCount);
        options.onLayer?.(layer);
      }
      const sequences = current.map((sequence) => this.finish(sequence, options.digests ?? false));
      results.push({ sequences, expertCounts: new Uint32Array(0) });
      const late = this.clock !== null && this.clock.nowMs() - begunMs >= (options.budgetMs ?? 0);
      if (results.length >= (options.steps ?? 1) || late) return results;
      const next = continued(current, sequences);
      if (next === null) return results;
      current = next;
    }
  }

  packRows(layer: number, block: number, firstRow: number, rowCount: number, out: Uint8Array, offset: number): bigint {
    const from = this.at(layer, block) + firstRow * rowWords;
    const words = this.cache.subarray(from, from + rowCount * rowWords);
    out.set(new Uint8Array(words.buffer, words.byteOffset, words.byteLength), offset);
    return this.xxh64(out.subarray(offset, offset + rowCount * rowBytes));
  }

  packFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): void {
    this.packRows(layer, block, firstRow, rowCount, frame, frameHeaderBytes);
    sealFrame(frame, this.xxh64);
  }

  unpackFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): boolean {
    if (!headerIntact(frame, this.xxh64)) return false;
    const bytes = frame.slice(frameHeaderBytes, frameHeaderBytes + rowCount * rowBytes);
    this.cache.set(new Uint32Array(bytes.buffer), this.at(layer, block) + firstRow * rowWords);
    return payloadIntact(frame, this.xxh64);
  }

  /** Not XXH64, but as sure to see a damaged byte. */
  xxh64(data: Uint8Array): bigint {
    const aligned = data.byteOffset % 4 === 0 ? data : data.slice();
    const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length >> 2);
    let low = 0x9e3779b9 ^ data.length;
    let high = 0x85ebca6b;
    for (let i = 0; i < words.length; i++) {
      low = mix(low, words[i] as number);
      high = mix(high, low);
    }
    for (let i = words.length << 2; i < data.length; i++) low = mix(low, data[i] as number);
    return (BigInt(mix(high, low)) << 32n) | BigInt(low);
  }

  async close(): Promise<void> {}

  private pass(ms: number): Promise<void> {
    const { clock } = this;
    return clock === null ? Promise.resolve() : new Promise((resolve) => clock.setTimer(ms, resolve));
  }

  private computeLayer(layer: number, { tokens, firstRow, blocks }: SequenceWork): void {
    for (let i = 0; i < tokens.length; i++) {
      const row = firstRow + i;
      const to = this.rowAt(layer, blocks, row);
      const from = row === 0 ? -1 : this.rowAt(layer, blocks, row - 1);
      for (let word = 0; word < rowWords; word++) {
        const before = from < 0 ? 0x5bd1e995 : (this.cache[from + word] as number);
        this.cache[to + word] = mix(mix(before, (tokens[i] as number) + 1), row * 8 + layer * 4 + word + this.build * 0x10000);
      }
    }
  }

  private finish(sequence: SequenceWork, digests: boolean): SequenceResult {
    const end = sequence.firstRow + sequence.tokens.length;
    const result: SequenceResult = { digests: [] };
    if (sequence.logitsFrom >= end) return result;
    for (let row = Math.max(sequence.firstRow, sequence.logitsFrom); row < end; row++) {
      const [low, high] = this.logits(sequence, row);
      if (digests) result.digests.push((BigInt(high) << 32n) | BigInt(low));
      const next = sequence.scores?.next[row - Math.max(sequence.firstRow, sequence.logitsFrom)];
      if (next !== undefined) {
        result.scored ??= [];
        result.scored.push(scored(low, next, sequence.scores?.top ?? 0));
      } else if (row === end - 1 && sequence.sampling) result.sampled = sample(low, sequence.sampling, row);
    }
    return result;
  }

  /** Reads rows 0 to `row` of every layer. */
  private logits({ blocks }: SequenceWork, row: number): [low: number, high: number] {
    let low = 0x2545f491;
    let high = 0x6c8e9cf5;
    for (let layer = 0; layer < layerCount; layer++) {
      for (let first = 0; first <= row; first += kvBlockTokens) {
        const from = this.rowAt(layer, blocks, first);
        const end = from + Math.min(kvBlockTokens, row + 1 - first) * rowWords;
        for (let i = from; i < end; i++) low = mix(low, this.cache[i] as number);
        high = mix(high, low);
      }
    }
    return [low, high];
  }

  private rowAt(layer: number, blocks: readonly number[], row: number): number {
    return this.at(layer, blocks[Math.floor(row / kvBlockTokens)] as number) + (row % kvBlockTokens) * rowWords;
  }

  private at(layer: number, block: number): number {
    if (!(block >= 0 && block < this.blockCount)) throw new Error(`block ${block} of ${this.blockCount}`);
    return (layer * this.blockCount + block) * blockWords;
  }
}

/** The next step of each sequence, or null where one has ended. */
function continued(work: readonly SequenceWork[], results: readonly SequenceResult[]): SequenceWork[] | null {
  const next: SequenceWork[] = [];
  for (const [i, sequence] of work.entries()) {
    const token = results[i]?.sampled?.token;
    const { sampling } = sequence;
    if (token === undefined || sampling === null || sampling.stopTokens?.includes(token)) return null;
    const end = sequence.firstRow + sequence.tokens.length;
    next.push({
      ...sequence,
      tokens: Uint32Array.of(token),
      firstRow: end,
      logitsFrom: end,
      sampling: sampling.outputTokens ? { ...sampling, outputTokens: Uint32Array.of(...sampling.outputTokens, token) } : sampling,
    });
  }
  return next;
}

function sample(logits: number, sampling: RowSampling, row: number): SampledToken {
  let noise = logits;
  if (sampling.temperature > 0) {
    noise = mix(mix(noise, Number(sampling.seed & 0xffffffffn)), row);
    noise = mix(noise, sampling.choice);
  }
  if (sampling.presencePenalty) {
    for (const token of sampling.outputTokens ?? []) noise = mix(noise, token);
    noise = mix(noise, sampling.promptTokens?.length ?? 0);
  }
  const logprob = sampling.logprobs === undefined ? Number.NaN : -(logits % 1009) / 1009;
  return { token: noise % vocabSize, logprob, rank: 0, top: tops(logits, noise, sampling.logprobs ?? 0) };
}

function scored(logits: number, token: number, top: number): SampledToken {
  const noise = mix(logits, token);
  return { token, logprob: -(noise % 1009) / 1009, rank: 1 + (noise % vocabSize), top: tops(logits, logits, top) };
}

function tops(logits: number, noise: number, count: number): [number, number][] {
  return Array.from({ length: count }, (_, i) => [mix(noise, i) % vocabSize, -1 - (logits % 97) / 97]);
}

/** One round of murmur3: every bit of both goes into the result. */
function mix(state: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = (k << 15) | (k >>> 17);
  let h = state ^ Math.imul(k, 0x1b873593);
  h = (h << 13) | (h >>> 19);
  h = (Math.imul(h, 5) + 0xe6546b64) | 0;
  h ^= h >>> 16;
  return h >>> 0;
}
