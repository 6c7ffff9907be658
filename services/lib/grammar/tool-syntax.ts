// How a model writes tool calls in its answer: a family's marks around name and arguments. Read by the grammar, which holds the model to it, by
// the parser, which takes the calls out of the answer, and by the prompt.

/** sectionBegin call (between call)* sectionEnd, where a call is: callBegin name afterName arguments callEnd. */
export interface ToolSyntax {
  sectionBegin: string;
  callBegin: string;
  afterName: string;
  callEnd: string;
  between: string;
  sectionEnd: string;
}

const calls = { begin: "<｜tool▁calls▁begin｜>", end: "<｜tool▁calls▁end｜>" };
const call = { begin: "<｜tool▁call▁begin｜>", name: "<｜tool▁sep｜>", end: "<｜tool▁call▁end｜>" };
/** The tokens of DeepSeek's tokenizers that stand for these marks. */
const deepSeekTokens = [calls.begin, calls.end, call.begin, call.name, call.end];

/** DeepSeek V3.1 and later. */
const deepSeek: ToolSyntax = {
  sectionBegin: calls.begin,
  callBegin: call.begin,
  afterName: call.name,
  callEnd: call.end,
  between: "",
  sectionEnd: calls.end,
};

/** DeepSeek V3 and R1 as first released. */
const deepSeekFenced: ToolSyntax = {
  ...deepSeek,
  callBegin: `${call.begin}function${call.name}`,
  afterName: "\n```json\n",
  callEnd: `\n\`\`\`${call.end}`,
  between: "\n",
};

/** For tokenizers without tokens of their own for it: ordinary text, as the Hermes models write it. */
export const plainToolSyntax: ToolSyntax = {
  sectionBegin: "",
  callBegin: '<tool_call>\n{"name": "',
  afterName: '", "arguments": ',
  callEnd: "}\n</tool_call>",
  between: "\n",
  sectionEnd: "",
};

/** What comes first, where calls begin. */
export const opening = (syntax: ToolSyntax): string => syntax.sectionBegin + syntax.callBegin;

export function toolSyntaxOf(addedTokens: Iterable<string>, chatTemplate: string | null): ToolSyntax {
  const added = new Set(addedTokens);
  if (!deepSeekTokens.every((token) => added.has(token))) return plainToolSyntax;
  return chatTemplate?.includes("```json") ? deepSeekFenced : deepSeek;
}

/** Added tokens that are words of the syntax, where others are no text at all. */
export function isToolMark(token: string): boolean {
  return deepSeekTokens.includes(token);
}

/** Calls as the model would have written them. */
export function writeCalls(syntax: ToolSyntax, written: readonly { name: string; arguments: string }[]): string {
  const each = written.map((one) => syntax.callBegin + one.name + syntax.afterName + one.arguments + syntax.callEnd);
  return syntax.sectionBegin + each.join(syntax.between) + syntax.sectionEnd;
}
