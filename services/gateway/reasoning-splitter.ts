// Splits an answer into reasoning and content at `</think>`. The tag belongs to neither, and the newlines after it are dropped.
// Where the tokenizer has the tag as a token, open() and close() are called for it; else it is found in the text, across pieces.
import { StopMatcher } from "./stop-matcher.ts";

export type OutputKind = "reasoning" | "content";

export interface OutputText {
  kind: OutputKind;
  text: string;
}

const openTag = "<think>";

export class ReasoningSplitter {
  private state: "start" | "reasoning" | "newlines" | "content";
  private readonly closeTag: StopMatcher | null;
  private held = "";
  private newlineFollowsTag = false;
  private answered = false;

  /** `reasoning`: the prompt ended inside `<think>`. `tagsAreTokens`: text never contains a tag that counts. */
  constructor(options: { reasoning: boolean; tagsAreTokens: boolean }) {
    this.state = options.reasoning ? "start" : "content";
    this.closeTag = options.tagsAreTokens ? null : new StopMatcher(["</think>"]);
  }

  get kind(): OutputKind {
    return this.state === "start" || this.state === "reasoning" ? "reasoning" : "content";
  }

  /** All that comes is content, until a token says otherwise. */
  get isPast(): boolean {
    return this.state === "content" && this.answered;
  }

  /** The token `<think>`: begins reasoning before anything was said; later it says nothing. */
  open(): void {
    if (this.state === "reasoning" || this.state === "newlines" || this.answered) return;
    this.state = "start";
    this.newlineFollowsTag = true;
  }

  /** The token `</think>`. */
  close(): void {
    if (this.kind === "reasoning") this.state = "newlines";
  }

  push(text: string): OutputText[] {
    const pieces: OutputText[] = [];
    let rest = text;
    if (this.state === "start") rest = this.dropOpenTag(rest);
    if (this.state === "reasoning") rest = this.takeReasoning(rest, pieces);
    if (this.state === "newlines") {
      let skip = 0;
      while (rest[skip] === "\n" || rest[skip] === "\r") skip++;
      rest = rest.slice(skip);
      if (rest !== "") this.state = "content";
    }
    if (this.state === "content" && rest !== "") {
      this.answered = true;
      pieces.push({ kind: "content", text: rest });
    }
    return pieces;
  }

  /** The stream ended, or the tag came as a token: what was held back is reasoning. */
  flush(): OutputText[] {
    const text = (this.held === openTag ? "" : this.held) + (this.closeTag?.flush() ?? "");
    this.held = "";
    return text === "" ? [] : [{ kind: "reasoning", text }];
  }

  /** Some models repeat the tag that the prompt ended with. */
  private dropOpenTag(text: string): string {
    if (this.closeTag === null) {
      if (text === "") return "";
      this.state = "reasoning";
      return this.newlineFollowsTag && text.startsWith("\n") ? text.slice(1) : text;
    }
    const seen = this.held + text;
    if (seen.length < openTag.length + 1 && (openTag.startsWith(seen) || seen === openTag)) {
      this.held = seen;
      return "";
    }
    this.held = "";
    this.state = "reasoning";
    if (!seen.startsWith(openTag)) return seen;
    return seen[openTag.length] === "\n" ? seen.slice(openTag.length + 1) : seen.slice(openTag.length);
  }

  /** Returns what follows the closing tag. */
  private takeReasoning(text: string, pieces: OutputText[]): string {
    if (this.closeTag === null) {
      if (text !== "") pieces.push({ kind: "reasoning", text });
      return "";
    }
    const found = this.closeTag.push(text);
    if (found.text !== "") pieces.push({ kind: "reasoning", text: found.text });
    if (found.stop === null) return "";
    this.state = "newlines";
    return text.slice(found.consumed);
  }
}
