// What a client asks of an answer token by token, beside a grammar or without one. State is a function of the output so far, as constraint.ts has it.
import { PelagicError } from "../contracts/errors.ts";
import type { TokenRules } from "../contracts/messages.ts";
import type { TokenConstraint } from "./constraint.ts";

export class RuledTokens implements TokenConstraint {
  private readonly vocabularySize: number;
  private readonly rules: TokenRules;
  private readonly grammar: TokenConstraint | undefined;
  private readonly always: Uint32Array;
  private readonly longest: number;
  private count = 0;
  private thinking: boolean;
  /** The last tokens, as many as a banned sequence has before its last. */
  private readonly tail: number[] = [];

  /** `grammar` is disposed of with this. */
  constructor(vocabularySize: number, rules: TokenRules, grammar: TokenConstraint | undefined) {
    this.vocabularySize = vocabularySize;
    this.rules = rules;
    this.grammar = grammar;
    this.thinking = rules.thought !== undefined;
    this.longest = Math.max(0, ...(rules.banned ?? []).map((sequence) => sequence.length - 1));
    this.always = rules.allowed === undefined ? this.all() : this.none();
    for (const id of rules.allowed ?? []) set(this.always, id);
  }

  async allowed(): Promise<Uint32Array> {
    const { minTokens, banned, thought } = this.rules;
    const mask = this.always.slice();
    const grammar = await this.grammar?.allowed();
    if (grammar !== undefined) intersect(mask, grammar);
    if (minTokens !== undefined && this.count < minTokens.count) {
      const longer = mask.slice();
      for (const id of minTokens.endTokenIds) clear(longer, id);
      // An answer that its format completes has no more tokens to give.
      if (longer.some((word) => word !== 0)) mask.set(longer);
    }
    for (const sequence of banned ?? []) {
      if (endsWith(this.tail, sequence.slice(0, -1))) clear(mask, sequence.at(-1) as number);
    }
    if (thought !== undefined && this.thinking && this.count >= thought.maxTokens) {
      const close = this.none();
      set(close, thought.closeToken);
      intersect(mask, close);
    }
    if (mask.every((word) => word === 0)) {
      throw new PelagicError(
        "invalid_request",
        "bad_words, allowed_token_ids, thinking_token_budget and the format leave no token to go on with",
        { param: this.rules.allowed ? "allowed_token_ids" : this.rules.banned ? "bad_words" : "thinking_token_budget" },
      );
    }
    return mask;
  }

  accept(token: number): void {
    this.count++;
    if (token === this.rules.thought?.closeToken) this.thinking = false;
    if (this.longest > 0) {
      this.tail.push(token);
      if (this.tail.length > this.longest) this.tail.shift();
    }
    this.grammar?.accept(token);
  }

  dispose(): void {
    this.grammar?.dispose();
  }

  private none(): Uint32Array {
    return new Uint32Array(Math.ceil(this.vocabularySize / 32));
  }

  private all(): Uint32Array {
    return this.none().fill(0xffffffff);
  }
}

function set(mask: Uint32Array, id: number): void {
  mask[id >>> 5] = (mask[id >>> 5] as number) | (1 << (id & 31));
}

function clear(mask: Uint32Array, id: number): void {
  mask[id >>> 5] = (mask[id >>> 5] as number) & ~(1 << (id & 31));
}

function intersect(mask: Uint32Array, other: Uint32Array): void {
  for (let i = 0; i < mask.length; i++) mask[i] = (mask[i] as number) & (other[i] ?? 0);
}

function endsWith(tokens: readonly number[], end: readonly number[]): boolean {
  return end.length <= tokens.length && end.every((id, i) => tokens[tokens.length - end.length + i] === id);
}
