// Tools in a conversation for models whose chat template does not know them: their definitions in the system message, calls and results as text.
// Pure.
import { type ToolSyntax, writeCalls } from "../lib/grammar/tool-syntax.ts";

export interface PromptMessage {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
  /** Of an assistant's message, what it thought. */
  reasoning?: string;
  toolCalls?: { id: string; name: string; arguments: string }[];
  /** Of a tool's message. */
  toolCallId?: string;
}

export interface PromptTool {
  name: string;
  description: string;
  parameters: unknown;
}

/** Behind the first system message, or in one of its own. */
export function toolsAsText(messages: readonly PromptMessage[], tools: readonly PromptTool[], syntax: ToolSyntax): PromptMessage[] {
  const listed = tools.map((tool) => `- ${tool.name}: ${tool.description}\n  arguments: ${JSON.stringify(tool.parameters)}`);
  const example = writeCalls(syntax, [{ name: "NAME", arguments: '{"ARGUMENT": VALUE}' }]);
  const text = `Tools that can be called:\n${listed.join("\n")}\nTo call one, write:\n${example}`;
  const [first, ...rest] = messages;
  if (first?.role !== "system") return [{ role: "system", content: text }, ...messages];
  return [{ ...first, content: `${first.content}\n\n${text}` }, ...rest];
}

/** Calls in the assistant's words, results in the user's. */
export function callsAsText(messages: readonly PromptMessage[], syntax: ToolSyntax): PromptMessage[] {
  const out: PromptMessage[] = [];
  let before: PromptMessage["role"] | undefined;
  for (const { toolCalls, toolCallId: _, ...message } of messages) {
    if (message.role === "tool") {
      const text = `<tool_response>\n${message.content}\n</tool_response>`;
      const last = out.at(-1);
      if (before === "tool" && last !== undefined) last.content += `\n${text}`;
      else out.push({ role: "user", content: text });
    } else {
      const calls = toolCalls?.length ? writeCalls(syntax, toolCalls) : "";
      out.push({ ...message, content: [message.content, calls].filter((text) => text !== "").join("\n") });
    }
    before = message.role;
  }
  return out;
}
