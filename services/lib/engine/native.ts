// The native engine as TypeScript sees it: the shape of kernels/node, and the one place that loads it.
// Nothing else in the tree requires the addon; see model-runner.ts for the object the worker loop uses.
import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ExpertPlan } from "../contracts/expert-placement.ts";
import type { KvDtype } from "../contracts/frame.ts";

export type Isa = "scalar" | "avx2" | "avx512";
export const backends = ["cpu", "cuda"] as const;
export type Backend = (typeof backends)[number];
export const weightDtypes = ["bfloat16", "fp8"] as const;
export type WeightDtype = (typeof weightDtypes)[number];

export interface LoadOptions {
  /** A Hugging Face model folder: config.json and model.safetensors, or shards with an index. */
  dir: string;
  /** cuda needs pelagic_cuda.so beside the addon and an H100 or H200. Default: cpu. */
  backend?: Backend;
  /** cuda only: what projections and MLPs are held and multiplied in; fp8: e4m3 with a scale for each 128 x 128. Default: bfloat16. */
  weightDtype?: WeightDtype;
  /** float32: on cpu only. fp8: on cuda only. */
  kvDtype: KvDtype;
  /** Compute threads, at least 1; on cuda they load the weights. */
  threads: number;
  /** "auto" takes the widest one the processor has. All of them give the same bits. */
  isa: Isa | "auto";
  /** KV blocks (64 tokens, all layers) to allocate. */
  kvBlocks: number;
  /** Rows of the largest step to come: on cuda the memory for it is taken at load, with ranks when they first meet, or that fails. */
  stepRows?: number;
  /** Given: the model has the experts of one rank's slots only, and steps once it has met the other ranks. */
  ranks?: RankLoadOptions;
}

export interface RankLoadOptions {
  rank: number;
  plan: ExpertPlan;
  /** Ranks [n * ranksPerNode, ...) are of node n. */
  ranksPerNode: number;
  /** A copy of an expert on the own rank, else one on the own node, is taken before others. */
  localFirst: boolean;
  /** Where other ranks call this one: a numeric address, and a port or 0 for a free one. */
  host: string;
  port: number;
  /** 32 bytes that callers must know. */
  secret: Uint8Array;
  /** The group is over, and no step was running that could have said so. The error has a code, as those of calls have. */
  onLost?: (error: Error & RankLoss) => void;
}

/** Of an error with the code "rank-lost". */
export interface RankLoss {
  message: string;
  /** The rank that ended the group goes on in another one: nobody is lost. */
  byItself?: boolean;
}

/** How a rank is called. */
export interface RankAddress {
  host: string;
  port: number;
  secret: Uint8Array;
}

export interface RankMeeting {
  /** 16 bytes that all members of the group agree on. */
  group: Uint8Array;
  /** By rank; null: the rank is not of this group. */
  ranks: readonly (RankAddress | null)[];
  /** Until all members are connected. */
  meetMs: number;
  /** A rank that sends not even a sign of life for so long is lost. */
  silenceMs: number;
  /** And so is one that is there and does not come to a step. */
  longestWaitMs: number;
}

/** All only grow. A copy is one row sent to one rank, however many of its experts are there. */
export interface RankCounters {
  steps: number;
  /** Of these: without rows of this rank. */
  emptySteps: number;
  keptCopies: number;
  nodeCopies: number;
  farCopies: number;
  /** Rows that this rank's experts computed, for all ranks. */
  computedRows: number;
  sentBytes: number;
  /** Beside them, from card to card; 0 where rows go through host memory. */
  cardBytes: number;
  waitSeconds: number;
  /** Processor time of the thread that steps: of this rank's experts. */
  expertSeconds: number;
  /** Of the rank whose experts took most of it, in each layer of each step of the group. */
  criticalExpertSeconds: number;
  /** The same, and that of the rank which took most for all else of a step: what no group of these ranks can be quicker than. */
  criticalStepSeconds: number;
  /** Of the rank whose experts had most rows, in each layer of each step of the group. */
  criticalComputedRows: number;
  /** Rows of a layer by the number of nodes that they went to. */
  nodesReached: number[];
}

/** What becomes of a rank's expert plan while steps go on. */
export interface PlacementState {
  /** Of the plan that a layer was taken from last. */
  version: number;
  /** The first MoE layers of it; the others are of the plan before. */
  layersTaken: number;
  /** Version of the plan whose experts are loaded; 0: none. */
  next: number;
  /** Of the next plan. */
  readyLayers: number;
  /** Why no more of them get ready; empty: nothing. */
  failure: string;
  /** Both only grow. */
  loadedExperts: number;
  loadedBytes: number;
}

