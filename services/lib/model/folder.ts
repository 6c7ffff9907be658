// What the gateway reads of a Hugging Face model folder: no weights, only the small files beside them. From the folder, or as a worker sent them.
import { readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import { maxModelFileBytes, type SmallFileName, smallFileNames } from "../contracts/model-files.ts";

/** The engine's own bound (kernels/graph/config.cpp): ids are indices, and memory grows with the largest. */
const maxVocabulary = 2 ** 24;
const maxEosTokens = 64;

const tokenId = z
  .number()
  .int()
  .min(0)
  .max(maxVocabulary - 1);
const ids = z.union([tokenId, z.array(tokenId).max(maxEosTokens)], { error: `a token id, or up to ${maxEosTokens} of them` });
const ModelConfig = z.looseObject({ vocab_size: z.number().int().min(1).max(maxVocabulary), eos_token_id: ids.nullish() });
/** Defaults within what workers take; 0 and -1 are off. */
const GenerationConfig = z.looseObject({
  eos_token_id: ids.nullish(),
  temperature: z.number().min(0).max(100).nullish(),
  top_p: z.union([z.literal(0), z.number().min(1e-6).max(1)]).nullish(),
  top_k: z
    .number()
    .int()
    .min(-1)
    .max(2 ** 31 - 1)
    .nullish(),
  repetition_penalty: z.number().min(1e-3).max(1e3).nullish(),
});
const AddedToken = z.looseObject({ id: tokenId, content: z.string().min(1), special: z.boolean().default(false) });
const TokenizerJson = z.looseObject({
  added_tokens: z.array(AddedToken).default([]),
  // Entries are checked by hand: a schema would take seconds over a hundred thousand.
  model: z.looseObject({ vocab: z.custom<Record<string, number>>(isObject, { error: "an object of token to id expected" }) }),
  decoder: z.looseObject({ type: z.string() }).nullish(),
});
const namedToken = z.union([z.string(), z.looseObject({ content: z.string() }).transform((token) => token.content)]);
const TokenizerConfig = z.looseObject({
  bos_token: namedToken.nullish(),
  eos_token: namedToken.nullish(),
  add_bos_token: z.boolean().nullish(),
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
});
export type TokenizerJson = z.infer<typeof TokenizerJson>;
export type TokenizerConfig = z.infer<typeof TokenizerConfig>;

export interface TokenizerFiles {
  json: TokenizerJson;
  config: TokenizerConfig;
  /** Jinja source; null where the model has none. */
  chatTemplate: string | null;
}

/** Sampling that the model's authors recommend. */
export interface SamplingDefaults {
  temperature: number;
  topP?: number;
  topK?: number;
  repetitionPenalty?: number;
}

/** A model's small files in memory. */
export interface ModelFiles {
  /** Where they are from: stands before a file's name in errors. */
  origin: string;
  files: ReadonlyMap<SmallFileName, Uint8Array>;
}

/** A folder's path, or what was read of one. */
export type ModelSource = string | ModelFiles;

export interface ModelFolder {
  path: string;
  /** The folder's own name. */
  name: string;
  vocabularySize: number;
  eosTokenIds: number[];
  samplingDefaults: SamplingDefaults;
  /** null: the folder has no tokenizer.json; only prompts given as token ids can be served. */
  tokenizer: TokenizerFiles | null;
}

/** Throws an error that names the file that is too large. */
export function readModelFiles(folder: string): ModelFiles {
  const origin = resolve(folder);
  const files = new Map<SmallFileName, Uint8Array>();
  let bytes = 0;
  for (const name of smallFileNames) {
    const file = join(origin, name);
    const stat = statSync(file, { throwIfNoEntry: false });
    if (!stat?.isFile()) continue;
    bytes += stat.size;
    if (bytes > maxModelFileBytes) throw new Error(`${file}: more than ${maxModelFileBytes} bytes, of all small files together`);
    files.set(name, readFileSync(file));
  }
  return { origin, files };
}

/** Throws an error that names the file and what is wrong with it. */
export function loadModelFolder(source: ModelSource): ModelFolder {
  const model = filesOf(source);
  const path = model.origin;
  const config = readJson(model, "config.json", ModelConfig);
  if (config === null) throw new Error(`${path} has no config.json: it is not a model folder`);
  const generation = readJson(model, "generation_config.json", GenerationConfig) ?? {};
  const eosFile = fileOf(
    model,
    generation.eos_token_id === undefined || generation.eos_token_id === null ? "config.json" : "generation_config.json",
  );
  const eosTokenIds = [generation.eos_token_id ?? config.eos_token_id ?? []].flat();
  for (const id of eosTokenIds) {
    if (id >= config.vocab_size) throw new Error(`${eosFile}: eos_token_id: ${beyond(id, config.vocab_size)}`);
  }
  return {
    path,
    name: basename(path),
    vocabularySize: config.vocab_size,
    eosTokenIds,
    samplingDefaults: {
      temperature: generation.temperature ?? 1,
      topP: positive(generation.top_p),
      topK: positive(generation.top_k),
      repetitionPenalty: positive(generation.repetition_penalty),
    },
    tokenizer: loadTokenizerFiles(model, config.vocab_size),
  };
}

/** `vocabularySize`: config.json's; every id is below. */
export function loadTokenizerFiles(source: ModelSource, vocabularySize = maxVocabulary): TokenizerFiles | null {
  const model = filesOf(source);
  const file = fileOf(model, "tokenizer.json");
  const json = readJson(model, "tokenizer.json", TokenizerJson);
  if (json === null) return null;
  for (const [token, id] of Object.entries(json.model.vocab) as [string, unknown][]) {
    const fault = !Number.isInteger(id) || (id as number) < 0 ? `${String(id)} is no token id` : beyond(id as number, vocabularySize);
    if (fault !== null) throw new Error(`${file}: model.vocab.${token}: ${fault}`);
  }
  for (const [i, { id }] of json.added_tokens.entries()) {
    const fault = beyond(id, vocabularySize);
    if (fault !== null) throw new Error(`${file}: added_tokens.${i}.id: ${fault}`);
  }
  const config = readJson(model, "tokenizer_config.json", TokenizerConfig) ?? {};
  const named = config.chat_template;
  const inConfig = typeof named === "string" ? named : (named?.find((entry) => entry.name === "default")?.template ?? null);
  return { json, config, chatTemplate: readText(model, "chat_template.jinja") ?? inConfig };
}

function beyond(id: number, vocabularySize: number): string | null {
  return id < vocabularySize ? null : `${id}, where config.json has vocab_size ${vocabularySize}`;
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function positive(value: number | null | undefined): number | undefined {
  return value !== null && value !== undefined && value > 0 ? value : undefined;
}

function filesOf(source: ModelSource): ModelFiles {
  return typeof source === "string" ? readModelFiles(source) : source;
}

function fileOf({ origin }: ModelFiles, name: SmallFileName): string {
  return join(origin, name);
}

function readJson<S extends z.ZodType>(model: ModelFiles, name: SmallFileName, schema: S): z.output<S> | null {
  const source = readText(model, name);
  if (source === null) return null;
  const file = fileOf(model, name);
  let json: unknown;
  try {
    json = JSON.parse(source);
  } catch (error) {
    throw new Error(`${file}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new Error(`${file}: ${issue?.path.join(".") || "content"}: ${issue?.message ?? "invalid"}`);
}

function readText({ files }: ModelFiles, name: SmallFileName): string | null {
  const content = files.get(name);
  // TextDecoder takes no shared memory.
  return content === undefined ? null : Buffer.from(content.buffer, content.byteOffset, content.byteLength).toString("utf8");
}
