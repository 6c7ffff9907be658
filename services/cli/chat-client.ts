// One question to a gateway through its public API, as any client would ask it: streamed chat completions over HTTP.
import { CliError, messageOf } from "./cli-error.ts";

export interface Question {
  baseUrl: string;
  /** Where the gateway asks for one. */
  apiKey?: string;
  model: string;
  text: string;
  /** False: the answer without reasoning. */
  thinking: boolean;
  maxTokens?: number;
  /** 0: the most likely answer. */
  temperature?: number;
  signal: AbortSignal;
  onReasoning?: (text: string) => void;
  onContent?: (text: string) => void;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_cache_hit_tokens?: number;
}

export interface Answer {
  reasoning: string;
  content: string;
  finishReason: string | null;
  /** From sending the request to the first text. */
  ttftSeconds: number;
  totalSeconds: number;
  usage: Usage | null;
}

interface Chunk {
  error?: { message?: string };
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null }; finish_reason?: string | null }[];
  usage?: Usage | null;
}

/** Throws a CliError that names what went wrong, also when the signal's bound is over or the stream just ends. */
export async function askQuestion(question: Question): Promise<Answer> {
  const begunMs = performance.now();
  const sinceSeconds = () => (performance.now() - begunMs) / 1000;
  const answer: Answer = { reasoning: "", content: "", finishReason: null, ttftSeconds: Number.NaN, totalSeconds: 0, usage: null };
  try {
    const response = await fetch(`${question.baseUrl}/v1/chat/completions`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(question.apiKey === undefined ? {} : { authorization: `Bearer ${question.apiKey}` }),
      },
      body: JSON.stringify(requestBody(question)),
      signal: question.signal,
    });
    if (!response.ok || response.body === null) throw new CliError(`the gateway refused: ${await refusal(response)}`);
    for await (const data of serverSentEvents(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw new CliError(`the answer broke off: ${chunk.error.message ?? "no reason given"}`);
      answer.usage = chunk.usage ?? answer.usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      const { reasoning_content: reasoning, content } = choice.delta ?? {};
      if ((reasoning || content) && Number.isNaN(answer.ttftSeconds)) answer.ttftSeconds = sinceSeconds();
      if (reasoning) {
        answer.reasoning += reasoning;
        question.onReasoning?.(reasoning);
      }
      if (content) {
        answer.content += content;
        question.onContent?.(content);
      }
      answer.finishReason = choice.finish_reason ?? answer.finishReason;
    }
  } catch (error) {
    if (error instanceof CliError) throw error;
    if (question.signal.aborted) throw new CliError(abortReason(question.signal));
    throw new CliError(`no answer from ${question.baseUrl}: ${causeOf(error)}`);
  }
  if (answer.finishReason === null) throw new CliError("the answer broke off without a finish reason");
  answer.totalSeconds = sinceSeconds();
  return answer;
}

export function requestBody(question: Pick<Question, "model" | "text" | "thinking" | "maxTokens" | "temperature">): object {
  return {
    model: question.model,
    messages: [{ role: "user", content: question.text }],
    stream: true,
    stream_options: { include_usage: true },
    ...(question.thinking ? {} : { thinking: { type: "disabled" } }),
    ...(question.maxTokens === undefined ? {} : { max_tokens: question.maxTokens }),
    ...(question.temperature === undefined ? {} : { temperature: question.temperature }),
  };
}

/** The data of each event of a text/event-stream; comments and other fields are passed over. */
async function* serverSentEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
    rest = lines.pop() as string;
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}

async function refusal(response: Response): Promise<string> {
  const text = await response.text();
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

function abortReason(signal: AbortSignal): string {
  return signal.reason instanceof Error && signal.reason.name === "TimeoutError" ? "no whole answer in time" : "cancelled";
}

/** fetch says "fetch failed" and hides why in the cause. */
function causeOf(error: unknown): string {
  return messageOf(error instanceof Error && error.cause !== undefined ? error.cause : error);
}
