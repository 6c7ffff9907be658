// What a client has of an answer, streamed or whole, and how two of them differ. Pure.

export interface Answer {
  text: string;
  tokens: number[];
  digests: string[];
  /** One line of JSON for each token. */
  logprobs: string[];
  finish: string | null;
  completionTokens: number | null;
}

interface Choice {
  text?: string;
  token_ids?: number[];
  logits_digests?: string[];
  logprobs?: {
    tokens: string[];
    token_logprobs: number[];
    top_logprobs: object[];
    text_offset: number[];
  } | null;
  finish_reason?: string | null;
}

export interface CompletionBody {
  choices?: Choice[];
  usage?: { completion_tokens: number } | null;
}

export function emptyAnswer(): Answer {
  return { text: "", tokens: [], digests: [], logprobs: [], finish: null, completionTokens: null };
}

/** Adds a chunk of a stream, or a whole body. */
export function addTo(answer: Answer, body: CompletionBody): void {
  const choice = body.choices?.[0];
  if (choice) {
    answer.text += choice.text ?? "";
    answer.tokens.push(...(choice.token_ids ?? []));
    answer.digests.push(...(choice.logits_digests ?? []));
    const { logprobs } = choice;
    if (logprobs) {
      for (const [i, token] of logprobs.tokens.entries()) {
        answer.logprobs.push(JSON.stringify([token, logprobs.token_logprobs[i], logprobs.top_logprobs[i], logprobs.text_offset[i]]));
      }
    }
    answer.finish ??= choice.finish_reason ?? null;
  }
  if (body.usage) answer.completionTokens = body.usage.completion_tokens;
}

/** The first difference in words; null where there is none. A part of an answer must be how the right one begins. */
export function difference(right: Answer, got: Answer, part: boolean): string | null {
  for (const field of ["tokens", "digests", "logprobs"] as const) {
    const at = got[field].findIndex((value, i) => value !== right[field][i]);
    if (at >= 0) return `${field}[${at}] is ${got[field][at]}, not ${right[field][at]}`;
    if (!part && got[field].length !== right[field].length) return `${got[field].length} ${field}, not ${right[field].length}`;
  }
  if (part) return right.text.startsWith(got.text) ? null : `text ${JSON.stringify(got.text)} does not begin the right one`;
  for (const field of ["text", "finish", "completionTokens"] as const) {
    if (got[field] !== right[field]) return `${field} is ${JSON.stringify(got[field])}, not ${JSON.stringify(right[field])}`;
  }
  return null;
}
