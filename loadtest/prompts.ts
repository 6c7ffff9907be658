// Prompts of a wanted length for a server whose tokenizer nobody knows: words, and how many tokens one of them takes, measured by asking.
import { uniform } from "./random.ts";

/** Common ones, all of four letters: one token each where words are, five where bytes are. */
const words = (
  "time year life hand part case week work word home room area fact book side kind head line game name team idea body face door road land " +
  "tree bird fish rain snow wind fire moon star ship boat city farm food milk salt gold iron rock sand hill lake wood song play read look " +
  "walk talk help care love hope"
).split(" ");

/** So many words, the same for the same seed. */
export function wordsOf(seed: number, count: number): string {
  const random = uniform(seed);
  return Array.from({ length: count }, () => words[Math.floor(random() * words.length)]).join(" ");
}

export interface PromptShape {
  promptTokens: number;
  /** What follows what is shared is its own. */
  seed: number;
  blocks: { ids: number[]; tokensEach: number } | null;
}

/** As measured: a prompt of n words takes `base + perWord * n` tokens. */
export interface WordCost {
  base: number;
  perWord: number;
}

export function promptText({ promptTokens, seed, blocks }: PromptShape, cost: WordCost): string {
  const count = (tokens: number) => Math.max(1, Math.round(tokens / cost.perWord));
  const total = count(Math.max(1, promptTokens - cost.base));
  if (blocks === null) return wordsOf(seed, total);
  const each = count(blocks.tokensEach);
  const shared = blocks.ids.map((id) => wordsOf(id + 1_000_003, each)).join(" ");
  const text = shared.split(" ").slice(0, total);
  return text.length === total ? text.join(" ") : `${text.join(" ")} ${wordsOf(seed, total - text.length)}`.trim();
}
