// What the client asks the answer to be, of its response format and its tools. Pure.
import { PelagicError } from "../lib/contracts/errors.ts";
import type { ChatCompletionRequest, CompletionRequest } from "../lib/contracts/http.ts";
import type { TextFormat } from "../lib/grammar/text-format.ts";
import type { ToolSyntax } from "../lib/grammar/tool-syntax.ts";
import { isTooDeep, maxJsonDepth } from "./json-depth.ts";

type Formats = Pick<CompletionRequest, "response_format" | "structured_outputs">;
type Tools = Pick<ChatCompletionRequest, "tools" | "tool_choice" | "parallel_tool_calls">;

/** undefined: anything. */
export function wantedFormat(request: Formats): TextFormat | undefined {
  const { response_format: format, structured_outputs: structured } = request;
  if (format && format.type !== "text" && structured) {
    throw new PelagicError("invalid_request", "structured_outputs: not with response_format: leave one of them out", {
      param: "structured_outputs",
    });
  }
  if (format?.type === "json_object") return { kind: "json-object" };
  if (format?.type === "json_schema")
    return {
      kind: "json-schema",
      schema: format.json_schema.schema ?? {},
      param: "response_format.json_schema.schema",
      strict: format.json_schema.strict === true,
    };
  if (!structured) return undefined;
  if (structured.json_object) return { kind: "json-object" };
  if (structured.choice) return { kind: "choice", choices: structured.choice };
  if (structured.regex) return { kind: "regex", pattern: structured.regex, param: "structured_outputs.regex" };
  return { kind: "json-schema", schema: parsedSchema(structured.json), param: "structured_outputs.json", strict: true };
}

/** The format with the tools that may be called; without tools, the format. */
export function withTools(format: TextFormat | undefined, request: Tools, syntax: ToolSyntax): TextFormat | undefined {
  const { tool_choice: choice } = request;
  const tools = (request.tools ?? []).map(({ function: tool }, i) => ({
    name: tool.name,
    parameters: parametersOf(tool.parameters, `tools[${i}].function.parameters`),
    param: `tools[${i}].function.parameters`,
    strict: tool.strict === true,
  }));
  const twice = tools.findIndex(({ name }, i) => tools.findIndex((other) => other.name === name) !== i);
  if (twice >= 0) {
    throw new PelagicError(
      "invalid_request",
      `tools[${twice}].function.name: another tool is called ${tools[twice]?.name}, too: give each a name of its own`,
      {
        param: `tools[${twice}].function.name`,
      },
    );
  }
  if (tools.length === 0) {
    if (!choice || choice === "none" || choice === "auto") return format;
    throw new PelagicError("invalid_request", "tool_choice: there are no tools to choose from: send tools, or leave it out", {
      param: "tool_choice",
    });
  }
  if (choice === "none") return format;
  const parallel = request.parallel_tool_calls !== false;
  if (!choice || choice === "auto") return { kind: "tools", syntax, tools, parallel, answer: format ?? "text" };
  if (choice === "required") return { kind: "tools", syntax, tools, parallel, answer: null };
  const named = tools.filter(({ name }) => name === choice.function.name);
  if (named.length === 0) {
    throw new PelagicError(
      "invalid_request",
      `tool_choice.function.name: no tool is called ${JSON.stringify(choice.function.name)}: choose one of tools`,
      {
        param: "tool_choice.function.name",
      },
    );
  }
  return { kind: "tools", syntax, tools: named, parallel: false, answer: null };
}

/** Arguments are an object, whether the schema says so or not. */
function parametersOf(schema: boolean | Record<string, unknown> | null | undefined, param: string): unknown {
  if (schema === null || schema === undefined) return { type: "object", properties: {}, additionalProperties: false };
  if (schema === true) return { type: "object" };
  const type = schema === false ? "nothing" : schema.type;
  if (type !== undefined && type !== "object") {
    throw new PelagicError("invalid_request", `${param}.type: must be "object", as a tool's arguments are one`, { param: `${param}.type` });
  }
  return { ...(schema as object), type: "object" };
}

function parsedSchema(json: unknown): unknown {
  if (typeof json !== "string") return json;
  if (isTooDeep(json)) {
    throw new PelagicError("invalid_request", `structured_outputs.json: nested deeper than ${maxJsonDepth} levels`, {
      param: "structured_outputs.json",
    });
  }
  try {
    return JSON.parse(json);
  } catch {
    throw new PelagicError("invalid_request", "structured_outputs.json: is not valid JSON", { param: "structured_outputs.json" });
  }
}
