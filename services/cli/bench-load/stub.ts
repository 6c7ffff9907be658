// What both load generators are pointed at: an OpenAI-compatible server whose every token has its time, and which says when it really sent them.
// Arguments: milliseconds to the first token, between tokens. GET /served gives what was done since the last time it was asked.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { announce } from "../../lib/runtime/process.ts";
import type { Served } from "./compare.ts";

interface Body {
  messages: { content: string | { text: string }[] }[];
  max_tokens?: number;
  max_completion_tokens?: number;
}

const [firstMs = 0, gapMs = 0] = process.argv.slice(2).map(Number);
/** First tokens of successive requests take these shares of the given time, so that there is a distribution to agree on. */
const shares = [0.5, 0.75, 1, 1.25, 1.5];
const headers = { "content-type": "text/event-stream", "cache-control": "no-cache" };
let served: Served[] = [];

const event = (choices: object[], more: object = {}) => {
  const chunk = { id: "chatcmpl-stub", object: "chat.completion.chunk", created: 0, model: "stub", choices, ...more };
  return `data: ${JSON.stringify(chunk)}\n\n`;
};

const server = createServer(async (request, response) => {
  const arrivedMs = performance.now();
  const reply = (body: object) => response.setHeader("content-type", "application/json").end(JSON.stringify(body));
  if (request.url === "/v1/models") return void reply({ object: "list", data: [{ id: "stub", object: "model" }] });
  if (request.url === "/served") {
    reply(served);
    served = [];
    return;
  }
  // Such as /metrics, which a tool may look for.
  if (request.url !== "/v1/chat/completions") return void response.writeHead(404).end();
  let text = "";
  for await (const chunk of request) text += String(chunk);
  const body = JSON.parse(text) as Body;
  const tokens = body.max_completion_tokens ?? body.max_tokens ?? 1;
  const words = JSON.stringify(body.messages).split(" ").length;
  const usage = { prompt_tokens: words, completion_tokens: tokens, total_tokens: words + tokens };
  // One token is asked for to learn what a word costs: no part of the load.
  const share = tokens === 1 ? 0 : (shares[served.length % shares.length] as number);
  const one: Served = { ttftMs: 0, tpotMs: 0, tokens };
  if (tokens > 1) served.push(one);
  response.writeHead(200, headers).flushHeaders();
  response.socket?.setNoDelay(true);
  let beganMs = 0;
  for (let sent = 0; sent < tokens; sent++) {
    // Times count from the arrival: one token's lateness is not the next one's.
    const waitMs = arrivedMs + share * firstMs + sent * gapMs - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    if (response.destroyed) return;
    const delta = { ...(sent === 0 && { role: "assistant" }), content: "a " };
    const isLast = sent + 1 === tokens;
    const choice = event([{ index: 0, delta, finish_reason: isLast ? "length" : null }]);
    const nowMs = performance.now();
    if (sent === 0) beganMs = nowMs;
    one.ttftMs = beganMs - arrivedMs;
    one.tpotMs = (nowMs - beganMs) / Math.max(1, sent);
    // What follows the last token comes with it, so that the end of the request is the last token's time.
    response.write(isLast ? `${choice}${event([], { usage })}data: [DONE]\n\n` : choice);
  }
  response.end();
});
server.listen(0, "127.0.0.1", () => announce({ port: (server.address() as AddressInfo).port, metricsPort: 0 }));
