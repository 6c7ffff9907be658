// Text and conversations to token ids. What a user wrote can never become a token of the chat template: in each content a mark (a
// character that occurs nowhere else) stands before every character that such a token begins with, until the template's own tokens are
// cut out; what lies between those is encoded by a tokenizer that does not know them.
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { PelagicError } from "../lib/contracts/errors.ts";
import type { TokenizerFiles } from "../lib/model/folder.ts";

export interface PromptMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatPrompt {
  messages: PromptMessage[];
  thinking: boolean;
}

export interface EncodedPrompt {
  tokens: Uint32Array;
  /** The prompt ends inside `<think>`: the model's first words are reasoning. */
  insideThink: boolean;
  /** EBNF of the format that was asked for. */
  grammar?: string;
}

const openTag = "<think>";
const closeTag = "</think>";

export class PromptEncoder {
  /** Without added tokens: everything it reads is ordinary text. */
  private readonly plain: Tokenizer;
  private readonly template: Template | null;
  private readonly files: TokenizerFiles;
  private readonly addedIds: Map<string, number>;
  private readonly splitter: AddedTokenSplitter;
  private readonly bosId: number | undefined;

  constructor(files: TokenizerFiles) {
    this.files = files;
    this.addedIds = new Map(files.json.added_tokens.map((token) => [token.content, token.id]));
    this.splitter = new AddedTokenSplitter([...this.addedIds.keys()]);
    this.plain = new Tokenizer(withoutAddedTokens(files.json, this.addedIds), {});
    this.template = files.chatTemplate === null ? null : new Template(files.chatTemplate);
    this.bosId = this.addsBos() ? this.addedIds.get(files.config.bos_token ?? "") : undefined;
  }

  /** A completion's prompt, where added tokens count as such: it is the whole prompt, and its author may build turns with it. */
  encodeText(text: string, special = true): EncodedPrompt {
    const ids = this.encodeParts(text, "");
    if (special && this.bosId !== undefined && ids[0] !== this.bosId) ids.unshift(this.bosId);
    return { tokens: Uint32Array.from(ids), insideThink: false };
  }

  encodeChat(prompt: ChatPrompt): EncodedPrompt {
    if (this.template === null) {
      throw new PelagicError("invalid_request", "this model has no chat template: use /v1/completions");
    }
    const mark = unusedCharacter(prompt.messages);
    const messages = prompt.messages.map((message) => ({
      role: message.role,
      content: this.markContent(message.role === "assistant" ? answerOf(message.content) : message.content, mark),
    }));
    let rendered: string;
    try {
      rendered = this.template.render({
        messages,
        bos_token: this.files.config.bos_token ?? "",
        eos_token: this.files.config.eos_token ?? "",
        add_generation_prompt: true,
        thinking: prompt.thinking,
        enable_thinking: prompt.thinking,
      });
    } catch (error) {
      throw new PelagicError(
        "invalid_request",
        `messages: the model's chat template refuses them: ${error instanceof Error ? error.message : String(error)}`,
        {
          param: "messages",
        },
      );
    }
    const complete = this.completeThinkBlock(rendered, prompt.thinking, mark);
    return { tokens: Uint32Array.from(this.encodeParts(complete, mark)), insideThink: endsWithTag(complete.trimEnd(), openTag, mark) };
  }

  /** Templates differ in whether they open the block, and in whether they know that thinking can be off (spec/r1.md, 1.1). */
  private completeThinkBlock(rendered: string, thinking: boolean, mark: string): string {
    const end = rendered.trimEnd();
    if (endsWithTag(end, openTag, mark)) return thinking ? rendered : `${end}\n\n${closeTag}\n\n`;
    if (endsWithTag(end, closeTag, mark) || !this.addedIds.has(openTag) || !this.addedIds.has(closeTag)) return rendered;
    return thinking ? `${rendered}${openTag}\n` : `${rendered}${openTag}\n\n${closeTag}\n\n`;
  }

  private markContent(content: string, mark: string): string {
    let marked = content;
    for (const first of this.splitter.firstCharacters) marked = marked.replaceAll(first, mark + first);
    return marked;
  }

  private encodeParts(text: string, mark: string): number[] {
    const ids: number[] = [];
    for (const part of this.splitter.split(text, mark)) {
      const id = part.added ? this.addedIds.get(part.text) : undefined;
      if (id !== undefined) ids.push(id);
      else if (part.text !== "")
        appendAll(ids, this.plain.encode(mark === "" ? part.text : part.text.replaceAll(mark, ""), { add_special_tokens: false }).ids);
    }
    return ids;
  }

  private addsBos(): boolean {
    if (this.files.config.add_bos_token !== null && this.files.config.add_bos_token !== undefined) return this.files.config.add_bos_token;
    if (!this.files.json.post_processor) return false;
    const full = new Tokenizer(this.files.json, this.files.config);
    return full.encode("a").ids[0] === this.addedIds.get(this.files.config.bos_token ?? "");
  }
}

/** Cuts text at added tokens, the longest first where several begin at one place. */
class AddedTokenSplitter {
  readonly firstCharacters: ReadonlySet<string>;
  private readonly byFirst = new Map<string, string[]>();
  private readonly pattern: RegExp | null;

  constructor(tokens: string[]) {
    for (const token of tokens.sort((a, b) => b.length - a.length)) {
      const first = String.fromCodePoint(token.codePointAt(0) as number);
      this.byFirst.set(first, [...(this.byFirst.get(first) ?? []), token]);
    }
    this.firstCharacters = new Set(this.byFirst.keys());
    const escaped = [...this.firstCharacters].map((first) => first.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.pattern = escaped.length === 0 ? null : new RegExp(`[${escaped.join("")}]`, "gu");
  }

  /** A token that stands behind the mark is ordinary text. */
  *split(text: string, mark: string): Generator<{ text: string; added: boolean }> {
    let from = 0;
    for (const candidate of this.pattern === null ? [] : text.matchAll(this.pattern)) {
      if (candidate.index < from || (mark !== "" && text[candidate.index - 1] === mark)) continue;
      const token = this.byFirst.get(candidate[0])?.find((one) => text.startsWith(one, candidate.index));
      if (token === undefined) continue;
      if (candidate.index > from) yield { text: text.slice(from, candidate.index), added: false };
      yield { text: token, added: true };
      from = candidate.index + token.length;
    }
    if (from < text.length) yield { text: text.slice(from), added: false };
  }
}

function withoutAddedTokens(json: TokenizerFiles["json"], added: ReadonlyMap<string, number>): object {
  const vocab = { ...(json.model.vocab as Record<string, number>) };
  for (const token of added.keys()) delete vocab[token];
  return { ...json, added_tokens: [], post_processor: null, model: { ...json.model, vocab } };
}

function endsWithTag(text: string, tag: string, mark: string): boolean {
  return text.endsWith(tag) && text[text.length - tag.length - 1] !== mark;
}

/** Earlier reasoning is never sent again. */
function answerOf(content: string): string {
  const end = content.lastIndexOf(closeTag);
  return end < 0 ? content : content.slice(end + closeTag.length);
}

/** A noncharacter of Unicode that no content has. */
function unusedCharacter(messages: readonly PromptMessage[]): string {
  for (let code = 0xfdd0; code <= 0xfdef; code++) {
    const character = String.fromCharCode(code);
    if (!messages.some((message) => message.content.includes(character))) return character;
  }
  throw new PelagicError("invalid_request", "messages: contain every noncharacter from U+FDD0 to U+FDEF; remove one", {
    param: "messages",
  });
}

function appendAll(to: number[], from: readonly number[]): void {
  for (const id of from) to.push(id);
}
