// Text and conversations to token ids. What a user wrote can never become a token of the chat template: in each content a mark (a
// character that occurs nowhere else) stands before every character that such a token begins with, until the template's own tokens are
// cut out; what lies between those is encoded by a tokenizer that does not know them.
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { PelagicError } from "../lib/contracts/errors.ts";
import { type ToolSyntax, toolSyntaxOf } from "../lib/grammar/tool-syntax.ts";
import type { TokenizerFiles } from "../lib/model/folder.ts";
import { BytePairEncoder } from "./byte-pair-encoder.ts";
import { isTooDeep } from "./json-depth.ts";
import { callsAsText, type PromptMessage, type PromptTool, toolsAsText } from "./tool-prompt.ts";

export interface ChatPrompt {
  messages: PromptMessage[];
  thinking: boolean;
  tools?: PromptTool[];
  /** Where the answer goes on: what the assistant is taken to have thought and said. */
  prefix?: { reasoning: string; content: string };
  /** False: the prompt ends with the last message, and no turn of the assistant's begins. */
  opensAnswer?: false;
  /** Variables of the template. */
  variables?: Record<string, string | number | boolean>;
}

export interface EncodedPrompt {
  tokens: Uint32Array;
  /** The prompt ends inside `<think>`: the model's first words are reasoning. */
  insideThink: boolean;
  /** EBNF of the format that was asked for. */
  grammar?: string;
  /** What the format asks for and the grammar does not keep; absent: nothing. */
  notKept?: string[];
  /** Of the words that no answer may have: their tokens, alone and behind a space. */
  bannedWords?: number[][];
}

/** What is wrong with a tokenizer shows at its first text. */
const probe = "A first text: 0123 \t\n é 日本 🙂";
const openTag = "<think>";
const closeTag = "</think>";

export class PromptEncoder {
  /** Without added tokens: everything it reads is ordinary text. */
  private readonly plain: BytePairEncoder;
  private readonly template: Template | null;
  private readonly files: TokenizerFiles;
  private readonly addedIds: Map<string, number>;
  private readonly splitter: AddedTokenSplitter;
  private readonly bosId: number | undefined;
  private readonly toolSyntax: ToolSyntax;

  constructor(files: TokenizerFiles) {
    this.files = files;
    this.addedIds = new Map(files.json.added_tokens.map((token) => [token.content, token.id]));
    this.splitter = new AddedTokenSplitter([...this.addedIds.keys()]);
    this.plain = readFrom("tokenizer.json", () => {
      const plain = new BytePairEncoder(files.json, new Set(this.addedIds.keys()));
      plain.encode(probe);
      return plain;
    });
    const { chatTemplate } = files;
    this.template = chatTemplate === null ? null : readFrom("chat template (tokenizer_config.json)", () => new Template(chatTemplate));
    this.toolSyntax = toolSyntaxOf(this.addedIds.keys(), files.chatTemplate);
    this.bosId = readFrom("tokenizer.json", () => this.addsBos()) ? this.addedIds.get(files.config.bos_token ?? "") : undefined;
  }

  /** A completion's prompt, where added tokens count as such: it is the whole prompt, and its author may build turns with it. */
  encodeText(text: string, special = true): EncodedPrompt {
    const ids = this.encodeParts(text, "");
    if (special && this.bosId !== undefined && ids[0] !== this.bosId) ids.unshift(this.bosId);
    return { tokens: Uint32Array.from(ids), insideThink: false };
  }

  encodeWords(words: readonly string[]): number[][] {
    const forms = words.flatMap((word) => (word.startsWith(" ") ? [word] : [word, ` ${word}`]));
    return forms.map((form) => this.plain.encode(form));
  }

