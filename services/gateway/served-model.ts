// The model as the gateway serves it: what the main loop needs to know of it. The tokenizer's own files are only its threads' to keep.
import type { Model } from "../lib/contracts/http.ts";
import type { ModelFolder, SamplingDefaults } from "../lib/model/folder.ts";
import { type ToolSyntax, toolSyntaxOf } from "../lib/grammar/tool-syntax.ts";
import { TokenTable } from "../lib/model/token-table.ts";
import type { ModelBuild } from "./model-workers.ts";

export interface ServedModel extends ModelBuild {
  vocabularySize: number;
  eosTokenIds: number[];
  samplingDefaults: SamplingDefaults;
  /** null: no tokenizer; only prompts given as token ids can be served. */
  table: TokenTable | null;
  toolSyntax: ToolSyntax;
  /** Seconds since 1970. */
  created: number;
}

export function servedModel(folder: ModelFolder, { name, filesDigest }: ModelBuild): ServedModel {
  const added = folder.tokenizer?.json.added_tokens.map(({ content }) => content) ?? [];
  return {
    name,
    filesDigest,
    vocabularySize: folder.vocabularySize,
    eosTokenIds: folder.eosTokenIds,
    samplingDefaults: folder.samplingDefaults,
    table: folder.tokenizer === null ? null : new TokenTable(folder.tokenizer.json),
    toolSyntax: toolSyntaxOf(added, folder.tokenizer?.chatTemplate ?? null),
    created: Math.floor(Date.now() / 1000),
  };
}

export function describeModel(model: ServedModel, maxPositions: number | null): Model {
  return {
    id: model.name,
    object: "model",
    created: model.created,
    owned_by: "pelagic",
    root: model.name,
    parent: null,
    max_model_len: maxPositions,
  };
}
