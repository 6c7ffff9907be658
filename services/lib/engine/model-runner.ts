// The only door to native code: sequences in, tokens and latents out. The simulator has another implementation of the same interface.
import { createHash } from "node:crypto";
import { kvBlockTokens } from "../contracts/block-key.ts";
import type { ExpertPlan } from "../contracts/expert-placement.ts";
import type {
  LoadOptions,
  ModelInfo,
  NativeModel,
  PlacementState,
  RankCounters,
  RankMeeting,
  RowSampling,
  StepBatch,
  StepResult,
} from "./native.ts";
import { nativeModule } from "./native.ts";

/** Some rows of one sequence. */
export interface SequenceWork {
  /** Token ids of rows [firstRow, firstRow + tokens.length). */
  tokens: Uint32Array;
  firstRow: number;
  /** P, see the row rule. */
  promptLength: number;
  /** The sequence's blocks, covering all rows up to the last of this work, and of the steps after it. */
  blocks: readonly number[];
  /** Logits are computed for rows from here on; at or beyond the end: none. */
  logitsFrom: number;
  /** How to sample after the last row; null: not at all. */
  sampling: RowSampling | null;
  /** Of these rows the next token is known, and how likely it was is asked for: the first rows with logits, in order. */
  scores?: ScoredRows;
}

export interface ScoredRows {
  /** Each row's next token. */
  next: Uint32Array;
  /** Most likely tokens reported beside it, 0 to 20. */
  top: number;
}

export interface SampledToken {
  token: number;
  /** NaN where not asked for. */
  logprob: number;
  /** Its place among all tokens, 1 for the likeliest; 0 where not asked for. */
  rank: number;
  top: [token: number, logprob: number][];
}

export interface SequenceResult {
  sampled?: SampledToken;
  /** One for each row of `scores`; a token of -1: the row has no logits that are numbers. */
  scored?: SampledToken[];
  /** One for each logits row, where asked for. */
  digests: bigint[];
  /** [logits rows, vocab], where asked for. */
  logits?: Float32Array;
}

export interface RunOptions {
  /**
   * Steps at most, see StepBatch; one unless given. A runner may make fewer, never none: it stops after the step that samples a stop token, and
   * when budgetMs have passed.
   */
  steps?: number;
  budgetMs?: number;
  digests?: boolean;
  logits?: boolean;
  /** All rows' latents of this layer are in the cache; later layers still compute. */
  onLayer?: (layer: number) => void;
}

export interface RunResult {
  sequences: SequenceResult[];
  /** [MoE layers, logical experts] tokens routed in this step. */
  expertCounts: Uint32Array;
}

export interface ModelRunner {
  readonly info: Pick<ModelInfo, "layerCount" | "vocabSize" | "latentWidth" | "maxPositionEmbeddings"> &
    Partial<
      Pick<
        ModelInfo,
        "moeLayerCount" | "logicalExpertCount" | "expertsPerToken" | "gemmFlopsPerRow" | "attentionFlopsPerPair" | "expandsPrompts"
      >
    >;
  /** Bytes of one row of one layer as cached and sent. */
  readonly rowBytes: number;
  /** One result for each step made. */
  run(work: readonly SequenceWork[], options?: RunOptions): Promise<RunResult[]>;
  /** Copies rows of one block and layer to out[offset..]; returns their XXH64. */
  packRows(layer: number, block: number, firstRow: number, rowCount: number, out: Uint8Array, offset: number): bigint;
  /** Writes a frame's payload and both checksums behind its header, see NativeModel. */
  packFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): void;
  /** False where a checksum differs: then what was stored, if anything, must not count. */
  unpackFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): boolean;
  xxh64(data: Uint8Array): bigint;
  /** Of a rank that shares experts with others: the group's name. */
  readonly rankGroup?: string;
  /** How evenly ranks share the experts' load of late, by MoE layer, where this one knows. */
  balancedness?(): number[] | undefined;
  /** Where experts are shared: [MoE layer][slot] -> logical expert, from now on. Returns why not, if so. */
  placeExperts?(layers: number[][]): string | undefined;
  close(): Promise<void>;
}

