// What a client may ask an answer to be, as a grammar. Pure.
import { PelagicError } from "../contracts/errors.ts";
import { either, expandedSize, type Grammar, repeat, rule, sequence, text, toEbnf } from "./expression.ts";
import { jsonObjectGrammar, schemaGrammar, UnsupportedSchema } from "./json-schema.ts";
import { rawPatternGrammar, UnsupportedPattern } from "./pattern-grammar.ts";

export type TextFormat =
  | { kind: "json-object" }
  /** `param`: the request field that holds the schema, for errors. */
  | { kind: "json-schema"; schema: unknown; param: string }
  | { kind: "choice"; choices: readonly string[] }
  | { kind: "regex"; pattern: string; param: string };

/** What a grammar may have of repeated parts, all counted. */
const maxExpandedSize = 50_000;
const maxEbnfCharacters = 200_000;

/** EBNF. `behindThought`: newlines may come first. Throws a PelagicError that names the field and what in it. */
export function formatEbnf(format: TextFormat, behindThought: boolean): string {
  const grammar = new Map(grammarOf(format));
  const size = [...grammar.values()].reduce((sum, expression) => sum + expandedSize(expression), 0);
  if (size > maxExpandedSize) throw tooLarge(format, `its repeats come to ${size} parts, of ${maxExpandedSize}`);
  if (behindThought) {
    grammar.set("answer", grammar.get("root") as NonNullable<ReturnType<Grammar["get"]>>);
    grammar.set("root", sequence(repeat(text("\n"), 0, 2), rule("answer")));
  }
  const ebnf = toEbnf(grammar);
  if (ebnf.length > maxEbnfCharacters) throw tooLarge(format, `its grammar has ${ebnf.length} characters, of ${maxEbnfCharacters}`);
  return ebnf;
}

function tooLarge(format: TextFormat, why: string): PelagicError {
  const param = "param" in format ? format.param : "response_format";
  return new PelagicError("invalid_request", `${param}: too large: ${why}`, { param });
}

function grammarOf(format: TextFormat): Grammar {
  switch (format.kind) {
    case "json-object":
      return jsonObjectGrammar();
    case "choice":
      return new Map([["root", either(...format.choices.map(text))]]);
    case "json-schema":
      try {
        return schemaGrammar(format.schema);
      } catch (error) {
        if (!(error instanceof UnsupportedSchema)) throw error;
        const param = format.param + error.path;
        throw new PelagicError("invalid_request", `${param}: ${error.message}`, { param });
      }
    case "regex":
      try {
        return new Map([["root", rawPatternGrammar(format.pattern)]]);
      } catch (error) {
        if (!(error instanceof UnsupportedPattern)) throw error;
        throw new PelagicError("invalid_request", `${format.param}: ${error.message} is not supported`, { param: format.param });
      }
  }
}
