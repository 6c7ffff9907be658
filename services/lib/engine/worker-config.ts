// What a prefill and a decode worker can be told, with defaults that fit a laptop, and any card: several workers may share one, so how much of
// it is whose must be said (README.md, "On a GPU").
import { expertPolicies } from "../contracts/expert-placement.ts";
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { kvBlockTokens } from "../contracts/block-key.ts";
import { type KvDtype, kvDtypes } from "../contracts/frame.ts";
import type { EngineConfig } from "./engine.ts";
import { backends, weightDtypes, type LoadOptions } from "./native.ts";
import { stepMs } from "./step-work.ts";

/** The numerics probe takes 200 rows. */
const minKvBlocks = 4;
const positive = z.coerce.number().int().positive();

export const workerFields = {
  workerId: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  /** A Hugging Face model folder. */
  model: z.string().min(1),
  /** The name clients use; the folder's own name unless given. */
  modelName: z.string().min(1).optional(),
  kvDtype: z.enum(kvDtypes).default("bfloat16"),
  /** 64-token KV blocks; default: as many as kvMemoryMib holds. */
  kvBlocks: z.coerce.number().int().min(minKvBlocks).optional(),
  kvMemoryMib: positive.default(256),
  threads: positive.default(availableParallelism()),
  /** cuda: the GPU. Its latents have other bits than the CPU's, so all workers of a service take the same. */
  backend: z.enum(backends).default("cpu"),
  /** Of the GPU's projections and MLPs; bfloat16 unless given. fp8 has other bits again. */
  weightDtype: z.enum(weightDtypes).optional(),
  isa: z.enum(["auto", "scalar", "avx2", "avx512"]).default("auto"),
  /** Rows in one step over all requests. */
  tokenBudget: positive.default(512),
  /** Rows of one request in one step. */
  chunkTokens: positive.default(256),
  maxSequences: positive.default(32),
  maxWaiting: positive.default(256),
};

/** A decode worker's own. */
export const decodeFields = {
  /** Prompts with fewer uncached tokens than this are prefilled here. The gateway routes by the same setting. */
  localPrefillTokens: z.coerce.number().int().nonnegative().default(256),
  /** Frame bytes on their way to this worker at most, over all transfers. */
  receiveBudgetMib: positive.default(16),
};

/** Of a decode worker that shares its model's experts with others. */
export const rankFields = {
  /** 1: it has all of them. */
  rankCount: positive.default(1),
  rank: z.coerce.number().int().nonnegative().default(0),
  /** Only ranks of the same name meet; the model's name unless given. */
  rankGroup: z.string().min(1).max(256).optional(),
  /** Ranks [n * ranksPerNode, ...) are on node n; default: all on one. */
  ranksPerNode: positive.optional(),
  /** Copies of experts beside one of each. */
  redundantExperts: z.coerce.number().int().nonnegative().default(0),
  /** A file with the plan to begin with (contracts/expert-placement.ts); default: experts in order. */
  expertPlan: z.string().min(1).optional(),
  /** A row goes to the copy on its own rank, or else its own node, where there is one. */
  localExperts: z.stringbool().default(false),
  /** By what they are placed anew. */
  expertPolicy: z.enum(expertPolicies).default("balanced"),
  /** How often experts are placed anew by their load, while ranks serve; 0: never. */
  rebalanceSeconds: z.coerce.number().int().nonnegative().max(86_400).default(60),
  /** Of the checkpoint, read for that. */
  expertLoadMibPerSecond: positive.default(256),
  /** Where other ranks reach this one: a numeric address, and a port, 0 for any free one. */
  rankHost: z.string().min(1).default("127.0.0.1"),
  rankPort: z.coerce.number().int().min(0).max(65535).default(0),
};

const rankSchema = z.object(rankFields);
export type RankConfig = z.output<typeof rankSchema>;

const workerSchema = z.object(workerFields);
export type WorkerConfig = z.output<typeof workerSchema>;

export function engineConfig(config: WorkerConfig, kvBlocks: number): EngineConfig {
  return {
    kvBlocks,
    tokenBudget: config.tokenBudget,
    chunkTokens: config.chunkTokens,
    chunkAlignTokens: kvBlockTokens,
    maxSequences: config.maxSequences,
    maxWaiting: config.maxWaiting,
    stepMs,
  };
}

/** How to load the model; sizes the cache from the model's config.json. The native loader checks everything else. */
export async function loadOptions(config: WorkerConfig): Promise<LoadOptions> {
  return {
    dir: config.model,
    backend: config.backend,
    ...(config.weightDtype === undefined ? {} : { weightDtype: config.weightDtype }),
    kvDtype: config.kvDtype,
    stepRows: config.tokenBudget,
    threads: config.threads,
    isa: config.isa,
    kvBlocks: config.kvBlocks ?? (await blocksInMemory(config.model, config.kvDtype, config.kvMemoryMib)),
  };
}

/** As the engine's KvLayout::row_bytes: fp8 has a float32 scale for each 128 latents, and the rotated key in bfloat16. */
function rowBytes(kvDtype: KvDtype, latent: number, rope: number): number {
  if (kvDtype === "fp8") return latent + 4 * Math.ceil(latent / 128) + 2 * rope;
  return (latent + rope) * (kvDtype === "float32" ? 4 : 2);
}

async function blocksInMemory(dir: string, kvDtype: KvDtype, kvMemoryMib: number): Promise<number> {
  const fields = z.object({ num_hidden_layers: positive, kv_lora_rank: positive, qk_rope_head_dim: positive });
  const path = join(dir, "config.json");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    throw new Error(`${path} cannot be read: a model is a Hugging Face folder with config.json and safetensors`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // As below.
  }
  const parsed = fields.safeParse(json);
  // Let the native loader say what it supports: its message is the better one.
  if (!parsed.success) return minKvBlocks;
  const { num_hidden_layers, kv_lora_rank, qk_rope_head_dim } = parsed.data;
  const blockBytes = num_hidden_layers * kvBlockTokens * rowBytes(kvDtype, kv_lora_rank, qk_rope_head_dim);
  return Math.max(minKvBlocks, Math.floor((kvMemoryMib * 1024 * 1024) / blockBytes));
}