/** Loads a model folder with the native engine. Rejects with an error that names the file, tensor or field at fault. */
export async function loadNativeRunner(
  options: LoadOptions,
  onProgress?: (bytesDone: number, bytesTotal: number) => void,
): Promise<NativeRunner> {
  return new NativeRunner(await nativeModule().loadModel(options, onProgress), options);
}

export class NativeRunner implements ModelRunner {
  readonly info: ModelInfo;
  readonly rowBytes: number;
  private readonly model: NativeModel;

  constructor(model: NativeModel, options: LoadOptions) {
    this.model = model;
    this.info = model.info;
    this.rowBytes = model.info.latentWidth * (options.kvDtype === "float32" ? 4 : 2);
  }

  async run(work: readonly SequenceWork[], options: RunOptions = {}): Promise<RunResult[]> {
    const batch = packBatch(work, options);
    const steps = await this.model.step(batch, options.onLayer).catch(endOnDeviceFailure);
    return steps.map((step) => this.bySequence(work, step));
  }

  private bySequence(work: readonly SequenceWork[], result: StepResult): RunResult {
    const vocab = this.info.vocabSize;
    let row = 0;
    const sequences = work.map((sequence) => {
      const count = logitsRowCount(sequence);
      const last = row + count - 1;
      const out: SequenceResult = { digests: result.digests ? Array.from(result.digests.subarray(row, row + count)) : [] };
      if (result.logits) out.logits = result.logits.slice(row * vocab, (row + count) * vocab);
      if (sequence.sampling && count > 0) out.sampled = sampledAt(result, last);
      if (sequence.scores) {
        const first = row;
        out.scored = Array.from(sequence.scores.next, (token, i) => scoredAt(result, first + i, token, vocab));
      }
      row += count;
      return out;
    });
    return { sequences, expertCounts: result.expertCounts };
  }

  packRows(layer: number, block: number, firstRow: number, rowCount: number, out: Uint8Array, offset: number): bigint {
    return onDevice(() => this.model.packRows(layer, block, firstRow, rowCount, out, offset));
  }

  packFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): void {
    onDevice(() => this.model.packFrame(layer, block, firstRow, rowCount, frame));
  }

  unpackFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): boolean {
    return onDevice(() => this.model.unpackFrame(layer, block, firstRow, rowCount, frame));
  }

  /** With ranks, see NativeModel. */
  meet(meeting: RankMeeting): Promise<void> {
    return this.model.meet(meeting).catch(endOnDeviceFailure);
  }

  conform(plan: ExpertPlan): Promise<void> {
    return this.model.conform(plan).catch(endOnDeviceFailure);
  }

  stagePlan(plan: ExpertPlan, bytesPerSecond: number): boolean {
    return this.model.stagePlan(plan, bytesPerSecond);
  }

  get placementState(): PlacementState {
    return this.model.placementState;
  }

  get planInForce(): ExpertPlan {
    return this.model.planInForce;
  }

  get rankPort(): number | undefined {
    return this.model.rankPort;
  }

  get rankCounters(): RankCounters {
    return this.model.rankCounters;
  }

  readWeights(expertCounts: Uint32Array): Promise<{ bytes: number; seconds: number }> {
    return this.model.readWeights(expertCounts);
  }

  xxh64(data: Uint8Array): bigint {
    return nativeModule().xxh64(data);
  }

  close(): Promise<void> {
    return this.model.close();
  }
}

/**
 * A GPU that failed is of no more use to this process: it ends with that error, at once, and whoever started it starts it again. Its requests
 * go on elsewhere, as when a worker is lost.
 */
export function endIfDeviceFailed(error: unknown): void {
  if ((error as { code?: unknown }).code !== "device") return;
  queueMicrotask(() => {
    throw error;
  });
}

function endOnDeviceFailure(error: unknown): never {
  endIfDeviceFailed(error);
  throw error;
}

function onDevice<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    return endOnDeviceFailure(error);
  }
}

function sampledAt(result: StepResult, row: number): SampledToken {
  const topTokens = result.topTokens[row] ?? [];
  const topLogprobs = result.topLogprobs[row] ?? [];
  return {
    token: result.tokens[row] as number,
    logprob: result.logprobs[row] as number,
    rank: result.ranks[row] as number,
    top: Array.from(topTokens, (token, i) => [token, topLogprobs[i] as number]),
  };
}

