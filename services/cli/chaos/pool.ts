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

/** Prompts of a block or two with long answers, which outgrow a small cache; around the bound of local prefill; of many blocks. */
const lengths: { share: number; least: number; most: number; answers: number }[] = [
  { share: 0.3, least: 1, most: 120, answers: 2.5 },
  { share: 0.25, least: 240, most: 340, answers: 1 },
  { share: 0.35, least: 341, most: 800, answers: 1 },
  { share: 0.09, least: 801, most: 1500, answers: 1 },
  { share: 0.01, least: 1501, most: 3000, answers: 1 },
];

export function makePool(random: Random, options: PoolOptions): PoolRequest[] {
  return Array.from({ length: options.count }, (_, index) => makeRequest(random, index, options));
}

function makeRequest(random: Random, index: number, { model, vocabSize, maxPositions, maxTokens }: PoolOptions): PoolRequest {
  const { least, most, answers } = pickLength(random);
  const answerTokens = Math.min(maxPositions - 1, random.between(16, Math.round(answers * maxTokens)));
  const longest = maxPositions - answerTokens;
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

function pickLength(random: Random): (typeof lengths)[number] {
  let left = random.real();
  const picked = lengths.find(({ share }) => {
    left -= share;
    return left < 0;
  });
  return picked ?? (lengths[0] as (typeof lengths)[number]);
}
