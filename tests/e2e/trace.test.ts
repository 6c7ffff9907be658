// One trace per request, over real processes, into a real receiver of OTLP over HTTP; and the time line that needs no receiver.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { drawTimeline } from "../../services/cli/trace.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import type { RequestTimeline } from "../../services/lib/contracts/timeline.ts";
import { waitFor, workersOf } from "./support.ts";

interface ReceivedSpan {
  service: string;
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  seconds: number;
  attributes: Record<string, unknown>;
}

const spans: ReceivedSpan[] = [];
let collector: Server;
let stack: Stack;

interface OtlpAttribute {
  key: string;
  value: Record<string, unknown>;
}
interface OtlpTraces {
  resourceSpans: {
    resource: { attributes: OtlpAttribute[] };
    scopeSpans: {
      spans: (Omit<ReceivedSpan, "attributes"> & { startTimeUnixNano: string; endTimeUnixNano: string; attributes: OtlpAttribute[] })[];
    }[];
  }[];
}
const valuesOf = (attributes: OtlpAttribute[]) => Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));

function take(body: string): void {
  for (const { resource, scopeSpans } of (JSON.parse(body) as OtlpTraces).resourceSpans) {
    const service = String(valuesOf(resource.attributes)["service.name"]);
    for (const span of scopeSpans.flatMap((scope) => scope.spans)) {
      const seconds = Number(BigInt(span.endTimeUnixNano) - BigInt(span.startTimeUnixNano)) / 1e9;
      spans.push({ ...span, service, seconds, attributes: valuesOf(span.attributes) });
    }
  }
}

beforeAll(async () => {
  collector = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      take(Buffer.concat(chunks).toString());
      response.writeHead(200, { "content-type": "application/json" }).end("{}");
    });
  });
  await new Promise<void>((resolve) => collector.listen(0, "127.0.0.1", resolve));
  stack = await startStack({
    prefill: 1,
    decode: 2,
    env: {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${(collector.address() as AddressInfo).port}`,
      OTEL_BSP_SCHEDULE_DELAY: "100",
    },
  });
}, 120_000);
afterAll(async () => {
  await stack?.stop();
  collector?.close();
});

async function ask(requestId: string, more: object = {}, headers: Record<string, string> = {}): Promise<string> {
  const response = await fetch(`${stack.baseUrl}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": requestId, ...headers },
    body: JSON.stringify({
      model: stack.modelName,
      prompt: Array.from({ length: 600 }, (_, i) => (i * 31 + requestId.length) % 256),
      max_tokens: 40,
      ignore_eos: true,
      ...more,
    }),
  });
  expect(response.status).toBe(200);
  return await response.text();
}

async function timelineOf(requestId: string): Promise<RequestTimeline> {
  const body = (await (await fetch(`${stack.adminUrl}/requests`)).json()) as { requests: RequestTimeline[] };
  return body.requests.find((request) => request.requestId === requestId) as RequestTimeline;
}

const spansOf = (traceId: string | null) => spans.filter((span) => span.traceId === traceId);
const sum = (all: readonly { seconds: number }[]) => all.reduce((total, { seconds }) => total + seconds, 0);

describe("a trace", () => {
  test("spans gateway, decode and prefill, and its spans add up to the time to the first token", async () => {
    const traceId = "0af7651916cd43dd8448eb211c80319c";
    await ask("traced", {}, { traceparent: `00-${traceId}-b7ad6b7169203331-01` });
    await waitFor("all three processes have reported", () =>
      Promise.resolve(
        new Set(spansOf(traceId).map(({ service }) => service)).size === 3 && spansOf(traceId).some(({ name }) => name === "prefill"),
      ),
    );
    const all = spansOf(traceId);
    const named = (name: string) => all.filter((span) => span.name === name);
    const [root] = named("POST /v1/completions") as [ReceivedSpan];
    expect(root.parentSpanId).toBe("b7ad6b7169203331");
    // Every other span has its parent in the trace.
    const ids = new Set(all.map(({ spanId }) => spanId));
    for (const span of all) if (span !== root) expect(ids.has(span.parentSpanId ?? ""), span.name).toBe(true);

    const { ttftSeconds, phases } = await timelineOf("traced");
    const waits = all.filter(({ name, parentSpanId }) => parentSpanId === root.spanId && name !== "gateway.stream");
    expect(waits.map(({ name }) => name).sort()).toEqual(["gateway.admit", "gateway.first_token", "gateway.read_body", "gateway.tokenize"]);
    expect(Math.abs(sum(waits) / (ttftSeconds as number) - 1)).toBeLessThan(0.02);
    const own = phases.filter(({ process, name }) => process === "gateway" && name !== "stream");
    expect(Math.abs(sum(own) / (ttftSeconds as number) - 1)).toBeLessThan(0.02);

    // Decode's part lies in the gateway's wait, and prefill's in decode's.
    const [decode] = named("decode") as [ReceivedSpan];
    expect(decode.parentSpanId).toBe(named("gateway.first_token")[0]?.spanId);
    const parts = all.filter(({ parentSpanId }) => parentSpanId === decode.spanId);
    expect(parts.map(({ name }) => name).sort()).toEqual(["decode.first_step", "decode.queue", "decode.remote_prefill", "decode.steps"]);
    expect(Math.abs(sum(parts) / decode.seconds - 1)).toBeLessThan(0.02);
    const [prefill] = named("prefill") as [ReceivedSpan];
    expect(prefill.parentSpanId).toBe(named("decode.remote_prefill")[0]?.spanId);
    expect(prefill.attributes["pelagic.request_id"]).toBe("traced");
    expect(root.attributes["gen_ai.usage.output_tokens"]).toBe(40);
    // No prompt, no answer.
    expect(JSON.stringify(all).length).toBeLessThan(12_000);
  });

  test("goes on over a worker's death", async () => {
    const asked = ask("moved", { max_tokens: 400 });
    await waitFor("the request runs", async () => {
      const running = (await workersOf(stack)).find(({ workerId, requests }) => workerId.startsWith("decode") && requests.running > 0);
      stack.processes.find(({ name }) => name === running?.workerId)?.kill("SIGKILL");
      return running !== undefined;
    });
    await asked;
    const timeline = await timelineOf("moved");
    expect(timeline).toMatchObject({ outcome: "length", completionTokens: 400, resumes: 1 });
    await waitFor("the second worker has reported", () => Promise.resolve(spansOf(timeline.traceId).some(({ name }) => name === "decode")));
    await waitFor(
      "both decode workers are back",
      async () => (await workersOf(stack)).filter(({ workerId, state }) => workerId.startsWith("decode") && state === "ready").length === 2,
    );
  });

  test("of a request that fails names the error; the time line draws what there was", async () => {
    const response = await fetch(`${stack.baseUrl}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-request-id": "failed" },
      body: JSON.stringify({ model: "other", messages: [{ role: "user", content: "hi" }] }),
    });
    expect(response.status).toBe(404);
    const timeline = await timelineOf("failed");
    expect(timeline).toMatchObject({ outcome: "model_not_found", ttftSeconds: null, decodeWorkerId: null });
    expect(drawTimeline(timeline)).toContain("model_not_found");
    const drawn = drawTimeline(await timelineOf("traced"));
    for (const part of ["read body", "tokenize", "first token", "decode: prefill", "stream", "600 prompt tokens"])
      expect(drawn).toContain(part);
  });
});