/** Above every logit: a token with this bias is chosen where its own is above -infinity, and logprobs know of no bias. */
const certainBias = Float32Array.of(3e38);

function scoring(token: number, top: number): RowSampling {
  return { temperature: 0, seed: 0n, choice: 0, logprobs: top, biasTokens: Uint32Array.of(token), biasValues: certainBias };
}

function scoredAt(result: StepResult, row: number, token: number, vocabSize: number): SampledToken {
  const chosen = sampledAt(result, row);
  if (chosen.token === token || chosen.token < 0) return chosen;
  // Impossible, by its own logit.
  return { ...chosen, token, logprob: Number.NEGATIVE_INFINITY, rank: vocabSize };
}

function logitsRowCount(work: SequenceWork): number {
  return Math.max(0, work.firstRow + work.tokens.length - Math.max(work.logitsFrom, work.firstRow));
}

function packBatch(work: readonly SequenceWork[], options: RunOptions): StepBatch {
  const steps = options.steps ?? 1;
  const rows = work.reduce((sum, sequence) => sum + sequence.tokens.length, 0);
  const tokens = new Uint32Array(rows);
  const blockOffsets = new Uint32Array(work.length + 1);
  const blockTable: number[] = [];
  const logitRows: number[] = [];
  const sampling: (RowSampling | null)[] = [];
  let at = 0;
  work.forEach((sequence, i) => {
    tokens.set(sequence.tokens, at);
    const end = sequence.firstRow + sequence.tokens.length + steps - 1;
    for (const block of sequence.blocks.slice(0, Math.ceil(end / kvBlockTokens))) blockTable.push(block);
    blockOffsets[i + 1] = blockTable.length;
    const count = logitsRowCount(sequence);
    const firstLogits = sequence.tokens.length - count;
    for (let row = firstLogits; row < sequence.tokens.length; row++) {
      const next = sequence.scores?.next[row - firstLogits];
      logitRows.push(at + row);
      if (next !== undefined) sampling.push(scoring(next, sequence.scores?.top ?? 0));
      else sampling.push(row === sequence.tokens.length - 1 ? sequence.sampling : null);
    }
    at += sequence.tokens.length;
  });
  return {
    tokens,
    rowCounts: Uint32Array.from(work, (sequence) => sequence.tokens.length),
    startPositions: Uint32Array.from(work, (sequence) => sequence.firstRow),
    promptLengths: Uint32Array.from(work, (sequence) => sequence.promptLength),
    blockTable: Uint32Array.from(blockTable),
    blockOffsets,
    logitRows: Uint32Array.from(logitRows),
    sampling,
    digests: options.digests ?? false,
    logits: options.logits ?? false,
    steps,
    budgetMs: options.budgetMs ?? 0,
  };
}

const probeRows = 200;

/**
 * The numerics id: SHA-256 over the latents of a fixed 200-token probe in every layer, as cached, and the
 * digests of its logits. Two workers with equal
 * ids compute equal bits, whatever they run on. Uses the first four blocks of a cache that nothing else uses yet.
 */
export async function measureNumericsId(runner: ModelRunner): Promise<string> {
  const { layerCount, vocabSize, maxPositionEmbeddings } = runner.info;
  const rows = Math.min(probeRows, maxPositionEmbeddings);
  const tokens = Uint32Array.from({ length: rows }, (_, i) => (i * 7919 + 13) % vocabSize);
  const blocks = Array.from({ length: Math.ceil(rows / kvBlockTokens) }, (_, i) => i);
  const [result] = await runner.run([{ tokens, firstRow: 0, promptLength: rows, blocks, logitsFrom: 0, sampling: null }], {
    digests: true,
  });
  const hash = createHash("sha256");
  const latents = new Uint8Array(kvBlockTokens * runner.rowBytes);
  for (let layer = 0; layer < layerCount; layer++) {
    for (const block of blocks) {
      const count = Math.min(kvBlockTokens, rows - block * kvBlockTokens);
      runner.packRows(layer, block, 0, count, latents, 0);
      hash.update(latents.subarray(0, count * runner.rowBytes));
    }
  }
  for (const digest of result?.sequences[0]?.digests ?? []) hash.update(digest.toString(16));
  return hash.digest("hex");
}
