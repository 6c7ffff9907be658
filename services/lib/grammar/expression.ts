// Grammars as data: expressions over Unicode text, named rules, and their EBNF form, which matcher.ts compiles. Pure.
import { byteRanges, classOf, type Range, textOf } from "./ascii.ts";

export type Expression =
  | { kind: "text"; text: string }
  /** One character of these. */
  | { kind: "characters"; ranges: readonly Range[] }
  | { kind: "sequence"; parts: readonly Expression[] }
  | { kind: "either"; choices: readonly Expression[] }
  | { kind: "repeat"; part: Expression; least: number; most: number | null }
  | { kind: "rule"; name: string }
  /** Any text, up to this mark if it comes; behind the mark the rule, and then the end. Only as the whole of a rule. */
  | { kind: "until"; mark: string; rule: string };

/** Rule `root` is what a text must match as a whole. */
export type Grammar = ReadonlyMap<string, Expression>;

export const empty: Expression = { kind: "text", text: "" };
export const text = (value: string): Expression => ({ kind: "text", text: value });
export const rule = (name: string): Expression => ({ kind: "rule", name });
export const sequence = (...parts: Expression[]): Expression =>
  parts.length === 1 ? (parts[0] as Expression) : { kind: "sequence", parts };
export const either = (...choices: Expression[]): Expression =>
  choices.length === 1 ? (choices[0] as Expression) : { kind: "either", choices };
export const optional = (part: Expression): Expression => ({ kind: "repeat", part, least: 0, most: 1 });
export const repeat = (part: Expression, least: number, most: number | null): Expression =>
  least === 1 && most === 1 ? part : { kind: "repeat", part, least, most };

/** `characters("a-z_")`: ranges and single characters, as in a regular expression's brackets without escapes. */
export function characters(set: string): Expression {
  const points = [...set].map((character) => character.codePointAt(0) as number);
  const ranges: [number, number][] = [];
  for (let i = 0; i < points.length; i++) {
    const from = points[i] as number;
    const isRange = points[i + 1] === 0x2d && i + 2 < points.length;
    ranges.push([from, isRange ? (points[i + 2] as number) : from]);
    if (isRange) i += 2;
  }
  return { kind: "characters", ranges };
}

/** XGrammar's EBNF over the bytes of UTF-8, as ascii.ts writes them. */
export function toEbnf(grammar: Grammar): string {
  const runs = new Runs();
  const written = [...grammar].map(([name, expression]) => `${name} ::= ${print(expression, runs)}\n`);
  return [...written, ...runs.rules()].join("");
}

function print(expression: Expression, runs: Runs): string {
  switch (expression.kind) {
    case "text":
      return `"${textOf(new TextEncoder().encode(expression.text))}"`;
    case "characters":
    case "either":
      return `(${alternatives(expression, runs).join(" | ")})`;
    case "sequence":
      return expression.parts.length === 0 ? '""' : `(${expression.parts.map((part) => print(part, runs)).join(" ")})`;
    case "repeat": {
      const { part, least, most } = expression;
      if (isRun(expression)) return runs.write(alternatives(part, runs), least, most);
      const times = least === 0 && most === 1 ? "?" : least === 0 && most === null ? "*" : `{${least},${most ?? ""}}`;
      return `(${print(part, runs)})${times}`;
    }
    case "rule":
      return expression.name;
    case "until":
      return `TagDispatch(("${textOf(new TextEncoder().encode(expression.mark))}", ${expression.rule}), stop_eos=true, loop_after_dispatch=false)`;
  }
}

/** The same grammar with every rule's name behind a prefix, to stand beside others. */
export function prefixed(grammar: Grammar, prefix: string): Map<string, Expression> {
  return new Map([...grammar].map(([name, expression]) => [prefix + name, renamed(expression, prefix)]));
}

function renamed(expression: Expression, prefix: string): Expression {
  const inner = (part: Expression) => renamed(part, prefix);
  switch (expression.kind) {
    case "text":
    case "characters":
      return expression;
    case "sequence":
      return { ...expression, parts: expression.parts.map(inner) };
    case "either":
      return { ...expression, choices: expression.choices.map(inner) };
    case "repeat":
      return { ...expression, part: inner(expression.part) };
    case "rule":
      return rule(prefix + expression.name);
    case "until":
      return { ...expression, rule: prefix + expression.rule };
  }
}

