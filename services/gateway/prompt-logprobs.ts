// The prompt's own logprobs as clients read them: OpenAI's legacy form, which goes before that of the answer where the prompt is echoed, and vLLM's
// prompt_logprobs. Pure.
import { PelagicError } from "../lib/contracts/errors.ts";
import type { CompletionLogprobs, PromptLogprobs } from "../lib/contracts/http.ts";
import { maxPromptLogprobs, type PromptScores } from "../lib/contracts/prompt-scores.ts";
import type { TokenTable } from "../lib/model/token-table.ts";
import { finite, tokenText } from "./answer-format.ts";
import { lazily } from "./json-pieces.ts";
import { Detokenizer } from "./detokenizer.ts";
import type { GenerationRequest } from "./generation-request.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";

/** Refuses what would be too much to hold: each answer has the logprobs of its own prompt. */
export function checkPromptLogprobs({ promptTop, candidates, common }: GenerationRequest, prompts: readonly EncodedPrompt[]): void {
  if (promptTop === undefined) return;
  const wanted = candidates * (1 + promptTop) * prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
  if (wanted <= maxPromptLogprobs) return;
  const param = typeof common.prompt_logprobs === "number" ? "prompt_logprobs" : "logprobs";
  const limit = `logprobs of the prompts' tokens, ${wanted} in all with the most likely beside each: at most ${maxPromptLogprobs}`;
  throw new PelagicError("invalid_request", `${param}: ${limit}`, { param });
}

/** `echo`: the text in which the offsets are. */
export function echoLogprobs(prompt: Uint32Array, echo: string, scores: PromptScores, top: number, table: TokenTable): CompletionLogprobs {
  const out: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
  const offsets = textOffsets(prompt, echo, table);
  const textOf = remembered((id) => tokenText(id, table));
  prompt.forEach((id, position) => {
    const score = position === 0 ? null : scores.at(position);
    out.tokens.push(textOf(id));
    out.token_logprobs.push(score && finite(score.logprob));
    const likely = score?.top.slice(0, top).map(([token, logprob]) => [textOf(token), finite(logprob)] as const);
    out.top_logprobs.push(likely === undefined ? null : Object.fromEntries(likely));
    out.text_offset.push(offsets[position] as number);
  });
  return out;
}

/** Where each token's text begins. The beginning of sentence that the tokenizer put there itself is no part of an echoed text. */
function textOffsets(prompt: Uint32Array, echo: string, table: TokenTable): number[] {
  const detokenizer = new Detokenizer(table);
  const [first] = prompt;
  const isAdded = first !== undefined && table.isSpecial(first) && !echo.startsWith(tokenText(first, table));
  let seen = 0;
  return Array.from(prompt, (id, position) => {
    const offset = seen;
    if (position > 0 || !isAdded) seen += detokenizer.push(id).length;
    return offset;
  });
}

export function promptLogprobs(prompt: Uint32Array, scores: PromptScores, top: number, table: TokenTable | null): PromptLogprobs {
  const textOf = remembered((id) => (table === null ? null : tokenText(id, table)));
  const entry = (id: number, logprob: number, rank: number) =>
    [String(id), { logprob: finite(logprob), rank, decoded_token: textOf(id) }] as const;
  return lazily([...prompt.keys()], (position) => {
    const id = prompt[position] as number;
    if (position === 0) return null;
    const score = scores.at(position);
    const likely = score.top.slice(0, top).map(([token, logprob], i) => entry(token, logprob, i + 1));
    return Object.fromEntries([entry(id, score.logprob, score.rank), ...likely]);
  });
}

/** The same few tokens are likely again and again. */
function remembered<T>(of: (id: number) => T): (id: number) => T {
  const known = new Map<number, T>();
  return (id) => {
    const before = known.get(id);
    if (before !== undefined) return before;
    const value = of(id);
    known.set(id, value);
    return value;
  };
}
