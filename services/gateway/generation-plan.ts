// From a validated request and its encoded prompt to what is asked of the workers: sampling, stops, lengths, rules. Pure but for the seed drawn at
// admission.
import { createHash, randomBytes } from "node:crypto";
import { PelagicError } from "../lib/contracts/errors.ts";
import type { ChatCompletionRequest, CompletionRequest } from "../lib/contracts/http.ts";
import type { Constraint, Sampling, TokenRules } from "../lib/contracts/messages.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";
import { checkTokenId, tooLong } from "./prompt-source.ts";
import type { ServedModel } from "./served-model.ts";

/** Below it every other token's probability is 0 in float32, or dividing by it overflows: greedy by another name. */
const greedyBelowTemperature = 1e-4;

/** The fields that chat and completions have in common, with the same meaning. */
export type CommonRequest = Pick<CompletionRequest, Exclude<Extract<keyof CompletionRequest, keyof ChatCompletionRequest>, "logprobs">>;

export interface GenerationPlan {
  sampling: Sampling;
  constraint: Constraint | undefined;
  rules: TokenRules | undefined;
  maxTokens: number;
  stops: string[];
  stopTokenIds: number[];
}

export function planGeneration(
  request: CommonRequest,
  extra: {
    askedTokens: number | null | undefined;
    askedTokensField: string;
    /** Where the prompt came from. */
    promptField: string;
    logprobs: number | undefined;
    thinkingTokens?: number | null | undefined;
  },
  prompt: EncodedPrompt,
  model: ServedModel,
  limits: { maxPositions: number; defaultMaxTokens: number },
): GenerationPlan {
  const promptTokens = prompt.tokens.length;
  if (promptTokens === 0)
    throw new PelagicError("invalid_request", `${extra.promptField}: the prompt is empty: send some text`, { param: extra.promptField });
  const room = limits.maxPositions - promptTokens;
  if (room < 1) throw tooLong(`${promptTokens} tokens in the prompt`, limits.maxPositions, extra.promptField);
  const { askedTokens, askedTokensField } = extra;
  if (askedTokens !== null && askedTokens !== undefined && askedTokens > room) {
    throw tooLong(`${promptTokens} tokens in the prompt and ${askedTokens} in the answer`, limits.maxPositions, askedTokensField);
  }
  const constraint = constraintOf(prompt, model);
  // A constrained answer that is complete has nothing else to say.
  const stopTokenIds = new Set(request.ignore_eos === true && constraint === undefined ? [] : model.eosTokenIds);
  for (const id of request.stop_token_ids ?? []) {
    checkTokenId(id, model, "stop_token_ids");
    stopTokenIds.add(id);
  }
  return {
    sampling: { ...sampling(request, model), ...(extra.logprobs === undefined ? {} : { logprobs: extra.logprobs }) },
    // No answer at all is one of which nothing is told.
    maxTokens: Math.max(1, askedTokens ?? Math.min(room, limits.defaultMaxTokens)),
    stops: typeof request.stop === "string" ? [request.stop] : (request.stop ?? []),
    stopTokenIds: [...stopTokenIds],
    constraint,
    rules: tokenRules(request, extra.thinkingTokens, [...stopTokenIds], prompt, model),
  };
}

/** Tokens of answers that are held until all are whole, and logprobs beside them; of the most likely each counts. */
const maxHeldValues = 2 ** 20;

/** Refuses what would be too much to hold. A stream holds nothing. */
export function checkHeld(
  { stream }: CommonRequest,
  { candidates, logprobs, askedTokensField }: { candidates: number; logprobs: number | undefined; askedTokensField: string },
  plans: readonly GenerationPlan[],
): void {
  const perToken = logprobs === undefined ? 1 : 2 + logprobs;
  const held = candidates * perToken * plans.reduce((sum, { maxTokens }) => sum + maxTokens, 0);
  if (stream || held <= maxHeldValues) return;
  const what = `up to ${held} tokens and logprobs, of all answers together`;
  throw new PelagicError("invalid_request", `${askedTokensField}: ${what}: at most ${maxHeldValues} without stream`, {
    param: askedTokensField,
  });
}

