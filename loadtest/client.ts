// One streamed request to an OpenAI-compatible server, timed.
import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { StringDecoder } from "node:string_decoder";
import type { Outcome, RequestRecord } from "./record.ts";

export type Endpoint = "chat" | "completions";

export interface Target {
  /** Ends in /v1 or what takes its place. */
  baseUrl: string;
  model: string;
  endpoint: Endpoint;
  headers: Record<string, string>;
  timeoutMs: number;
  /** Ask for exactly as many tokens as planned, whatever the model would say. */
  ignoreEos: boolean;
}

export interface Message {
  role: "user" | "assistant";
  content: string;
}

export interface Planned {
  index: number;
  session: number;
  turn: number;
  scheduledMs: number;
  messages: Message[];
  maxTokens: number;
  /** Leave after so many events with text. */
  cancelAfter: number | null;
}

const options = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY };
const agents = { "http:": new HttpAgent(options), "https:": new HttpsAgent(options) };

export function closeConnections(): void {
  for (const agent of Object.values(agents)) agent.destroy();
}

interface Chunk {
  choices?: { text?: string; delta?: { content?: string | null; reasoning_content?: string | null; reasoning?: string | null } }[];
  usage?: { prompt_tokens?: number; completion_tokens?: number; prompt_tokens_details?: { cached_tokens?: number } | null } | null;
  error?: { message?: string };
}

/** `nowMs` counts from the start of the run. Also returns what the server said, for the next turn. Never rejects. */
export function send(
  target: Target,
  planned: Planned,
  nowMs: () => number,
  signal: AbortSignal,
): Promise<RequestRecord & { text: string }> {
  const { index, session, turn, scheduledMs, maxTokens, cancelAfter } = planned;
  const record: RequestRecord & { text: string } = {
    ...{ index, session, turn, scheduledMs, sentMs: nowMs(), firstTokenMs: null, firstAnswerMs: null, lastTokenMs: null, endMs: 0 },
    ...{ gapsMs: [], promptTokens: 0, cachedTokens: 0, outputTokens: 0, outcome: "cut" as Outcome, status: 0, error: null, text: "" },
  };
  const url = new URL(`${target.baseUrl.replace(/\/$/, "")}/${target.endpoint === "chat" ? "chat/completions" : "completions"}`);
  const body = JSON.stringify({
    model: target.model,
    ...(target.endpoint === "chat"
      ? { messages: planned.messages }
      : { prompt: planned.messages.map(({ content }) => content).join("\n") }),
    max_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
    ...(target.ignoreEos ? { ignore_eos: true } : {}),
  });
  return new Promise((resolve) => {
    let call: ClientRequest | null = null;
    let over = false;
    let events = 0;
    let usageTokens: number | null = null;
    const end = (outcome: Outcome, error: string | null = null) => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      record.endMs = nowMs();
      record.outcome = outcome;
      record.error = error;
      record.outputTokens = usageTokens ?? events;
      // One that ended in order keeps its connection for the next.
      if (outcome !== "ok") call?.destroy();
      resolve(record);
    };
    const stop = () => end("cancelled", "the run was stopped");
    const timer = setTimeout(() => end("timeout", `no end within ${target.timeoutMs} ms`), target.timeoutMs);
    signal.addEventListener("abort", stop);
    if (signal.aborted) return stop();
    const onChunk = (data: string) => {
      let chunk: Chunk;
      try {
        chunk = JSON.parse(data);
      } catch {
        return end("error", `no JSON in the stream: ${data.slice(0, 200)}`);
      }
      if (chunk.error) return end("error", chunk.error.message ?? "an error in the stream");
      const { usage } = chunk;
      if (usage) {
        usageTokens = usage.completion_tokens ?? usageTokens;
        record.promptTokens = usage.prompt_tokens ?? record.promptTokens;
        record.cachedTokens = usage.prompt_tokens_details?.cached_tokens ?? record.cachedTokens;
      }
      const choice = chunk.choices?.[0];
      const answer = choice?.text ?? choice?.delta?.content ?? "";
      const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
      if (answer === "" && reasoning === "") return;
      const now = nowMs();
      if (record.lastTokenMs !== null) record.gapsMs.push(now - record.lastTokenMs);
      record.firstTokenMs ??= now;
      if (answer !== "") record.firstAnswerMs ??= now;
      record.lastTokenMs = now;
      record.text += answer;
      events++;
      if (cancelAfter !== null && events >= cancelAfter) end("cancelled", null);
    };
    const onResponse = (response: IncomingMessage) => {
      record.status = response.statusCode ?? 0;
      const decoder = new StringDecoder("utf8");
      const isStream = response.headers["content-type"]?.startsWith("text/event-stream") ?? false;
      let text = "";
      let done = false;
      response.on("data", (bytes: Buffer) => {
        text += decoder.write(bytes);
        if (!isStream) {
          if (text.length > 65_536) end("error", "a long body that is no stream");
          return;
        }
        for (let at = text.indexOf("\n"); at >= 0 && !over; at = text.indexOf("\n")) {
          const line = text.slice(0, at).trimEnd();
          text = text.slice(at + 1);
          if (!line.startsWith("data:")) continue;
          const data = line.slice(5).trim();
          if (data === "[DONE]") done = true;
          else onChunk(data);
        }
      });
      response.on("end", () => {
        if (done) end("ok");
        else if (isStream) end("cut", "the stream ended without [DONE]");
        else end(record.status === 429 || record.status === 503 ? "refused" : "error", `${record.status}: ${errorOf(text)}`);
      });
      response.on("error", (error) => end("cut", error.message));
    };
    call = (url.protocol === "https:" ? httpsRequest : httpRequest)(url, {
      method: "POST",
      agent: agents[url.protocol as keyof typeof agents],
      headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...target.headers },
    });
    call.on("response", onResponse);
    call.on("error", (error) => end("cut", error.message));
    // What it took to write the body down was the generator's time, not the server's.
    record.sentMs = nowMs();
    call.end(body);
  });
}

function errorOf(text: string): string {
  try {
    return String((JSON.parse(text) as Chunk).error?.message ?? text).slice(0, 300);
  } catch {
    return text.slice(0, 300);
  }
}
