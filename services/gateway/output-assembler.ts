// One answer's tokens to what its reader sees: text split into reasoning, content and tool calls, cut at a stop string, with the logprobs of the
// tokens whose text is out, and the counts for usage. Pure; the shells around it write SSE chunks or one JSON body.
import { Detokenizer } from "./detokenizer.ts";
import { isToolMark, type ToolSyntax } from "../lib/grammar/tool-syntax.ts";
import { type OutputKind, ReasoningSplitter } from "./reasoning-splitter.ts";
import { StopMatcher } from "./stop-matcher.ts";
import { ToolCallParser } from "./tool-call-parser.ts";
import type { TokenTable } from "../lib/model/token-table.ts";

export interface TokenLogprobs {
  logprob: number;
  top: [number, number][];
}

export interface LogprobEntry extends TokenLogprobs {
  tokenId: number;
  /** Where the token's text begins in the content. */
  textOffset: number;
}

export interface OutputPiece {
  /** `call`: `text` is a piece of the arguments of call number `index`, or empty where `name` begins it. */
  kind: OutputKind | "call";
  text: string;
  logprobs: LogprobEntry[];
  call?: { index: number; name?: string };
}

export interface AssemblerOptions {
  /** null: no tokenizer, tokens have no text. */
  table: TokenTable | null;
  stops: readonly string[];
  /** End the answer, and are no part of its text. */
  stopTokenIds: readonly number[];
  /** Chat: whether the prompt ended inside `<think>`. Absent: a completion, all of whose text is content. */
  thinking?: boolean;
  /** Tool calls are taken out of the content. */
  tools?: ToolSyntax;
  /** The stop string that was found is part of the content. */
  keepStop?: boolean;
  /** Special tokens, but for the end and the marks of the thought, are text. */
  keepSpecial?: boolean;
}

export class OutputAssembler {
  completionTokens = 0;
  reasoningTokens = 0;
  /** The stop string that was found: the answer is complete. */
  stop: string | null = null;

  private readonly table: TokenTable | null;
  private readonly detokenizer: Detokenizer | null;
  private readonly splitter: ReasoningSplitter;
  private readonly stops: StopMatcher;
  private readonly tools: ToolCallParser | null;
  private readonly keepStop: boolean;
  private readonly keepSpecial: boolean;
  private readonly stopTokenIds: ReadonlySet<number>;
  private readonly openTagId: number | undefined;
  private readonly closeTagId: number | undefined;
  private contentSeen = 0;
  private contentOut = 0;
  private waiting: Record<OutputKind, LogprobEntry[]> = { reasoning: [], content: [] };

  constructor(options: AssemblerOptions) {
    this.table = options.table;
    this.detokenizer = options.table === null ? null : new Detokenizer(options.table);
    this.stops = new StopMatcher(options.stops);
    this.tools = options.tools === undefined ? null : new ToolCallParser(options.tools);
    this.keepStop = options.keepStop ?? false;
    this.keepSpecial = options.keepSpecial ?? false;
    this.stopTokenIds = new Set(options.stopTokenIds);
    if (options.thinking !== undefined) {
      this.openTagId = options.table?.addedTokenId("<think>");
      this.closeTagId = options.table?.addedTokenId("</think>");
    }
    this.splitter = new ReasoningSplitter({
      reasoning: options.thinking ?? false,
      tagsAreTokens: options.thinking === undefined || this.closeTagId !== undefined,
    });
  }

  get stopped(): boolean {
    return this.stop !== null;
  }

  /** Tool calls begun. */
  get calls(): number {
    return this.tools?.calls ?? 0;
  }

  /** Returns how many of the tokens count: all, or up to the one that completed a stop string. */
  push(tokens: Uint32Array, logprobs: readonly TokenLogprobs[] | undefined, pieces: OutputPiece[]): number {
    for (let i = 0; i < tokens.length; i++) {
      this.pushToken(tokens[i] as number, logprobs?.[i], pieces);
      if (this.stopped) return i + 1;
    }
    return tokens.length;
  }

  /** The answer ended without a stop string: nothing is held back any longer. */
  finish(pieces: OutputPiece[]): void {
    if (this.stopped) return;
    this.flushText(pieces);
    for (const piece of this.splitter.flush()) this.emit(piece.kind, piece.text, pieces);
    this.pushContent(this.tools?.flush() ?? "", pieces);
    if (this.stopped) return;
    this.emit("content", this.stops.flush(), pieces);
    for (const kind of ["reasoning", "content"] as const) {
      if (this.waiting[kind].length > 0) pieceOf(kind, pieces).logprobs.push(...this.waiting[kind].splice(0));
    }
  }

