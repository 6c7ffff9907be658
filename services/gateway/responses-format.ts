// The answer of /v1/responses: items of output, and the events that tell how they grow. Pure but for ids and the time.
import type { PelagicError } from "../lib/contracts/errors.ts";
import type { Usage } from "../lib/contracts/http.ts";
import type { ResponsesAnswer, ResponsesOutput, ResponsesRequest } from "../lib/contracts/http-responses.ts";
import type { TokenTable } from "../lib/model/token-table.ts";
import { type AnswerFormat, type Ending, finite, freshId, type TokenReport, tokenText, type WholeAnswer } from "./answer-format.ts";
import type { LogprobEntry, OutputPiece } from "./output-assembler.ts";

type Item<T extends ResponsesOutput["type"]> = Extract<ResponsesOutput, { type: T }>;
type Logprobs = Item<"message">["content"][number]["logprobs"];

export interface ResponsesFormatOptions {
  request: ResponsesRequest;
  model: string;
  table: TokenTable | null;
}

export class ResponsesFormat implements AnswerFormat {
  private readonly options: ResponsesFormatOptions;
  private readonly id = freshId("resp_");
  private readonly createdAt = Math.floor(Date.now() / 1000);
  private readonly custom: ReadonlySet<string>;
  private readonly output: ResponsesOutput[] = [];
  /** Of a custom tool's call, the arguments so far. */
  private customArguments = "";
  private sequence = 0;
  private ending: Ending | null = null;

  constructor(options: ResponsesFormatOptions) {
    this.options = options;
    this.custom = new Set((options.request.tools ?? []).filter(({ type }) => type === "custom").map(({ name }) => name));
  }

  opening(): string {
    const response = this.response("in_progress", null);
    return this.event("response.created", { response }) + this.event("response.in_progress", { response });
  }

  pieces(_index: number, pieces: OutputPiece[], _report: TokenReport, _usage: Usage | null): string {
    return pieces.map((piece) => this.piece(piece)).join("");
  }

  finish(_index: number, ending: Ending): string {
    this.ending = ending;
    const status = ending.reason === "length" ? "incomplete" : "completed";
    return this.close(status) + (this.output.some(({ type }) => type !== "reasoning") ? "" : this.open("message") + this.close(status));
  }

  end(usage: Usage): string {
    const status = this.ending?.reason === "length" ? "incomplete" : "completed";
    return this.event(`response.${status}`, { response: this.response(status, usage) });
  }

  failure(error: PelagicError): string {
    const closed = this.close("incomplete");
    const response = { ...this.response("failed", null), error: { code: error.code, message: error.message } };
    return closed + this.event("response.failed", { response });
  }

  whole([answer]: WholeAnswer[], usage: Usage): object {
    const { pieces, ending } = answer as WholeAnswer;
    for (const piece of pieces) this.piece(piece);
    this.finish(0, ending);
    return this.response(ending.reason === "length" ? "incomplete" : "completed", usage);
  }

  private response(status: ResponsesAnswer["status"], usage: Usage | null): ResponsesAnswer {
    const { request, model } = this.options;
    return {
      id: this.id,
      object: "response",
      created_at: this.createdAt,
      status,
      error: null,
      incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
      instructions: request.instructions ?? null,
      max_output_tokens: request.max_output_tokens ?? null,
      model,
      output: [...this.output],
      parallel_tool_calls: request.parallel_tool_calls ?? true,
      previous_response_id: null,
      reasoning: { effort: request.reasoning?.effort ?? null, summary: null },
      store: false,
      background: false,
      temperature: request.temperature ?? null,
      top_p: request.top_p ?? null,
      text: request.text ?? { format: { type: "text" } },
      tool_choice: request.tool_choice ?? "auto",
      tools: request.tools ?? [],
      truncation: "disabled",
      metadata: request.metadata ?? {},
      usage: usage && {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: { cached_tokens: usage.prompt_cache_hit_tokens },
        output_tokens: usage.completion_tokens,
        output_tokens_details: { reasoning_tokens: usage.completion_tokens_details.reasoning_tokens },
        total_tokens: usage.total_tokens,
      },
    };
  }

  /** Adds to the last item, or begins the next. */
  private piece({ kind, text, logprobs, call }: OutputPiece): string {
    if (call?.name !== undefined) {
      const type = this.custom.has(call.name) ? "custom_tool_call" : "function_call";
      return this.close("completed") + this.open(type, call.name) + this.grow(text, []);
    }
    const type = kind === "reasoning" ? "reasoning" : "message";
    if (kind === "call" || this.output.at(-1)?.type === type) return this.grow(text, logprobs);
    return this.close("completed") + this.open(type) + this.grow(text, logprobs);
  }

