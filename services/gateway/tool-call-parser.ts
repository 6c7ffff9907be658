// Takes tool calls out of an answer's text as it comes. The grammar has seen to it that the text is well formed (lib/grammar/text-format.ts);
// where a call ends is found by reading its arguments as JSON, since a string in them may hold any mark. Pure.
import { PelagicError } from "../lib/contracts/errors.ts";
import { opening, type ToolSyntax } from "../lib/grammar/tool-syntax.ts";
import { StopMatcher } from "./stop-matcher.ts";

export type AnswerPart =
  | { kind: "text"; text: string }
  /** A call begins; the first has index 0. */
  | { kind: "call"; index: number; name: string }
  | { kind: "arguments"; index: number; text: string };

export class ToolCallParser {
  /** Calls begun so far. */
  calls = 0;

  private readonly syntax: ToolSyntax;
  private readonly mark: StopMatcher;
  private state: "text" | "name" | "arguments" | "end" | "between" = "text";
  /** Of a name or a mark, what has come. */
  private held = "";
  private readonly json = new JsonEnd();

  constructor(syntax: ToolSyntax) {
    this.syntax = syntax;
    this.mark = new StopMatcher([opening(syntax)]);
  }

  push(text: string): AnswerPart[] {
    const parts: AnswerPart[] = [];
    let rest = text;
    while (rest !== "") rest = this.take(rest, parts);
    return parts;
  }

  /** The answer ended: text that could have been the beginning of a call is text. */
  flush(): string {
    return this.state === "text" ? this.mark.flush() : "";
  }

  /** Takes what belongs to the present state, and returns the rest. */
  private take(text: string, parts: AnswerPart[]): string {
    const { syntax } = this;
    switch (this.state) {
      case "text": {
        const found = this.mark.push(text);
        if (found.text !== "") parts.push({ kind: "text", text: found.text });
        if (found.stop !== null) this.state = "name";
        return text.slice(found.consumed);
      }
      case "name": {
        const seen = this.held + text;
        const end = seen.indexOf(syntax.afterName);
        if (end < 0) {
          this.held = seen;
          return "";
        }
        parts.push({ kind: "call", index: this.calls++, name: seen.slice(0, end) });
        this.become("arguments");
        this.json.begin();
        return seen.slice(end + syntax.afterName.length);
      }
      case "arguments": {
        const length = this.json.push(text);
        if (length > 0) parts.push({ kind: "arguments", index: this.calls - 1, text: text.slice(0, length) });
        if (this.json.ended) this.become("end");
        return text.slice(length);
      }
      case "end":
        return this.literal(syntax.callEnd, text, "between");
      case "between": {
        const next = syntax.between + syntax.callBegin;
        const seen = this.held + text;
        if (syntax.sectionEnd !== "" && (syntax.sectionEnd.startsWith(seen) || seen.startsWith(syntax.sectionEnd))) {
          this.held = seen.startsWith(syntax.sectionEnd) ? "" : seen;
          return seen.slice(syntax.sectionEnd.length);
        }
        return this.literal(next, text, "name");
      }
    }
  }

  private literal(expected: string, text: string, then: "between" | "name"): string {
    const seen = this.held + text;
    if (seen.length < expected.length && expected.startsWith(seen)) {
      this.held = seen;
      return "";
    }
    if (!seen.startsWith(expected)) throw new PelagicError("internal", "a tool call is not in the form that its grammar has");
    this.become(then);
    return seen.slice(expected.length);
  }

  private become(state: "name" | "arguments" | "end" | "between"): void {
    this.state = state;
    this.held = "";
  }
}

/** Finds where one JSON object or array ends. */
class JsonEnd {
  ended = false;
  private depth = 0;
  private inString = false;
  private escaped = false;

  begin(): void {
    this.ended = false;
    this.depth = 0;
  }

  /** How much of the text belongs to the value. */
  push(text: string): number {
    for (let i = 0; i < text.length; i++) {
      const character = text[i];
      if (this.escaped) this.escaped = false;
      else if (this.inString) {
        if (character === "\\") this.escaped = true;
        else if (character === '"') this.inString = false;
      } else if (character === '"') this.inString = true;
      else if (character === "{" || character === "[") this.depth++;
      else if (character === "}" || character === "]") {
        this.depth--;
        if (this.depth === 0) {
          this.ended = true;
          return i + 1;
        }
      }
    }
    return text.length;
  }
}
