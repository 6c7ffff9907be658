// Prompts of a wanted length for a server whose tokenizer nobody knows: words, and how many tokens one of them takes, measured by asking.
import { uniform } from "./random.ts";

/** Common ones, all of four letters: one token each where words are, five where bytes are. */
const words = (
  "time year life hand part case week work word home room area fact book side kind head line game name team idea body face door road land " +
  "tree bird fish rain snow wind fire moon star ship boat city farm food milk salt gold iron rock sand hill lake wood song play read look " +
  "walk talk help care love hope"
).split(" ");

/** With the space behind each. */
const wordBytes = Buffer.from(`${words.join(" ")} `, "latin1");
const bytesEach = 5;

/** So many words, the same for the same seed. */
export function wordsOf(seed: number, count: number): string {
  return textOf([{ seed, count }]);
}

/** Made in one buffer, since a long prompt is made where others are being sent: 100,000 words take two milliseconds. */
function textOf(parts: readonly { seed: number; count: number }[]): string {
  const bytes = Buffer.allocUnsafe(bytesEach * parts.reduce((sum, { count }) => sum + count, 0));
  let to = 0;
  for (const { seed, count } of parts) {
    const random = uniform(seed);
    for (let word = 0; word < count; word++) {
      const from = bytesEach * Math.floor(random() * words.length);
      for (let i = 0; i < bytesEach; i++) bytes[to++] = wordBytes[from + i] as number;
    }
  }
  return bytes.toString("latin1", 0, Math.max(0, to - 1));
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
  let left = total;
  const parts = (blocks?.ids ?? []).map((id) => {
    const own = Math.min(left, count(blocks?.tokensEach ?? 0));
    left -= own;
    return { seed: id + 1_000_003, count: own };
  });
  return textOf([...parts, { seed, count: left }]);
}
