// A model folder's tokens as the matcher takes them.
import { loadTokenizerFiles, type ModelSource } from "../model/folder.ts";
import { TokenTable } from "../model/token-table.ts";
import type { Vocabulary } from "./matcher.ts";
import { isToolMark } from "./tool-syntax.ts";

/** Added tokens are no ordinary text, and a grammar's text is never one of them, but for the marks of tool calls. `size`: of the model's vocabulary. Throws without a tokenizer.json. */
export function grammarVocabulary(model: ModelSource, size: number): Vocabulary {
  const json = loadTokenizerFiles(model, size)?.json;
  if (json === undefined) throw new Error("the model has no tokenizer.json");
  const table = new TokenTable(json);
  const added = new Set(json.added_tokens.filter(({ content }) => !isToolMark(content)).map(({ id }) => id));
  const none = new Uint8Array(0);
  return { size, tokens: Array.from({ length: size }, (_, id) => (added.has(id) ? none : table.bytesOf(id))) };
}