/** Side by side, not in groups of their own: XGrammar is a hundred times slower where a token ends in one group and begins in another. */
function alternatives(expression: Expression, runs: Runs): string[] {
  if (expression.kind === "either") return expression.choices.flatMap((choice) => alternatives(choice, runs));
  if (expression.kind !== "characters") return [print(expression, runs)];
  const sequences = expression.ranges.flatMap(([from, to]) => utf8Ranges(from, to));
  const ascii = sequences.flatMap((bytes) => (bytes.length === 1 ? [classOf(...(bytes[0] as Range))] : []));
  const longer = sequences.filter((bytes) => bytes.length > 1).flatMap(inOrder);
  // A class of nothing matches nothing.
  if (ascii.length + longer.length === 0) return ["[^\\u0000-\\u007f]"];
  return ascii.length === 0 ? longer : [`[${ascii.join("")}]`, ...longer];
}

/** Characters of a run that are told apart from one another. */
const runUnit = 16;
const longestWhole = 3 * runUnit;

/** Many single characters, one behind the other. */
function isRun({ part, least, most }: Expression & { kind: "repeat" }): boolean {
  const single =
    part.kind === "characters" || (part.kind === "either" && part.choices.every(({ kind }) => kind === "characters" || kind === "text"));
  return single && Math.max(least, most ?? 0) > longestWhole;
}

/**
 * Each state of a grammar in which a character may come is compared with every token of a large vocabulary, so a string of up to 1,000 characters
 * would take a minute. As units of a few characters, which all runs of the same characters share, it takes a second.
 */
class Runs {
  /** By their alternatives: which rules are there. */
  private readonly names = new Map<string, { unit: string; longestTail: number; alternatives: string[] }>();

  write(alternatives: string[], least: number, most: number | null): string {
    const key = alternatives.join(" | ");
    const names = this.names.get(key) ?? { unit: `run${this.names.size}`, longestTail: 0, alternatives };
    this.names.set(key, names);
    const one = `(${key})`;
    const exactly = [`${names.unit}{${Math.floor(least / runUnit)}}`, ...Array<string>(least % runUnit).fill(one)];
    const required = least < runUnit ? exactly.slice(1) : exactly;
    if (most === null) return `(${[...required, `${one}*`].join(" ")})`;
    const more = most - least;
    const units = Math.max(0, Math.floor(more / runUnit) - 1);
    const tail = more - units * runUnit;
    names.longestTail = Math.max(names.longestTail, tail);
    const optional = [...(units > 0 ? [`${names.unit}{0,${units}}`] : []), ...(tail > 0 ? [`${names.unit}at${tail}`] : [])];
    return `(${[...required, ...optional].join(" ")})`;
  }

  *rules(): Generator<string> {
    for (const { unit, longestTail, alternatives } of this.names.values()) {
      yield `${unit} ::= ${Array<string>(runUnit)
        .fill(`(${alternatives.join(" | ")})`)
        .join(" ")}\n`;
      for (let tail = 1; tail <= longestTail; tail++) {
        const rest = tail === 1 ? "" : ` ${unit}at${tail - 1}`;
        yield `${unit}at${tail} ::= "" | ${alternatives.map((one) => one + rest).join(" | ")}\n`;
      }
    }
  }
}

/** Ranges of bytes one behind the other. */
function inOrder(bytes: readonly Range[]): string[] {
  return bytes.reduce<string[]>((before, range) => before.flatMap((one) => byteRanges(range).map((next) => `${one} ${next}`.trim())), [""]);
}

const lastPoint = 0x10ffff;

/** The code points that are not in the ranges. */
export function complement(ranges: readonly Range[]): Range[] {
  const out: Range[] = [];
  let next = 0;
  for (const [from, to] of [...ranges].sort((a, b) => a[0] - b[0])) {
    if (from > next) out.push([next, from - 1]);
    next = Math.max(next, to + 1);
  }
  if (next <= lastPoint) out.push([next, lastPoint]);
  return out;
}

