// The requests of a run, from a seed: completions of token ids, of every length that the workers hold, greedy and sampled, with penalties,
// logprobs, stops. Pure.
import type { Random } from "../../lib/simulator/random.ts";

export interface PoolRequest {
  index: number;
  promptTokens: number;
  /** Of POST /v1/completions, without `stream`. */
  body: Record<string, unknown>;
}

export interface PoolOptions {
  count: number;
  model: string;
  vocabSize: number;
  /** Prompt and answer together. */
  maxPositions: number;
  maxTokens: number;
}

/** Prompts of one block, of a few, around the bound of local prefill, of many: share and range of each. */
const lengths: [share: number, least: number, most: number][] = [
  [0.3, 1, 200],
  [0.25, 240, 340],
  [0.35, 341, 800],
  [0.09, 801, 1500],
  [0.01, 1501, 3000],
];

export function makePool(random: Random, options: PoolOptions): PoolRequest[] {
  return Array.from({ length: options.count }, (_, index) => makeRequest(random, index, options));
}

function makeRequest(random: Random, index: number, { model, vocabSize, maxPositions, maxTokens }: PoolOptions): PoolRequest {
  const answerTokens = random.between(16, maxTokens);
  const longest = maxPositions - answerTokens;
  const [least, most] = pickLength(random);
  const promptTokens = Math.min(longest, random.between(Math.min(least, longest), Math.min(most, longest)));
  const sampled = random.chance(0.6);
  return {
    index,
    promptTokens,
    body: {
      model,
      prompt: Array.from({ length: promptTokens }, () => random.between(0, vocabSize - 1)),
      max_tokens: answerTokens,
      seed: random.word(),
      temperature: sampled ? 1 : 0,
      ignore_eos: random.chance(0.8),
      ...(random.chance(0.3) ? { presence_penalty: 0.7, frequency_penalty: 0.3 } : {}),
      ...(random.chance(0.2) ? { repetition_penalty: 1.2 } : {}),
      ...(sampled && random.chance(0.3) ? { top_p: 0.9 } : {}),
      ...(random.chance(0.3) ? { logprobs: random.between(0, 5) } : {}),
      ...(random.chance(0.2) ? { stop: [String.fromCharCode(random.between(97, 122)).repeat(2)] } : {}),
      return_token_ids: true,
      pelagic: { digests: true },
    },
  };
}

function pickLength(random: Random): [least: number, most: number] {
  let left = random.real();
  for (const [share, least, most] of lengths) {
    left -= share;
    if (left < 0) return [least, most];
  }
  return [1, 200];
}