export interface ModelInfo {
  modelType: "deepseek_v2" | "deepseek_v3";
  layerCount: number;
  hiddenSize: number;
  vocabSize: number;
  headCount: number;
  /** kv_lora_rank + qk_rope_head_dim: the numbers cached per token and layer (576 for the real models). */
  latentWidth: number;
  /** What they take in the KV dtype. */
  kvRowBytes: number;
  maxPositionEmbeddings: number;
  moeLayerCount: number;
  logicalExpertCount: number;
  expertsPerToken: number;
  /** Bytes of weights as held in memory (packed). */
  weightBytes: number;
  /** Bytes of packed weights that one decode token reads (active experts only). */
  activeWeightBytes: number;
  /** Floating point operations of one row's GEMMs (attention over the context not counted). */
  gemmFlopsPerRow: number;
  /** Floating point operations of attention for one (row, key) pair, all layers. */
  attentionFlopsPerPair: number;
  /** Rows before P-1 are computed in another form, with other bits than a row at the same place would have from P-1 on. */
  expandsPrompts: boolean;
  backend: Backend;
  isa: Isa;
  threads: number;
}

/** Sampling of one logits row. Absent fields are off. The noise is Philox(seed, choice, position). */
export interface RowSampling {
  /** 0 is greedy: the largest logit after bias and penalties, the lowest id on a tie. */
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Token ids and what is added to their logits; equal lengths. */
  biasTokens?: Uint32Array;
  biasValues?: Float32Array;
  /** Prompt and output ids so far; needed only with penalties. */
  promptTokens?: Uint32Array;
  outputTokens?: Uint32Array;
  /** Bit id % 32 of word id / 32: the ids that may be sampled at all; absent: every id. */
  allowedTokens?: Uint32Array;
  /** 64-bit seed. */
  seed: bigint;
  choice: number;
  /** Most likely tokens to report beside the chosen one (0 to 20); absent: no logprobs at all. */
  logprobs?: number;
  /** Where a call makes several steps: tokens after which it makes no other. */
  stopTokens?: Uint32Array;
}

/** One native call: some rows of some sequences, in the order given; once, or several steps of decode. */
export interface StepBatch {
  /** Token ids of all rows, sequence after sequence. */
  tokens: Uint32Array;
  /** Rows of each sequence in this call; the sum is tokens.length. */
  rowCounts: Uint32Array;
  /** Absolute position of each sequence's first row. Latents of all earlier positions are in its blocks. */
  startPositions: Uint32Array;
  /** Original prompt length P of each sequence (rows before P-1 are prefill rows; without expandsPrompts it is ignored). */
  promptLengths: Uint32Array;
  /** Block ids of all sequences, concatenated; sequence i has blockTable[blockOffsets[i] .. blockOffsets[i+1]). */
  blockTable: Uint32Array;
  /** rowCounts.length + 1 offsets. */
  blockOffsets: Uint32Array;
  /** Indices into the rows of this call, ascending, whose logits are wanted. */
  logitRows: Uint32Array;
  /** One entry for each logit row; null: logits are computed but nothing is sampled. */
  sampling: (RowSampling | null)[];
  /** Report the XXH64 digest of each float32 logits row (raw logits, before bias and penalties). */
  digests?: boolean;
  /** Report the raw logits themselves, [logitRows, vocab]. */
  logits?: boolean;
  /**
   * Steps at most; one unless given. In each further one every sequence goes on with the token it has just sampled: all have one row, sampled,
   * and blocks for the rows to come. The call ends with the step that samples a stop token or nothing valid, or once budgetMs have passed.
   */
  steps?: number;
  /** Needed with `steps`: no further step begins when so much time has passed. */
  budgetMs?: number;
}

/** What one step computed. */
export interface StepResult {
  /** Sampled id for each logit row, -1 where nothing was sampled. */
  tokens: Int32Array;
  /** Natural-log probability of each sampled token (of the raw model distribution), NaN where not asked for. */
  logprobs: Float32Array;
  /** The place of each sampled token among the raw logits, 1 for the best; 0 where not asked for. */
  ranks: Int32Array;
  /** For each logit row: the most likely ids and logprobs, best first; absent where not asked for. */
  topTokens: (Uint32Array | undefined)[];
  topLogprobs: (Float32Array | undefined)[];
  digests?: BigUint64Array;
  logits?: Float32Array;
  /** Tokens routed to each logical expert in this step, [moeLayerCount, logicalExpertCount]. */
  expertCounts: Uint32Array;
}

