// Regular expressions (the part of ECMA-262 that describes regular languages) as grammars of the contents of JSON strings: a quote, a
// backslash and control characters stand there escaped. Pure.
import type { Range } from "./ascii.ts";
import { complement, either, type Expression, empty, repeat, sequence, text } from "./expression.ts";

/** A pattern that cannot be a grammar; the message says what in it. */
export class UnsupportedPattern extends Error {}

const unsupported = (what: string) => new UnsupportedPattern(`${what} is not supported`);

type Ranges = Range[];
const lastPoint = 0x10ffff;
const maxRepeat = 1_000;
const maxDepth = 50;

const classes: Record<string, Ranges> = {
  d: [[0x30, 0x39]],
  w: [
    [0x30, 0x39],
    [0x41, 0x5a],
    [0x5f, 0x5f],
    [0x61, 0x7a],
  ],
  // Of white space what a text may well have.
  s: [
    [0x09, 0x0a],
    [0x0d, 0x0d],
    [0x20, 0x20],
  ],
};
/** All that ECMA-262's \s matches: what is not to be white space must be none of it. */
const whiteSpace: Ranges = [
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
];
const controls: Record<string, number> = { n: 10, r: 13, t: 9, f: 12, v: 11, "0": 0 };

/** Any characters of a JSON string. */
export const anyCharacter: Expression = inString([[0, lastPoint]]);

/** Texts that the pattern matches as a whole, outside of any JSON. Throws UnsupportedPattern. */
export function rawPatternGrammar(pattern: string): Expression {
  return new PatternParser(pattern, (ranges) => ({ kind: "characters", ranges }), false).parse();
}

/** Strings in which the pattern is found somewhere, as JSON Schema means it: `^` and `$` tie it to the ends. Throws UnsupportedPattern. */
export function patternGrammar(pattern: string): Expression {
  return new PatternParser(pattern, inString, true).parse();
}

class PatternParser {
  private readonly characters: string[];
  private readonly one: (ranges: Ranges) => Expression;
  private readonly searches: boolean;
  private at = 0;

  /** `one`: how one of these characters is written. `searches`: the pattern may match a part. */
  constructor(pattern: string, one: (ranges: Ranges) => Expression, searches: boolean) {
    this.characters = [...pattern];
    this.one = one;
    this.searches = searches;
  }

  parse(): Expression {
    const choices: Expression[] = [this.anchoredBranch()];
    while (this.take("|")) choices.push(this.anchoredBranch());
    if (this.at < this.characters.length) throw new UnsupportedPattern(`a "${this.characters[this.at]}" too many`);
    return either(...choices);
  }

  /** At the top: `^` and `$` may stand at the ends of each alternative; without them anything may go before or follow. */
  private anchoredBranch(): Expression {
    const anything = repeat(anyCharacter, 0, null);
    const begins = this.take("^");
    const parts = this.terms(0);
    const ends = this.take("$");
    return sequence(...(begins || !this.searches ? [] : [anything]), ...parts, ...(ends || !this.searches ? [] : [anything]));
  }

  private choice(depth: number): Expression {
    if (depth > maxDepth) throw new UnsupportedPattern(`groups nested deeper than ${maxDepth} are not supported`);
    const choices: Expression[] = [sequence(...this.terms(depth))];
    while (this.take("|")) choices.push(sequence(...this.terms(depth)));
    return either(...choices);
  }

  private terms(depth: number): Expression[] {
    const parts: Expression[] = [];
    for (let next = this.peek(); next !== undefined && next !== "|" && next !== ")"; next = this.peek()) {
      if (next === "$" && (this.characters[this.at + 1] === undefined || this.characters[this.at + 1] === "|")) break;
      parts.push(this.quantified(this.atom(depth)));
    }
    return parts.length === 0 ? [empty] : parts;
  }

  private atom(depth: number): Expression {
    const character = this.next();
    switch (character) {
      case "(": {
        if (this.take("?")) {
          // Named or not, what a group captures is nobody's concern here.
          if (this.take("<")) {
            if (this.peek() === "=" || this.peek() === "!") throw unsupported("lookbehind");
            while (this.next() !== ">");
          } else if (!this.take(":")) throw unsupported("lookahead");
        }
        const inner = this.choice(depth + 1);
        if (!this.take(")")) throw new UnsupportedPattern("a group without an end");
        return inner;
      }
      case "[":
        return this.bracket();
      case ".":
        return this.one(
          complement([
            [10, 10],
            [13, 13],
            [0x2028, 0x2029],
          ]),
        );
      case "\\":
        return this.escape();
      case "^":
      case "$":
        throw unsupported(`"${character}" elsewhere than at an end`);
      case "*":
      case "+":
      case "?":
      case ")":
        throw new UnsupportedPattern(`"${character}" with nothing before it`);
      default:
        return this.one([point(character)]);
    }
  }

  private escape(): Expression {
    const character = this.next();
    if (character === "b" || character === "B") throw unsupported("a word boundary");
    if (/[1-9k]/.test(character)) throw unsupported("a backreference");
    return this.one(this.escapedRanges(character));
  }

