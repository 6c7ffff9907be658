// What a client may ask an answer to be, as a grammar. Pure.
import { PelagicError } from "../contracts/errors.ts";
import {
  either,
  expandedSize,
  type Expression,
  type Grammar,
  prefixed,
  repeat,
  rule,
  sequence,
  text,
  toEbnf,
  withoutDeadEnds,
} from "./expression.ts";
import { jsonObjectGrammar, schemaGrammar } from "./json-schema.ts";
import { UnsupportedSchema } from "./schema-keywords.ts";
import { rawPatternGrammar, UnsupportedPattern } from "./pattern-grammar.ts";
import { opening, type ToolSyntax } from "./tool-syntax.ts";

export type TextFormat =
  | { kind: "json-object" }
  /** `param`: the request field that holds the schema, for errors. Not `strict`: what cannot be kept is let go, and told. */
  | { kind: "json-schema"; schema: unknown; param: string; strict: boolean }
  | { kind: "choice"; choices: readonly string[] }
  | { kind: "regex"; pattern: string; param: string }
  /** Calls of these, or else `answer`: a format, any text, or nothing but calls (null). */
  | {
      kind: "tools";
      syntax: ToolSyntax;
      tools: readonly { name: string; parameters: unknown; param: string; strict: boolean }[];
      parallel: boolean;
      answer: TextFormat | "text" | null;
    };

/** What a grammar may have of repeated parts, all counted. */
const maxExpandedSize = 50_000;
const maxEbnfCharacters = 200_000;

export interface FormatEbnf {
  ebnf: string;
  /** What schemas that are not strict ask for and the grammar does not keep: where, and which keyword. */
  notKept: string[];
}

/** `behindThought`: newlines may come first. Throws a PelagicError that names the field and what in it. */
export function formatEbnf(format: TextFormat, behindThought: boolean): FormatEbnf {
  const notKept = new Set<string>();
  const grammar = new Map(withoutDeadEnds(grammarOf(format, notKept)) ?? []);
  if (grammar.size === 0) {
    const param = paramOf(format);
    throw new PelagicError("invalid_request", `${param}: no answer fits it`, { param });
  }
  const size = [...grammar.values()].reduce((sum, expression) => sum + expandedSize(expression), 0);
  if (size > maxExpandedSize) throw tooLarge(format, `its repeats come to ${size} parts, at most ${maxExpandedSize}`);
  if (behindThought) {
    grammar.set("answer", grammar.get("root") as Expression);
    grammar.set("root", sequence(repeat(text("\n"), 0, 2), rule("answer")));
  }
  const ebnf = toEbnf(grammar);
  if (ebnf.length > maxEbnfCharacters) throw tooLarge(format, `its grammar has ${ebnf.length} characters, at most ${maxEbnfCharacters}`);
  return { ebnf, notKept: [...notKept] };
}

/** The request's field that asks for it. */
export function paramOf(format: TextFormat): string {
  if ("param" in format) return format.param;
  return format.kind === "tools" ? "tools" : format.kind === "choice" ? "structured_outputs.choice" : "response_format";
}

function tooLarge(format: TextFormat, why: string): PelagicError {
  const param = paramOf(format);
  return new PelagicError("invalid_request", `${param}: too large: ${why}`, { param });
}

function grammarOf(format: TextFormat, notKept: Set<string>): Grammar {
  switch (format.kind) {
    case "json-object":
      return jsonObjectGrammar();
    case "choice":
      return new Map([["root", either(...format.choices.map(text))]]);
    case "json-schema":
      return grammarOfSchema(format.schema, format, notKept);
    case "tools":
      return toolsGrammar(format, notKept);
    case "regex":
      try {
        return new Map([["root", rawPatternGrammar(format.pattern)]]);
      } catch (error) {
        if (!(error instanceof UnsupportedPattern)) throw error;
        throw new PelagicError("invalid_request", `${format.param}: ${error.message}`, { param: format.param });
      }
  }
}

function grammarOfSchema(schema: unknown, { param: field, strict }: { param: string; strict: boolean }, notKept: Set<string>): Grammar {
  try {
    return schemaGrammar(schema, strict ? undefined : (path, keyword) => notKept.add(`${field}${path}: ${keyword}`));
  } catch (error) {
    if (!(error instanceof UnsupportedSchema)) throw error;
    const param = field + error.path;
    throw new PelagicError("invalid_request", `${param}: ${error.message}`, { param });
  }
}

function toolsGrammar({ syntax, tools, parallel, answer }: TextFormat & { kind: "tools" }, notKept: Set<string>): Grammar {
  const grammar = new Map<string, Expression>();
  const calls = tools.map((tool, i) => {
    for (const [name, expression] of prefixed(grammarOfSchema(tool.parameters, tool, notKept), `t${i}_`)) grammar.set(name, expression);
    return sequence(text(tool.name + syntax.afterName), rule(`t${i}_root`), text(syntax.callEnd));
  });
  grammar.set("call", either(...calls));
  const more = parallel ? [repeat(sequence(text(syntax.between + syntax.callBegin), rule("call")), 0, null)] : [];
  grammar.set("calls", sequence(rule("call"), ...more, text(syntax.sectionEnd)));
  const onlyCalls = sequence(text(opening(syntax)), rule("calls"));
  if (answer === null) grammar.set("root", onlyCalls);
  else if (answer === "text") grammar.set("root", { kind: "until", mark: opening(syntax), rule: "calls" });
  else {
    for (const [name, expression] of prefixed(grammarOf(answer, notKept), "a_")) grammar.set(name, expression);
    grammar.set("root", either(onlyCalls, rule("a_root")));
  }
  return grammar;
}