/** The UTF-8 forms of the code points from `from` to `to`, surrogates left out: each a sequence of ranges of bytes. */
export function utf8Ranges(from: number, to: number): Range[][] {
  const out: Range[][] = [];
  for (const [low, high, length] of [
    [0, 0x7f, 1],
    [0x80, 0x7ff, 2],
    [0x800, 0xd7ff, 3],
    [0xe000, 0xffff, 3],
    [0x10000, lastPoint, 4],
  ] as const) {
    if (from <= high && to >= low) split(Math.max(from, low), Math.min(to, high), length, out);
  }
  return out;
}

/** Cuts a range of one length until the bytes of its ends are the bounds of each byte between. */
function split(from: number, to: number, length: number, out: Range[][]): void {
  for (let byte = 1; byte < length; byte++) {
    const last = 2 ** (6 * byte) - 1;
    if (Math.floor(from / (last + 1)) === Math.floor(to / (last + 1))) continue;
    if (from % (last + 1) !== 0) {
      const end = from + last - (from % (last + 1));
      split(from, end, length, out);
      split(end + 1, to, length, out);
      return;
    }
    if (to % (last + 1) !== last) {
      const begin = to - (to % (last + 1));
      split(from, begin - 1, length, out);
      split(begin, to, length, out);
      return;
    }
  }
  const [low, high] = [Buffer.from(String.fromCodePoint(from)), Buffer.from(String.fromCodePoint(to))];
  out.push(Array.from(low, (byte, i): Range => [byte, high[i] as number]));
}

/** Parts of the expression when its repeats are written out; rules count once. */
export function expandedSize(expression: Expression): number {
  switch (expression.kind) {
    case "text":
    case "characters":
    case "rule":
    case "until":
      return 1;
    case "sequence":
      return expression.parts.reduce((sum, part) => sum + expandedSize(part), 0);
    case "either":
      return expression.choices.reduce((sum, choice) => sum + expandedSize(choice), 0);
    case "repeat": {
      const times = Math.max(1, expression.most ?? expression.least);
      return expandedSize(expression.part) * (isRun(expression) ? Math.min(times, longestWhole) : times);
    }
  }
}

/** Rules that some finite text matches; one that is missing here can begin and never end. */
export function productiveRules(grammar: Grammar): ReadonlySet<string> {
  const productive = new Set<string>();
  for (let before = -1; before !== productive.size; ) {
    before = productive.size;
    for (const [name, expression] of grammar) if (canEnd(expression, productive)) productive.add(name);
  }
  return productive;
}

function canEnd(expression: Expression, productive: ReadonlySet<string>): boolean {
  const ends = (part: Expression) => canEnd(part, productive);
  switch (expression.kind) {
    case "text":
    case "until":
      return true;
    case "characters":
      // Surrogates are no characters.
      return expression.ranges.some(([from, to]) => utf8Ranges(from, to).length > 0);
    case "sequence":
      return expression.parts.every(ends);
    case "either":
      return expression.choices.some(ends);
    case "repeat":
      return expression.least === 0 || ends(expression.part);
    case "rule":
      return productive.has(expression.name);
  }
}

/** The same texts, without ways that lead to none: who went one would find no token to go on with. null: there is no text at all. */
export function withoutDeadEnds(grammar: Grammar): Grammar | null {
  const productive = productiveRules(grammar);
  if (!productive.has("root")) return null;
  const rewrite = (expression: Expression): Expression => {
    switch (expression.kind) {
      case "sequence":
        return { ...expression, parts: expression.parts.map(rewrite) };
      case "either":
        return { ...expression, choices: expression.choices.filter((choice) => canEnd(choice, productive)).map(rewrite) };
      case "repeat":
        return canEnd(expression.part, productive) ? { ...expression, part: rewrite(expression.part) } : empty;
      default:
        return expression;
    }
  };
  return new Map([...grammar].filter(([name]) => productive.has(name)).map(([name, expression]) => [name, rewrite(expression)]));
}