  /** `excluded`: these are what may not come. */
  private escapedRanges(character: string, excluded = false): Ranges {
    const lower = character.toLowerCase();
    const isNegated = character !== lower;
    const known = lower === "s" && (isNegated || excluded) ? whiteSpace : classes[lower];
    if (known !== undefined) return isNegated ? complement(known) : known;
    if (character === "p" || character === "P") throw unsupported("a Unicode property");
    const control = controls[character];
    if (control !== undefined) return [[control, control]];
    if (character === "x" || character === "u") {
      const hex = this.take("{") ? this.until("}") : this.several(character === "x" ? 2 : 4);
      const code = /^[0-9a-fA-F]{1,6}$/.test(hex) ? Number.parseInt(hex, 16) : lastPoint + 1;
      if (code > lastPoint || (code >= 0xd800 && code <= 0xdfff)) throw unsupported(`\\${character}${hex}`);
      return [[code, code]];
    }
    if (/[A-Za-z]/.test(character)) throw unsupported(`\\${character}`);
    return [point(character)];
  }

  private bracket(): Expression {
    const negated = this.take("^");
    const ranges: Ranges = [];
    while (!this.take("]")) {
      const from = this.member(negated);
      if (this.peek() === "-" && this.characters[this.at + 1] !== "]" && from.length === 1) {
        this.at++;
        const to = this.member(negated);
        const [low, high] = [from[0] as [number, number], to[0] as [number, number]];
        if (to.length !== 1 || low[0] !== low[1] || high[0] !== high[1] || high[0] < low[0])
          throw new UnsupportedPattern("a range out of order");
        ranges.push([low[0], high[0]]);
      } else ranges.push(...from);
    }
    return this.one(negated ? complement(ranges) : ranges);
  }

  private member(excluded: boolean): Ranges {
    const character = this.next();
    if (character !== "\\") return [point(character)];
    const escaped = this.next();
    return escaped === "b" ? [[8, 8]] : this.escapedRanges(escaped, excluded);
  }

  private quantified(part: Expression): Expression {
    const bounds = this.quantifier();
    if (bounds === null) return part;
    this.take("?");
    if ("*+?{".includes(this.peek() ?? " ")) throw new UnsupportedPattern("a quantifier of a quantifier");
    const [least, most] = bounds;
    if (least > maxRepeat || (most !== null && (most > maxRepeat || most < least)))
      throw new UnsupportedPattern(
        `{${least},${most ?? ""}} is not supported: at most ${maxRepeat} repeats, and the first number not above the second`,
      );
    return repeat(part, least, most);
  }

  private quantifier(): [number, number | null] | null {
    if (this.take("*")) return [0, null];
    if (this.take("+")) return [1, null];
    if (this.take("?")) return [0, 1];
    if (this.peek() !== "{") return null;
    const end = this.characters.indexOf("}", this.at);
    const found = /^(\d{1,6})(,(\d{0,6}))?$/.exec(this.characters.slice(this.at + 1, end < 0 ? this.at : end).join(""));
    if (found === null) throw unsupported('a "{" that is no quantifier');
    this.at = end + 1;
    const least = Number(found[1]);
    return [least, found[2] === undefined ? least : found[3] === "" ? null : Number(found[3])];
  }

  private several(count: number): string {
    return Array.from({ length: count }, () => this.next()).join("");
  }

  private until(last: string): string {
    let found = "";
    for (let character = this.next(); character !== last; character = this.next()) found += character;
    return found;
  }

  private peek(): string | undefined {
    return this.characters[this.at];
  }

  private next(): string {
    const character = this.characters[this.at++];
    if (character === undefined) throw new UnsupportedPattern("it ends in the middle of a group, a class or an escape");
    return character;
  }

  private take(character: string): boolean {
    if (this.characters[this.at] !== character) return false;
    this.at++;
    return true;
  }
}

function point(character: string): [number, number] {
  const code = character.codePointAt(0) as number;
  return [code, code];
}

/** One of these code points as a JSON string has it. Surrogates are no characters, and never come. */
function inString(ranges: Ranges): Expression {
  const has = (code: number) => ranges.some(([from, to]) => from <= code && code <= to);
  const plain = complement([...complement(ranges), [0, 0x1f], [0x22, 0x22], [0x5c, 0x5c]]);
  const choices: Expression[] = plain.length === 0 ? [] : [{ kind: "characters", ranges: plain }];
  for (const [code, short] of [
    [0x22, '\\"'],
    [0x5c, "\\\\"],
    [0x08, "\\b"],
    [0x09, "\\t"],
    [0x0a, "\\n"],
    [0x0c, "\\f"],
    [0x0d, "\\r"],
  ] as const) {
    if (has(code)) choices.push(text(short));
  }
  // Other control characters only where they are meant by name.
  for (let code = 0; code < 0x20; code++) {
    const named = ranges.some(([from, to]) => from <= code && code <= to && to < 0x20);
    if (named && ![8, 9, 10, 12, 13].includes(code)) choices.push(text(`\\u${code.toString(16).padStart(4, "0")}`));
  }
  // Nothing fits: a set of characters that has none.
  return choices.length === 0 ? { kind: "characters", ranges: [] } : either(...choices);
}
