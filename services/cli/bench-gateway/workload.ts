// What every way is asked: prompts of so many tokens that nobody has seen before, for answers of so many.
import { wordsOf } from "../../../loadtest/prompts.ts";
import { PromptEncoder } from "../../gateway/prompt-encoder.ts";
import { loadModelFolder } from "../../lib/model/folder.ts";
import { TokenTable } from "../../lib/model/token-table.ts";
import { CliError } from "../cli-error.ts";
import { answerText, answerToken, plainTokens } from "./answer.ts";

export interface Question {
  seed: number;
  /** The body of a chat completion. */
  body: string;
}

const thinking = false;

export class Workload {
  readonly promptTokens: number;
  readonly answerTokens: number;
  private readonly modelName: string;
  private readonly encoder: PromptEncoder;
  private readonly table: TokenTable;
  private readonly plain: Uint32Array;
  private readonly words: number;
  private asked = 0;

  /** A prompt of as many words as fit into promptTokens of the model's own tokens. */
  constructor(modelDir: string, promptTokens: number, answerTokens: number) {
    const folder = loadModelFolder(modelDir);
    if (folder.tokenizer === null) throw new CliError(`${modelDir} has no tokenizer.json`);
    this.modelName = folder.name;
    this.encoder = new PromptEncoder(folder.tokenizer);
    this.table = new TokenTable(folder.tokenizer.json);
    this.plain = plainTokens(this.table, folder.vocabularySize);
    this.answerTokens = answerTokens;
    const lengthOf = (words: number) => this.encode(wordsOf(0, words)).length;
    const [few, many] = [lengthOf(100), lengthOf(200)];
    this.words = 200 + Math.floor((promptTokens - many) / ((many - few) / 100));
    this.promptTokens = lengthOf(this.words);
  }

  next(more: object = {}): Question {
    const seed = ++this.asked;
    const messages = [{ role: "user", content: wordsOf(seed, this.words) }];
    const request = { model: this.modelName, messages, thinking: { type: "disabled" }, stream: true, max_tokens: this.answerTokens, seed };
    return { seed, body: JSON.stringify({ ...request, ...more }) };
  }

  nextTokens(): { seed: number; prompt: Uint32Array } {
    const seed = ++this.asked;
    return { seed, prompt: this.encode(wordsOf(seed, this.words)) };
  }

  isAnswer(seed: number, text: string): boolean {
    return text === answerText(this.table, this.plain, seed, this.answerTokens);
  }

  areAnswer(seed: number, tokens: readonly number[]): boolean {
    return tokens.length === this.answerTokens && tokens.every((token, index) => token === answerToken(this.plain, seed, index));
  }

  private encode(content: string): Uint32Array {
    return this.encoder.encodeChat({ messages: [{ role: "user", content }], thinking }).tokens;
  }
}
