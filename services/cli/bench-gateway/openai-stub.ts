// What stands behind the other gateways: an OpenAI-compatible server over HTTP that answers what the stub worker does, at the same pace, in
// chunks of the same form as our gateway's.
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Detokenizer } from "../../gateway/detokenizer.ts";
import { loadModelFolder } from "../../lib/model/folder.ts";
import { TokenTable } from "../../lib/model/token-table.ts";
import { doneEvent, sseEvent } from "../../gateway/sse.ts";
import { announce } from "../../lib/runtime/process.ts";
import { answerToken, plainTokens } from "./answer.ts";
import { StepClock } from "./step-clock.ts";

interface Stream {
  response: ServerResponse;
  id: string;
  detokenizer: Detokenizer;
  seed: number;
  sent: number;
  maxTokens: number;
}

const [modelDir = "", stepMs = "0"] = process.argv.slice(2);
const folder = loadModelFolder(modelDir);
if (folder.tokenizer === null) throw new Error(`${modelDir} has no tokenizer.json`);
const table = new TokenTable(folder.tokenizer.json);
const plain = plainTokens(table, folder.vocabularySize);
const clock = new StepClock(Number(stepMs));
const streams = new Set<Stream>();
const created = Math.floor(Date.now() / 1000);
let answered = 0;
let running = false;

const server = createServer(async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const { seed, max_tokens: maxTokens } = JSON.parse(Buffer.concat(chunks).toString()) as { seed: number; max_tokens: number };
  const id = `chatcmpl-${String(answered++).padStart(32, "0")}`;
  const stream = { response, id, detokenizer: new Detokenizer(table), seed, sent: 0, maxTokens };
  streams.add(stream);
  response.on("close", () => streams.delete(stream));
  if (!running) void run();
});

/** A token for every stream in each step. */
async function run(): Promise<void> {
  running = true;
  while (streams.size > 0) {
    await clock.next();
    for (const stream of streams) step(stream);
  }
  running = false;
}

function step(stream: Stream): void {
  const { response } = stream;
  const text = stream.detokenizer.push(answerToken(plain, stream.seed, stream.sent));
  let events = chunk(stream, { content: text }, null);
  if (stream.sent === 0) {
    response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache, no-transform" });
    events = chunk(stream, { role: "assistant", content: "" }, null) + events;
  }
  response.write(events);
  if (++stream.sent < stream.maxTokens) return;
  streams.delete(stream);
  response.end(chunk(stream, {}, "length") + doneEvent);
}

function chunk({ id }: Stream, delta: object, finishReason: string | null): string {
  const choices = [{ index: 0, delta, logprobs: null, finish_reason: finishReason }];
  return sseEvent({ id, object: "chat.completion.chunk", created, model: folder.name, choices });
}

server.keepAliveTimeout = 75_000;
server.listen({ port: 0, host: "127.0.0.1", backlog: 4_096 });
await once(server, "listening");
announce({ port: (server.address() as AddressInfo).port, metricsPort: 0 });