  private pushToken(id: number, logprobs: TokenLogprobs | undefined, pieces: OutputPiece[]): void {
    this.completionTokens++;
    if (this.table === null || this.detokenizer === null || this.stopTokenIds.has(id)) return;
    if (id === this.closeTagId || id === this.openTagId) {
      this.flushText(pieces);
      if (this.stopped) return;
      if (id === this.openTagId) this.splitter.open();
      else this.closeReasoning(pieces);
      return;
    }
    const kind = this.splitter.kind;
    if (kind === "reasoning") this.reasoningTokens++;
    if (logprobs !== undefined) this.waiting[kind].push({ ...logprobs, tokenId: id, textOffset: this.contentSeen });
    if (this.table.isSpecial(id) && !this.isText(id, this.table)) this.flushText(pieces);
    else this.pushText(this.detokenizer.push(id), pieces);
  }

  private isText(specialId: number, table: TokenTable): boolean {
    return this.keepSpecial || (this.tools !== null && isToolMark(Buffer.from(table.bytesOf(specialId)).toString()));
  }

  private flushText(pieces: OutputPiece[]): void {
    this.pushText(this.detokenizer?.flush() ?? "", pieces);
  }

  private closeReasoning(pieces: OutputPiece[]): void {
    if (this.splitter.kind !== "reasoning") return;
    for (const piece of this.splitter.flush()) this.emit(piece.kind, piece.text, pieces);
    if (this.waiting.reasoning.length > 0) pieceOf("reasoning", pieces).logprobs.push(...this.waiting.reasoning.splice(0));
    this.splitter.close();
  }

  private pushText(text: string, pieces: OutputPiece[]): void {
    if (text === "") return;
    if (this.splitter.isPast && this.tools === null) {
      this.contentSeen += text.length;
      this.pushContent(text, pieces);
      return;
    }
    for (const piece of this.splitter.push(text)) {
      if (piece.kind === "reasoning") {
        this.emit("reasoning", piece.text, pieces);
        continue;
      }
      this.contentSeen += piece.text.length;
      if (this.tools === null) this.pushContent(piece.text, pieces);
      else this.pushWithCalls(this.tools, piece.text, pieces);
      if (this.stopped) return;
    }
  }

  private pushWithCalls(tools: ToolCallParser, text: string, pieces: OutputPiece[]): void {
    for (const part of tools.push(text)) {
      if (part.kind === "text") {
        this.pushContent(part.text, pieces);
        if (this.stopped) return;
        continue;
      }
      // No stop string spans a call.
      if (part.kind === "call") this.emit("content", this.stops.flush(), pieces);
      const call = part.kind === "call" ? { index: part.index, name: part.name } : { index: part.index };
      const last = pieces.at(-1);
      const into = part.kind === "arguments" && last?.call?.index === part.index && last.call.name === undefined ? last : undefined;
      const logprobs = this.waiting.content.splice(0);
      if (into === undefined) pieces.push({ kind: "call", text: part.kind === "call" ? "" : part.text, logprobs, call });
      else {
        into.text += (part as { text: string }).text;
        into.logprobs.push(...logprobs);
      }
    }
  }

  private pushContent(text: string, pieces: OutputPiece[]): void {
    if (text === "") return;
    if (this.stops.isEmpty) {
      this.emit("content", text, pieces);
      return;
    }
    const found = this.stops.push(text);
    this.emit("content", found.stop !== null && this.keepStop ? found.text + found.stop : found.text, pieces);
    this.stop = found.stop;
  }

  private emit(kind: OutputKind, text: string, pieces: OutputPiece[]): void {
    if (text === "") return;
    const piece = pieceOf(kind, pieces);
    piece.text += text;
    const waiting = this.waiting[kind];
    if (kind === "content") this.contentOut += text.length;
    if (waiting.length === 0) return;
    const ready = kind === "reasoning" ? waiting.length : waiting.findIndex((entry) => entry.textOffset >= this.contentOut);
    piece.logprobs.push(...waiting.splice(0, ready < 0 ? waiting.length : ready));
  }
}

function pieceOf(kind: OutputKind, pieces: OutputPiece[]): OutputPiece {
  const last = pieces.at(-1);
  if (last?.kind === kind) return last;
  const piece: OutputPiece = { kind, text: "", logprobs: [] };
  pieces.push(piece);
  return piece;
}
