// What the gateway reads of a Hugging Face model folder: no weights, only the small files beside them.
import { readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";

const ids = z.union([z.number().int(), z.array(z.number().int())]);
const ModelConfig = z.looseObject({ vocab_size: z.number().int().positive(), eos_token_id: ids.nullish() });
const GenerationConfig = z.looseObject({
  eos_token_id: ids.nullish(),
  temperature: z.number().nullish(),
  top_p: z.number().nullish(),
  top_k: z.number().int().nullish(),
  repetition_penalty: z.number().nullish(),
});
const AddedToken = z.looseObject({ id: z.number().int().nonnegative(), content: z.string().min(1), special: z.boolean().default(false) });
const TokenizerJson = z.looseObject({
  added_tokens: z.array(AddedToken).default([]),
  model: z.looseObject({ vocab: z.unknown() }),
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

/** Throws an error that names the file and what is wrong with it. */
export function loadModelFolder(folder: string): ModelFolder {
  const path = resolve(folder);
  const config = readJson(join(path, "config.json"), ModelConfig);
  if (config === null) throw new Error(`${path} has no config.json: it is not a model folder`);
  const generation = readJson(join(path, "generation_config.json"), GenerationConfig) ?? {};
  const eos = generation.eos_token_id ?? config.eos_token_id ?? [];
  return {
    path,
    name: basename(path),
    vocabularySize: config.vocab_size,
    eosTokenIds: Array.isArray(eos) ? eos : [eos],
    samplingDefaults: {
      temperature: generation.temperature ?? 1,
      topP: positive(generation.top_p),
      topK: positive(generation.top_k),
      repetitionPenalty: positive(generation.repetition_penalty),
    },
    tokenizer: loadTokenizerFiles(path),
  };
}

export function loadTokenizerFiles(path: string): TokenizerFiles | null {
  const json = readJson(join(path, "tokenizer.json"), TokenizerJson);
  if (json === null) return null;
  const config = readJson(join(path, "tokenizer_config.json"), TokenizerConfig) ?? {};
  const named = config.chat_template;
  const inConfig = typeof named === "string" ? named : (named?.find((entry) => entry.name === "default")?.template ?? null);
  return { json, config, chatTemplate: readText(join(path, "chat_template.jinja")) ?? inConfig };
}

function positive(value: number | null | undefined): number | undefined {
  return value !== null && value !== undefined && value > 0 ? value : undefined;
}

function readJson<S extends z.ZodType>(file: string, schema: S): z.output<S> | null {
  const source = readText(file);
  if (source === null) return null;
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

function readText(file: string): string | null {
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) return null;
  return readFileSync(file, "utf8");
}