  private open(type: ResponsesOutput["type"], name = ""): string {
    const item = newItem(type, name);
    this.output.push(item);
    this.customArguments = "";
    const at = this.at(item);
    const shown = item.type === "message" || item.type === "reasoning" ? { ...item, content: [] } : item;
    const added = this.event("response.output_item.added", { output_index: at.output_index, item: shown });
    if (item.type !== "message" && item.type !== "reasoning") return added;
    return added + this.event("response.content_part.added", { ...at, content_index: 0, part: item.content[0] });
  }

  private grow(text: string, logprobs: LogprobEntry[]): string {
    const item = this.output.at(-1);
    if (item === undefined || text === "") return "";
    const at = this.at(item);
    switch (item.type) {
      case "reasoning":
        (item.content[0] as { text: string }).text += text;
        return this.event("response.reasoning_text.delta", { ...at, content_index: 0, delta: text });
      case "message": {
        const part = item.content[0] as (typeof item.content)[number];
        const entries = this.logprobs(logprobs);
        part.text += text;
        part.logprobs.push(...entries);
        return this.event("response.output_text.delta", { ...at, content_index: 0, delta: text, logprobs: entries });
      }
      case "function_call":
        item.arguments += text;
        return this.event("response.function_call_arguments.delta", { ...at, delta: text });
      case "custom_tool_call":
        // Free text inside of JSON: known when the JSON is whole.
        this.customArguments += text;
        return "";
    }
  }

  /** Ends the last item, if it has not ended. */
  private close(status: "completed" | "incomplete"): string {
    const item = this.output.at(-1);
    if (item === undefined || item.status !== "in_progress") return "";
    item.status = status;
    const at = this.at(item);
    const done = this.contentDone(item, at);
    return done + this.event("response.output_item.done", { output_index: at.output_index, item });
  }

  private contentDone(item: ResponsesOutput, at: { item_id: string; output_index: number }): string {
    switch (item.type) {
      case "reasoning":
      case "message": {
        const part = item.content[0] as { text: string; logprobs?: Logprobs };
        const [event, more] =
          item.type === "reasoning" ? ["response.reasoning_text.done", {}] : ["response.output_text.done", { logprobs: part.logprobs }];
        return (
          this.event(event as string, { ...at, content_index: 0, text: part.text, ...(more as object) }) +
          this.event("response.content_part.done", { ...at, content_index: 0, part })
        );
      }
      case "function_call":
        return this.event("response.function_call_arguments.done", { ...at, name: item.name, arguments: item.arguments });
      case "custom_tool_call":
        item.input = inputOf(this.customArguments);
        return (
          this.event("response.custom_tool_call_input.delta", { ...at, delta: item.input }) +
          this.event("response.custom_tool_call_input.done", { ...at, input: item.input })
        );
    }
  }

  private at(item: ResponsesOutput): { item_id: string; output_index: number } {
    return { item_id: item.id, output_index: this.output.indexOf(item) };
  }

  private event(type: string, data: object): string {
    return `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: this.sequence++, ...data })}\n\n`;
  }

  private logprobs(entries: readonly LogprobEntry[]): Logprobs {
    const { table } = this.options;
    if (table === null) return [];
    const one = (id: number, logprob: number) => ({ token: tokenText(id, table), logprob: finite(logprob), bytes: [...table.bytesOf(id)] });
    return entries.map((entry) => ({
      ...one(entry.tokenId, entry.logprob),
      top_logprobs: entry.top.map(([id, logprob]) => one(id, logprob)),
    }));
  }
}

function newItem(type: ResponsesOutput["type"], name: string): ResponsesOutput {
  const status = "in_progress" as const;
  switch (type) {
    case "reasoning":
      return { type, id: freshId("rs_"), status, summary: [], content: [{ type: "reasoning_text", text: "" }] };
    case "message":
      return {
        type,
        id: freshId("msg_"),
        status,
        role: "assistant",
        content: [{ type: "output_text", text: "", annotations: [], logprobs: [] }],
      };
    case "function_call":
      return { type, id: freshId("fc_"), status, call_id: freshId("call_"), name, arguments: "" };
    case "custom_tool_call":
      return { type, id: freshId("ctc_"), status, call_id: freshId("call_"), name, input: "" };
  }
}

function inputOf(text: string): string {
  try {
    return String((JSON.parse(text) as { input?: unknown }).input ?? "");
  } catch {
    // The answer ended in the middle of it.
    return "";
  }
}