export interface NativeModel {
  readonly info: ModelInfo;
  /**
   * Runs the batch on the engine's own threads; the promise settles on the Node loop, with one result for each step made. onLayer(layer) is
   * called when a layer's latents of all rows of this call are in the cache, while later layers still compute. One call at a time: a second
   * one rejects.
   */
  step(batch: StepBatch, onLayer?: (layer: number) => void): Promise<StepResult[]>;
  /** Copies the latents of rows [firstRow, firstRow + rowCount) of one block and layer, in the KV dtype, to out[offset..]; returns their XXH64. */
  packRows(layer: number, block: number, firstRow: number, rowCount: number, out: Uint8Array, offset: number): bigint;
  /**
   * The payload of a KV frame, rows as for packRows, and both checksums, behind a header that lacks only these (contracts/frame.ts): one pass
   * over the payload.
   */
  packFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): void;
  /**
   * The inverse. False where a checksum differs: a damaged header stores nothing, a damaged payload has been stored, and the caller must not
   * count its rows.
   */
  unpackFrame(layer: number, block: number, firstRow: number, rowCount: number, frame: Uint8Array): boolean;
  /** Copies a whole block, all layers, inside the cache (a fork's private copy of a partial block). */
  copyBlock(from: number, to: number): void;
  /**
   * For benches: reads the weights that a step reads whose expertCounts these are, and nothing else, with the same threads: what such a
   * step cannot beat.
   */
  readWeights(expertCounts: Uint32Array): Promise<{ bytes: number; seconds: number }>;
  /**
   * With ranks: leaves the group there was, and joins the one that all its members meet for now. One call at a time, with step(). Rejects with
   * "rank-lost" naming who did not come.
   */
  meet(meeting: RankMeeting): Promise<void>;
  /**
   * With ranks: loads the experts of `plan` beside those in force, in place of a plan that was being loaded, at most so many bytes of the checkpoint
   * a second. Ranks of a group take its layers, one after the other, in the same steps, as soon as all of them have a layer. False: there is a plan
   * at least as new.
   */
  stagePlan(plan: ExpertPlan, bytesPerSecond: number): boolean;
  /** With ranks: leaves the group there was, and goes by `plan` from now on. One call at a time, with step(). */
  conform(plan: ExpertPlan): Promise<void>;
  readonly placementState: PlacementState;
  /** As of now, layer by layer. */
  readonly planInForce: ExpertPlan;
  /** With ranks: the port that it listens on. */
  readonly rankPort?: number;
  readonly rankCounters: RankCounters;
  close(): Promise<void>;
}

/** Every error thrown has a code: "checkpoint" (file, tensor or config field is wrong), "argument", "memory", "busy",
 * "device" (the GPU is not there or has failed: after a failure only a new process can use it), "rank-lost" (the
 * group of ranks is over: the same step can be made again in another one), "internal". */
export interface NativeModule {
  loadModel(options: LoadOptions, onProgress?: (bytesDone: number, bytesTotal: number) => void): Promise<NativeModel>;
  /** XXH64 of the bytes, seed 0 unless given. */
  xxh64(data: Uint8Array, seed?: bigint): bigint;
  /** The widest instruction set this processor has of those built. */
  bestIsa(): Isa;
  /** Bench ceilings: read-only passes over `bytes` of memory split over the threads, best of a few, in bytes/s; and the float32 FMA rate in FLOP/s. */
  measureReadBandwidth(bytes: number, threads: number): Promise<number>;
  measureFmaRate(threads: number): Promise<number>;
}

let loaded: NativeModule | undefined;

/** The files of which the engine is made: the addon, and for cuda the library that it opens. */
export function engineFiles(backend: "cpu" | "cuda"): string[] {
  const addon = process.env.PELAGIC_ADDON ?? join(findRoot(dirname(fileURLToPath(import.meta.url))), "build", "native", "pelagic.node");
  return backend === "cpu" ? [addon] : [addon, process.env.PELAGIC_CUDA_LIBRARY ?? join(dirname(addon), "pelagic_cuda.so")];
}

/** The addon built by `./pelagic build`, loaded once. Throws an error that says how to build it. */
export function nativeModule(): NativeModule {
  if (loaded) return loaded;
  const [path] = engineFiles("cpu") as [string];
  if (!existsSync(path)) {
    throw new Error(`the native engine is not built (${path} is missing): run ./pelagic build`);
  }
  loaded = createRequire(import.meta.url)(path) as NativeModule;
  return loaded;
}

function findRoot(from: string): string {
  for (let dir = from; ; dir = dirname(dir)) {
    if (existsSync(join(dir, "pelagic"))) return dir;
    if (dirname(dir) === dir) throw new Error(`no Pelagic tree above ${from}`);
  }
}
