// One request over HTTP on a connection of its own, from the first byte to whatever ends it.
import { Agent, request as httpRequest } from "node:http";
import { addTo, emptyAnswer, type Answer, type CompletionBody } from "./answer.ts";

export interface AskOptions {
  baseUrl: string;
  requestId: string;
  body: Record<string, unknown>;
  stream: boolean;
  /** Leave after so long, or with so many tokens, whichever comes first. */
  leave?: { afterMs: number; afterTokens: number };
  /** Nothing has ended it by then: "no end". */
  boundMs: number;
  /** Leaves at once when aborted. */
  signal?: AbortSignal;
}

export type Ending =
  | { kind: "answered" }
  /** A named error, as a body or in the stream. */
  | { kind: "error"; code: string; message: string; retryAfterMs: number | null }
  /** No connection, or one that closed in mid-answer. */
  | { kind: "cut"; reason: string }
  /** What came is not what the API promises. */
  | { kind: "garbled"; reason: string }
  | { kind: "left" }
  | { kind: "no end" };

export interface Outcome {
  ending: Ending;
  /** What there is of it. */
  answer: Answer;
  /** Of a stream; null before its first token. */
  ttftSeconds: number | null;
  /** Of a stream, between its tokens: null with fewer than two. */
  tpotSeconds: number | null;
  /** The longest wait between two events of a stream. */
  longestPauseSeconds: number;
  seconds: number;
}

const agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY });

export function ask(options: AskOptions): Promise<Outcome> {
  const begunMs = performance.now();
  const answer = emptyAnswer();
  let firstMs: number | null = null;
  let lastMs = begunMs;
  let longestPauseMs = 0;
  // Tokens that come together with the first one took no time of their own.
  let tokensOfFirst = 0;
  let tokensAfterFirst = 0;
  let lastTokenMs = begunMs;
  return new Promise((resolve) => {
    let over = false;
    const end = (ending: Ending) => {
      if (over) return;
      over = true;
      clearTimeout(boundTimer);
      clearTimeout(leaveTimer);
      options.signal?.removeEventListener("abort", leave);
      call.destroy();
      resolve({
        ending,
        answer,
        ttftSeconds: firstMs === null ? null : (firstMs - begunMs) / 1000,
        tpotSeconds: tokensAfterFirst > 0 && firstMs !== null ? (lastTokenMs - firstMs) / 1000 / tokensAfterFirst : null,
        longestPauseSeconds: longestPauseMs / 1000,
        seconds: (performance.now() - begunMs) / 1000,
      });
    };
    const leave = () => end({ kind: "left" });
    const boundTimer = setTimeout(() => end({ kind: "no end" }), options.boundMs);
    const leaveTimer = options.leave && setTimeout(leave, options.leave.afterMs);
    options.signal?.addEventListener("abort", leave);
    const call = httpRequest(`${options.baseUrl}/v1/completions`, {
      method: "POST",
      agent,
      headers: { "content-type": "application/json", "x-request-id": options.requestId },
    });
    call.on("error", (error) => end({ kind: "cut", reason: error.message }));
    call.on("response", (response) => {
      const streamed = response.headers["content-type"]?.startsWith("text/event-stream") ?? false;
      let text = "";
      const onEvent = (event: string) => {
        // A comment, which keeps the connection alive while nothing comes.
        if (event.startsWith(":")) return;
        if (event === "data: [DONE]") {
          end(answer.finish === null ? { kind: "garbled", reason: "a stream without a finish reason" } : { kind: "answered" });
          return;
        }
        const body = JSON.parse(event.replace(/^data: /, "")) as CompletionBody & { error?: { code: string; message: string } };
        if (body.error) {
          end({ kind: "error", ...body.error, retryAfterMs: null });
          return;
        }
        const now = performance.now();
        if (firstMs !== null) longestPauseMs = Math.max(longestPauseMs, now - lastMs);
        firstMs ??= now;
        lastMs = now;
        const had = answer.tokens.length;
        addTo(answer, body);
        if (answer.tokens.length > had) {
          lastTokenMs = now;
          if (had === 0) tokensOfFirst = answer.tokens.length;
          tokensAfterFirst = answer.tokens.length - tokensOfFirst;
        }
        if (options.leave && answer.tokens.length >= options.leave.afterTokens) leave();
      };
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
        if (!streamed || over) return;
        const events = text.split("\n\n");
        text = events.pop() as string;
        try {
          for (const event of events) if (!over) onEvent(event);
        } catch (error) {
          end({ kind: "garbled", reason: String(error) });
        }
      });
      response.on("error", (error) => end({ kind: "cut", reason: error.message }));
      response.on("close", () => end({ kind: "cut", reason: "the connection closed" }));
      response.on("end", () => {
        if (streamed || !response.complete) {
          end({ kind: "cut", reason: "the stream closed" });
          return;
        }
        try {
          const body = JSON.parse(text) as CompletionBody & { error?: { code: string; message: string } };
          const retryAfterMs = Number(response.headers["retry-after-ms"] ?? Number.NaN);
          if (body.error) {
            end({ kind: "error", ...body.error, retryAfterMs: Number.isNaN(retryAfterMs) ? null : retryAfterMs });
          } else {
            addTo(answer, body);
            end({ kind: "answered" });
          }
        } catch (error) {
          end({ kind: "garbled", reason: String(error) });
        }
      });
    });
    // Usage comes with a stream on request only.
    const usage = options.stream ? { stream_options: { include_usage: true } } : {};
    call.end(JSON.stringify({ ...options.body, stream: options.stream, ...usage }));
    if (options.signal?.aborted) leave();
  });
}