function tokenRules(
  request: CommonRequest,
  thinkingTokens: number | null | undefined,
  stopTokenIds: number[],
  prompt: EncodedPrompt,
  model: ServedModel,
): TokenRules | undefined {
  const rules: TokenRules = {};
  if (request.min_tokens)
    rules.minTokens = { count: request.min_tokens, endTokenIds: [...new Set([...stopTokenIds, ...model.eosTokenIds])] };
  if (request.allowed_token_ids) {
    for (const id of request.allowed_token_ids) checkTokenId(id, model, "allowed_token_ids");
    rules.allowed = request.allowed_token_ids;
  }
  if (prompt.bannedWords?.length) rules.banned = prompt.bannedWords;
  if (thinkingTokens !== null && thinkingTokens !== undefined && prompt.insideThink) {
    const closeToken = model.table?.addedTokenId("</think>");
    if (closeToken === undefined) {
      throw new PelagicError("invalid_request", `thinking_token_budget: the model ${model.name} has no token </think>: leave it out`, {
        param: "thinking_token_budget",
      });
    }
    rules.thought = { maxTokens: thinkingTokens, closeToken };
  }
  return Object.keys(rules).length === 0 ? undefined : rules;
}

/**
 * Requests with equal salts may share cached blocks, and count as one tenant in the queues. What a client names divides what its API key
 * isolates. Hashed: names travel no further.
 */
export function tenantSalt(
  { user_id: userId, cache_salt: salt }: Pick<CommonRequest, "user_id" | "cache_salt">,
  isolation: string,
): string {
  if (!userId && !salt && isolation === "") return "";
  return createHash("sha256")
    .update(JSON.stringify([userId ?? "", salt ?? "", isolation]))
    .digest("hex")
    .slice(0, 32);
}

function constraintOf(prompt: EncodedPrompt, model: ServedModel): Constraint | undefined {
  if (prompt.grammar === undefined) return undefined;
  const afterToken = prompt.insideThink ? model.table?.addedTokenId("</think>") : null;
  const endTokenIds = model.eosTokenIds;
  if (afterToken === undefined || endTokenIds.length === 0) {
    const lacks = afterToken === undefined ? "no token </think>: only with thinking off" : "no end-of-sequence token";
    throw new PelagicError("invalid_request", `response_format: with a format or tools, the model ${model.name} has ${lacks}`, {
      param: "response_format",
    });
  }
  return { grammar: prompt.grammar, afterToken, endTokenIds };
}

function sampling(request: CommonRequest, model: ServedModel): Sampling {
  const defaults = model.samplingDefaults;
  const temperature = request.temperature ?? defaults.temperature;
  const topK = request.top_k ?? defaults.topK ?? 0;
  const topP = request.top_p ?? defaults.topP ?? 1;
  const repetitionPenalty = request.repetition_penalty ?? defaults.repetitionPenalty ?? 1;
  const bias = Object.entries(request.logit_bias ?? {}).map(([id, value]): [number, number] => [Number(id), value]);
  for (const [id] of bias) checkTokenId(id, model, "logit_bias");
  return {
    temperature: temperature < greedyBelowTemperature ? 0 : temperature,
    seed: seed(request.seed),
    choice: 0,
    ...(topK > 0 ? { topK } : {}),
    ...(topP < 1 ? { topP } : {}),
    ...(request.min_p ? { minP: request.min_p } : {}),
    ...(repetitionPenalty === 1 ? {} : { repetitionPenalty }),
    ...(request.presence_penalty ? { presencePenalty: request.presence_penalty } : {}),
    ...(request.frequency_penalty ? { frequencyPenalty: request.frequency_penalty } : {}),
    ...(bias.length > 0 ? { logitBias: bias } : {}),
  };
}

/** 64 bits in decimal; drawn here where the client gave none, so that a request that moves keeps its noise. */
function seed(given: number | bigint | null | undefined): string {
  if (given === null || given === undefined) return randomBytes(8).readBigUInt64LE().toString();
  return BigInt.asUintN(64, BigInt(given)).toString();
}