  encodeChat(prompt: ChatPrompt): EncodedPrompt {
    if (this.template === null) {
      throw new PelagicError("invalid_request", "messages: this model has no chat template: use /v1/completions", { param: "messages" });
    }
    const mark = unusedCharacter(prompt);
    const source = this.files.chatTemplate ?? "";
    const marked = <T>(value: T): T => markText(value, (text) => this.markContent(text, mark));
    const callsAreValues = templateWantsValues(source);
    let messages = prompt.messages.map((message) => markMessage(message, callsAreValues, marked));
    let tools = marked(prompt.tools ?? []);
    if (!source.includes("tool_calls")) messages = callsAsText(messages, this.toolSyntax);
    if (tools.length > 0 && !/\btools\b/.test(source)) {
      messages = toolsAsText(messages, tools, this.toolSyntax);
      tools = [];
    }
    let rendered: string;
    try {
      rendered = this.template.render({
        ...marked(prompt.variables ?? {}),
        messages: messages.map((message) => templateMessage(message, callsAreValues)),
        ...(tools.length > 0 && { tools: tools.map((tool) => ({ type: "function", function: tool })) }),
        bos_token: this.files.config.bos_token ?? "",
        eos_token: this.files.config.eos_token ?? "",
        add_generation_prompt: prompt.opensAnswer ?? true,
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
    let complete = prompt.opensAnswer === false ? rendered : this.completeThinkBlock(rendered, prompt.thinking, mark);
    if (prompt.prefix !== undefined) complete = this.goOnFrom(complete, prompt.prefix, mark);
    return { tokens: Uint32Array.from(this.encodeParts(complete, mark)), insideThink: this.endsInsideThink(complete, mark) };
  }

  private goOnFrom(rendered: string, { reasoning, content }: { reasoning: string; content: string }, mark: string): string {
    const marked = (text: string) => this.markContent(text, mark);
    if (!this.endsInsideThink(rendered, mark)) return rendered + marked(content);
    const thought = rendered + marked(reasoning);
    if (content === "") return thought;
    return `${thought.trimEnd()}${reasoning === "" ? "\n" : ""}\n${closeTag}\n\n${marked(content)}`;
  }

  /** The last of the two tags that stand outside contents is the opening one. */
  private endsInsideThink(text: string, mark: string): boolean {
    return lastTag(text, openTag, mark) > lastTag(text, closeTag, mark);
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
      else if (part.text !== "") appendAll(ids, this.plain.encode(mark === "" ? part.text : part.text.replaceAll(mark, "")));
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

/** What the libraries say of a file they cannot use names no file. */
function readFrom<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new Error(`${file}: ${error instanceof Error ? error.message : String(error)}`);
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

function endsWithTag(text: string, tag: string, mark: string): boolean {
  return text.endsWith(tag) && text[text.length - tag.length - 1] !== mark;
}

/** Where the tag begins for the last time, unmarked; -1: nowhere. */
function lastTag(text: string, tag: string, mark: string): number {
  let at = text.lastIndexOf(tag);
  while (at > 0 && text[at - 1] === mark) at = text.lastIndexOf(tag, at - 1);
  return at;
}

/** The value with every string of it changed, names of properties among them. */
function markText<T>(value: T, change: (text: string) => string): T {
  if (typeof value === "string") return change(value) as T;
  if (Array.isArray(value)) return value.map((one) => markText(one as unknown, change)) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [change(key), markText(one as unknown, change)])) as T;
}

/** Templates that print a call's arguments as JSON want them read; others take the text. */
function templateWantsValues(template: string): boolean {
  return /arguments['"\]]*\s*\|\s*tojson/.test(template);
}

/** Arguments that will be values are read before they are marked: JSON has more than one way to write a character. */
function markMessage(message: PromptMessage, callsAreValues: boolean, marked: <T>(value: T) => T): PromptMessage {
  const { role, content, reasoning, toolCalls, toolCallId } = message;
  return {
    role,
    content: marked(role === "assistant" ? answerOf(content) : content),
    ...(reasoning !== undefined && { reasoning: marked(reasoning) }),
    ...(toolCallId !== undefined && { toolCallId: marked(toolCallId) }),
    ...(toolCalls && {
      toolCalls: toolCalls.map(({ id, name, arguments: text }) => ({
        id: marked(id),
        name: marked(name),
        arguments: callsAreValues ? JSON.stringify(marked(parsed(text))) : marked(text),
      })),
    }),
  };
}

/** As Hugging Face's chat templates expect it. */
function templateMessage({ toolCalls, toolCallId, reasoning, ...message }: PromptMessage, callsAreValues: boolean): object {
  return {
    ...message,
    ...(reasoning !== undefined && { reasoning_content: reasoning }),
    ...(toolCallId !== undefined && { tool_call_id: toolCallId }),
    ...(toolCalls && {
      tool_calls: toolCalls.map(({ id, name, arguments: text }) => ({
        id,
        type: "function",
        function: { name, arguments: callsAreValues ? parsed(text) : text },
      })),
    }),
  };
}

/** The text itself where it is no JSON, or nested so deep that no template could print it. */
function parsed(text: string): unknown {
  if (isTooDeep(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Earlier reasoning is never sent again. */
function answerOf(content: string): string {
  const end = content.lastIndexOf(closeTag);
  return end < 0 ? content : content.slice(end + closeTag.length);
}

/** A noncharacter of Unicode that nothing in the prompt has. */
function unusedCharacter(prompt: ChatPrompt): string {
  const all: string[] = [];
  const collect = (text: string) => {
    all.push(text);
    return text;
  };
  markText(prompt, collect);
  for (const { toolCalls } of prompt.messages) for (const call of toolCalls ?? []) markText(parsed(call.arguments), collect);
  for (let code = 0xfdd0; code <= 0xfdef; code++) {
    const character = String.fromCharCode(code);
    if (!all.some((text) => text.includes(character))) return character;
  }
  throw new PelagicError("invalid_request", "messages: contain every noncharacter from U+FDD0 to U+FDEF; remove one", {
    param: "messages",
  });
}

function appendAll(to: number[], from: readonly number[]): void {
  for (const id of from) to.push(id);
}
