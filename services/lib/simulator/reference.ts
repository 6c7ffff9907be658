// What is right: the answer of one model that shares nothing with anybody, and how long that takes.
import type { RunResult } from "../engine/model-runner.ts";
import { type Build, promptOf, type Scenario, type SimRequest } from "./scenario.ts";
import { SimRunner } from "./sim-runner.ts";

export interface Answer {
  tokens: number[];
  digests: string[];
  logprobs: number[];
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
  const answer: Answer = { tokens: output, digests: [], logprobs: [], end: "length" };
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
          logitsFrom: end - 1,
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
    const { sampled, digests } = (result as RunResult).sequences[0] as {
      sampled: { token: number; logprob: number };
      digests: bigint[];
    };
    output.push(sampled.token);
    answer.digests.push((digests[0] as bigint).toString(16).padStart(16, "0"));
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

/** Of what each build would answer: what agrees longest with these digests. */
export function closestAnswer(digests: readonly string[], answers: readonly Answer[]): Answer {
  const agrees = (answer: Answer) => {
    const at = digests.findIndex((digest, i) => digest !== answer.digests[i]);
    return at < 0 ? digests.length : at;
  };
  return answers.reduce((best, answer) => (agrees(answer) > agrees(best) ? answer : best));
}
