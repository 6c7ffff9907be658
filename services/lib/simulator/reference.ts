// What is right: the answer of one model that shares nothing with anybody, and how long that takes.
import { PromptScores } from "../contracts/prompt-scores.ts";
import type { RunResult, SampledToken, SequenceResult } from "../engine/model-runner.ts";
import { scoresOf } from "./client.ts";
import { type Build, promptOf, type Scenario, type SimRequest } from "./scenario.ts";
import { SimRunner } from "./sim-runner.ts";

export interface Answer {
  tokens: number[];
  digests: string[];
  logprobs: number[];
  scores: string[];
  end: "stop" | "length";
}

/** How long the request takes alone, with its prompt in pieces of the least budget. */
export function soloMs({ promptTokens, maxTokens }: SimRequest, { callMs, rowMs, tokenBudget, chunkTokens }: Scenario): number {
  const calls = Math.ceil(promptTokens / Math.min(tokenBudget, chunkTokens)) + maxTokens;
  return calls * callMs + (promptTokens + maxTokens) * rowMs;
}

/** What one model computes that shares nothing with anybody: all rows at once, then token by token. */
export async function referenceAnswer(request: SimRequest, scenario: Scenario, build: Build): Promise<Answer> {
  const prompt = promptOf(request);
  const blocks = Array.from({ length: Math.ceil((prompt.length + request.maxTokens) / 64) }, (_, i) => i);
  const runner = new SimRunner(blocks.length, null, scenario, build);
  const output: number[] = [];
  const answer: Answer = { tokens: output, digests: [], logprobs: [], scores: [], end: "length" };
  let tokens = prompt;
  let firstRow = 0;
  while (output.length < request.maxTokens) {
    const end = firstRow + tokens.length;
    const [result] = await runner.run(
      [
        {
          tokens,
          firstRow,
          promptLength: prompt.length,
          blocks,
          logitsFrom: request.promptTop !== null && firstRow === 0 ? 0 : end - 1,
          ...(request.promptTop !== null && firstRow === 0 && { scores: { next: prompt.subarray(1), top: request.promptTop } }),
          sampling: {
            temperature: request.temperature,
            seed: BigInt(request.seed),
            choice: 0,
            ...(request.presencePenalty === 0
              ? {}
              : { presencePenalty: request.presencePenalty, promptTokens: prompt, outputTokens: Uint32Array.from(output) }),
            ...(request.logprobs === null ? {} : { logprobs: request.logprobs }),
          },
        },
      ],
      { digests: true },
    );
    const { sampled, digests, scored } = (result as RunResult).sequences[0] as SequenceResult & { sampled: SampledToken };
    if (scored !== undefined) answer.scores = scoresOf(packed(scored, prompt.length, request.promptTop ?? 0));
    output.push(sampled.token);
    answer.digests.push((digests.at(-1) as bigint).toString(16).padStart(16, "0"));
    answer.logprobs.push(sampled.logprob);
    if (request.stopTokenIds.includes(sampled.token)) {
      answer.end = "stop";
      break;
    }
    tokens = Uint32Array.of(sampled.token);
    firstRow = end;
  }
  return answer;
}

/** As they come over the bus: in float32. */
function packed(scored: readonly SampledToken[], promptLength: number, top: number): PromptScores {
  const scores = new PromptScores(promptLength, top);
  for (const one of scored) scores.push(one);
  return scores;
}

/** Of what each build would answer: what agrees longest with these digests. */
export function closestAnswer(digests: readonly string[], answers: readonly Answer[]): Answer {
  const agrees = (answer: Answer) => {
    const at = digests.findIndex((digest, i) => digest !== answer.digests[i]);
    return at < 0 ? digests.length : at;
  };
  return answers.reduce((best, answer) => (agrees(answer) > agrees(best) ? answer : best));
}
