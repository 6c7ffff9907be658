// How likely each of a prompt's tokens was, given those before it: packed, as workers keep and send it and gateways read it. For each token its
// logprob's float32 bits and its rank, then the most likely tokens and their logprobs' bits.

export interface TokenScore {
  logprob: number;
  /** Its place among all tokens, 1 for the likeliest. */
  rank: number;
  top: [token: number, logprob: number][];
}

/** Numbers kept for one request at most: a logprob of each token, and of each of the most likely beside it. */
export const maxPromptLogprobs = 131_072;
/** Where a vocabulary has fewer tokens than were asked for. */
const noToken = 0xffffffff;
const firstPosition = 1;

export class PromptScores {
  readonly top: number;
  private readonly words: Uint32Array;
  private readonly floats: Float32Array;
  private length = 0;

  /** Of all tokens of a prompt but its first, which has nothing before it. */
  constructor(promptLength: number, top: number) {
    this.top = top;
    this.words = new Uint32Array((promptLength - firstPosition) * this.wordsEach);
    this.floats = new Float32Array(this.words.buffer);
  }

  get wordsEach(): number {
    return 2 + 2 * this.top;
  }

  /** Position of the first token that has no score yet. */
  get next(): number {
    return firstPosition + this.length;
  }

  get complete(): boolean {
    return this.length * this.wordsEach === this.words.length;
  }

  clear(): void {
    this.length = 0;
  }

  push({ logprob, rank, top }: TokenScore): void {
    let at = this.length++ * this.wordsEach;
    this.floats[at++] = logprob;
    this.words[at++] = rank;
    for (let i = 0; i < this.top; i++) {
      const [token, of] = top[i] ?? [noToken, 0];
      this.words[at++] = token;
      this.floats[at++] = of;
    }
  }

  /** Packed scores of the tokens that come next. False: they are not whole, or too many. */
  append(packed: Uint32Array): boolean {
    const at = this.length * this.wordsEach;
    if (packed.length % this.wordsEach !== 0 || at + packed.length > this.words.length) return false;
    this.words.set(packed, at);
    this.length += packed.length / this.wordsEach;
    return true;
  }

  /** Of the tokens from this position on, so many words at most. */
  packedFrom(position: number, mostWords: number): Uint32Array {
    const from = Math.max(0, position - firstPosition);
    const count = Math.max(0, Math.min(this.length - from, Math.floor(mostWords / this.wordsEach)));
    return this.words.subarray(from * this.wordsEach, (from + count) * this.wordsEach);
  }

  at(position: number): TokenScore {
    let at = (position - firstPosition) * this.wordsEach;
    const logprob = this.floats[at++] as number;
    const rank = this.words[at++] as number;
    const top: TokenScore["top"] = [];
    for (let i = 0; i < this.top; i++, at += 2) {
      if (this.words[at] !== noToken) top.push([this.words[at] as number, this.floats[at + 1] as number]);
    }
    return { logprob, rank, top };
  }
}
