// One trace per request, over real processes, into a real receiver of OTLP over HTTP; and the time line that needs no receiver.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { RequestTimeline } from "../../services/lib/contracts/timeline.ts";
import { OtlpReceiver, type ReceivedSpan } from "../support/otlp-receiver.ts";
import { waitFor, workersOf } from "./support.ts";

const receiver = new OtlpReceiver();
let stack: Stack;
beforeAll(async () => {
  const OTEL_EXPORTER_OTLP_ENDPOINT = await receiver.start();
  // Of a kind that the commands find.
  stack = await startStack({
    ...{ prefill: 1, decode: 2, kind: "service" },
    env: { OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_SCHEDULE_DELAY: "100" },
  });
}, 120_000);
afterAll(async () => {
  await stack?.stop();
  receiver.close();
});
vi.setConfig({ testTimeout: 60_000 });

async function ask(requestId: string, more: object = {}, headers: Record<string, string> = {}): Promise<string> {
  const response = await fetch(`${stack.baseUrl}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": requestId, ...headers },
    body: JSON.stringify({
      model: stack.modelName,
      // Nobody has its blocks yet.
      prompt: [...Buffer.from(requestId), ...Array.from({ length: 600 - requestId.length }, (_, i) => (i * 31) % 256)],
      max_tokens: 40,
      ignore_eos: true,
      ...more,
    }),
  });
  expect(response.status).toBe(200);
  return await response.text();
}

const command = async (...args: string[]) =>
  (
    await promisify(execFile)(process.execPath, [
      inTree("dist", "services", "cli", "main.js"),
      ...args,
      "--port",
      new URL(stack.baseUrl).port,
    ])
  ).stdout;
const timelineOf = async (requestId: string) => RequestTimeline.parse(JSON.parse(await command("trace", requestId, "--json")));
const workerOf = (requestId: string) =>
  workersOf(stack).then((workers) => {
    const running = workers.find(({ workerId, requests }) => workerId.startsWith("decode") && requests.running > 0);
    if (running === undefined) throw new Error(`${requestId} does not run yet`);
    return running.workerId;
  });

/** Of one trace, when everything that ends behind the answer has come too: the spans of so many attempts, and no parent is missing. */
async function traceOf(traceId: string | null, decodes = 1): Promise<{ all: ReceivedSpan[]; root: ReceivedSpan }> {
  const rootOf = (all: ReceivedSpan[]) => all.find(({ name }) => name.startsWith("POST "));
  await waitFor("the trace is whole", () => {
    const all = receiver.of(traceId);
    const ids = new Set(all.map(({ spanId }) => spanId));
    const orphans = all.filter((span) => span !== rootOf(all) && !ids.has(span.parentSpanId));
    return Promise.resolve(
      rootOf(all) !== undefined && all.filter(({ name }) => name === "decode").length === decodes && orphans.length === 0,
    );
  });
  const all = receiver.of(traceId);
  return { all, root: rootOf(all) as ReceivedSpan };
}

const sum = (all: readonly { seconds: number }[]) => all.reduce((total, { seconds }) => total + seconds, 0);
const equalWithin = (part: number, a: number, b: number) => expect(Math.abs(a / b - 1), `${a} and ${b}`).toBeLessThan(part);

/** Each span lies in its parent: by its length, and by its place where both are of one process. */
function expectNested(all: readonly ReceivedSpan[]): void {
  const byId = new Map(all.map((span) => [span.spanId, span]));
  const roundingNs = 1_000n;
  for (const span of all) {
    const parent = byId.get(span.parentSpanId);
    if (parent === undefined) continue;
    // Decode may have the last frame before prefill comes round to end its span.
    if (span.name === "prefill") continue;
    expect(span.seconds, `${span.name} in ${parent.name}`).toBeLessThanOrEqual(parent.seconds + 1e-6);
    if (span.service !== parent.service) continue;
    expect(span.startNs, `${span.name} in ${parent.name}`).toBeGreaterThanOrEqual(parent.startNs - roundingNs);
    expect(span.endNs, `${span.name} in ${parent.name}`).toBeLessThanOrEqual(parent.endNs + roundingNs);
  }
}

/** What lies between a request's arrival and its first token, each moment once, whichever process it was spent in. */
const wayToFirstToken = [
  ...["gateway.read_body", "gateway.admit", "gateway.queue", "gateway.tokenize", "gateway.route", "gateway.dispatch"],
  ...["decode.queue", "decode.remote_prefill", "decode.first_step", "gateway.receive"],
];

describe("a trace", () => {
  const traceId = "0af7651916cd43dd8448eb211c80319c";

  test("goes on the client's, over gateway, decode and prefill; its spans nest, and add up to the time to the first token", async () => {
    // The first of all, to workers whose speed nobody has measured: that goes by prefill.
    await ask("traced", {}, { traceparent: `00-${traceId}-b7ad6b7169203331-01` });
    const { all, root } = await traceOf(traceId);
    expect(receiver.contentTypes).toEqual(new Set(["application/x-protobuf"]));
    expect(new Set(all.map(({ service }) => service))).toEqual(new Set(["pelagic-gateway", "pelagic-decode", "pelagic-prefill"]));
    expect(root.parentSpanId).toBe("b7ad6b7169203331");
    expectNested(all);

    const { ttftSeconds, phases } = await timelineOf("traced");
    const way = wayToFirstToken.map((name) => all.filter((span) => span.name === name));
    for (const [i, spans] of way.entries()) expect(spans, wayToFirstToken[i]).toHaveLength(1);
    equalWithin(0.02, sum(way.flat()), ttftSeconds as number);
    const named = (name: string) => all.filter((span) => span.name === name);
    equalWithin(0.02, sum(named("gateway.first_token")) + sum(way.slice(0, 5).flat()), ttftSeconds as number);
    // Prefill's own parts are prefill's whole span, which is what decode waited for, but for the bus.
    equalWithin(0.02, sum([...named("prefill.queue"), ...named("prefill.compute"), ...named("prefill.send")]), sum(named("prefill")));
    // All but the end of it passed before decode had the last frame.
    expect(sum([...named("prefill.queue"), ...named("prefill.compute")])).toBeLessThanOrEqual(sum(named("decode.fetch")));
    equalWithin(0.02, sum(named("chunk").filter(({ service }) => service === "pelagic-prefill")), sum(named("prefill.compute")));

    const parentOf = (name: string) => all.find(({ spanId }) => spanId === named(name)[0]?.parentSpanId)?.name;
    expect(["gateway.attempt", "decode", "decode.fetch", "prefill"].map(parentOf)).toEqual([
      ...["POST /v1/completions", "gateway.attempt", "decode.remote_prefill", "decode.fetch"],
    ]);
    expect(root.attributes).toMatchObject({ "pelagic.request_id": "traced", "gen_ai.usage.output_tokens": 40 });
    expect(named("prefill")[0]?.attributes).toMatchObject({ "pelagic.request_id": "traced", "pelagic.worker_id": "prefill-0" });

    // The time line says the same of all three, without a receiver.
    for (const process of ["gateway", "decode", "prefill"] as const) {
      expect(phases.filter((phase) => phase.process === process).length).toBeGreaterThan(2);
    }
    equalWithin(0.02, sum(phases.filter(({ process, name }) => process === "gateway" && name !== "stream")), ttftSeconds as number);
  });

  test("adds up where decode computes the prompt itself, too", async () => {
    await ask("computed", { prompt: Array.from({ length: 200 }, (_, i) => (i * 17) % 256) });
    const { ttftSeconds, traceId: own } = await timelineOf("computed");
    const { all } = await traceOf(own);
    const remote = ["decode.remote_prefill", "decode.first_step"];
    const way = [...wayToFirstToken.filter((name) => !remote.includes(name)), "decode.prefill_and_first_step"];
    const spans = way.map((name) => all.filter((span) => span.name === name));
    for (const [i, found] of spans.entries()) expect(found, way[i]).toHaveLength(1);
    equalWithin(0.02, sum(spans.flat()), ttftSeconds as number);
  });

  test("that the client does not want is not sent, and the time line is there all the same", async () => {
    const unwanted = "1af7651916cd43dd8448eb211c80319d";
    await ask("unwanted", {}, { traceparent: `00-${unwanted}-b7ad6b7169203331-00` });
    // A later request's spans come in the same order.
    await ask("wanted");
    await traceOf((await timelineOf("wanted")).traceId);
    expect(receiver.of(unwanted)).toEqual([]);
    expect((await timelineOf("unwanted")).phases.length).toBeGreaterThan(8);
  });

  test("stays one when the request moves to another worker, which fetches its blocks from the first", async () => {
    const asked = ask("moved", { max_tokens: 4_000 });
    await waitFor("it runs", async () => (await workerOf("moved")) !== "");
    const from = await workerOf("moved");
    await command("drain", from);
    await asked;
    const timeline = await timelineOf("moved");
    expect(timeline).toMatchObject({ outcome: "length", completionTokens: 4_000, resumes: 1 });
    const { all, root } = await traceOf(timeline.traceId, 2);
    expectNested(all);
    const decodes = all.filter(({ name }) => name === "decode");
    expect(new Set(decodes.map(({ attributes }) => attributes["pelagic.worker_id"]))).toEqual(new Set(["decode-0", "decode-1"]));
    const attempts = all.filter(({ name }) => name === "gateway.attempt");
    expect(attempts.map(({ attributes, parentSpanId }) => [attributes["pelagic.outcome"], parentSpanId])).toEqual([
      ["moved", root.spanId],
      ["length", root.spanId],
    ]);
    // The worker that had it sent its rows, within the trace.
    expect(all.some(({ name, attributes }) => name === "prefill" && attributes["pelagic.worker_id"] === from)).toBe(true);
    for (const worker of ["decode-0", "decode-1"]) {
      expect(timeline.phases.some(({ workerId, name }) => workerId === worker && name === "steps")).toBe(true);
    }
    stack.processes.find(({ name }) => name === from)?.kill("SIGKILL");
    await waitFor("both decode workers are back", async () =>
      (await workersOf(stack)).filter(({ workerId }) => workerId.startsWith("decode")).every(({ state }) => state === "ready"),
    );
  });

  test("stays one when its worker dies, who said nothing any more", async () => {
    const asked = ask("killed", { max_tokens: 4_000 });
    await waitFor("it runs", async () => (await workerOf("killed")) !== "");
    const from = await workerOf("killed");
    stack.processes.find(({ name }) => name === from)?.kill("SIGKILL");
    await asked;
    const timeline = await timelineOf("killed");
    expect(timeline).toMatchObject({ outcome: "length", completionTokens: 4_000, resumes: 1 });
    await waitFor("the second worker has reported", () =>
      Promise.resolve(receiver.of(timeline.traceId).some(({ name }) => name === "decode")),
    );
    const attempts = receiver.of(timeline.traceId).filter(({ name }) => name === "gateway.attempt");
    const told = attempts.map(({ attributes, message }) => [attributes["pelagic.worker_id"], message]);
    expect(told[0]).toEqual([from, "lost"]);
    expect(told.at(-1)).toEqual([timeline.decodeWorkerId, undefined]);
  });

  test("of a request that fails names the error", async () => {
    const response = await fetch(`${stack.baseUrl}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-request-id": "failed" },
      body: JSON.stringify({ model: "other", messages: [{ role: "user", content: "hi" }] }),
    });
    expect(response.status).toBe(404);
    const timeline = await timelineOf("failed");
    expect(timeline).toMatchObject({ outcome: "model_not_found", ttftSeconds: null, decodeWorkerId: null });
    await waitFor("its span has come", () => Promise.resolve(receiver.of(timeline.traceId).length > 0));
    expect(receiver.of(timeline.traceId).find(({ name }) => name.startsWith("POST "))?.message).toBe("model_not_found");
    expect(await command("trace", "failed")).toContain("model_not_found");
  });

  test("has no word of prompt or answer", async () => {
    const secret = "xylophone-marmalade";
    const answer = await ask("secret", { prompt: `${secret} `.repeat(40), max_tokens: 60 });
    const { all } = await traceOf((await timelineOf("secret")).traceId);
    const { text } = (JSON.parse(answer) as { choices: { text: string }[] }).choices[0] as { text: string };
    const told = all.flatMap(({ name, attributes, message }) => [name, message ?? "", ...Object.values(attributes).map(String)]);
    for (const value of told) {
      expect(value).not.toContain(secret.slice(0, 9));
      expect(value === "" || !text.includes(value) || value.length < 4, value).toBe(true);
    }
  });
});

describe("./pelagic trace", () => {
  test("draws a request's phases by process, and lists the last requests", async () => {
    const drawn = await command("trace", "traced");
    for (const part of ["read body", "tokenize", "first token", "decode-", ": remote prefill", "prefill-0: compute", "stream"])
      expect(drawn).toContain(part);
    expect(drawn).toContain("600 prompt tokens");
    expect(await command("trace")).toMatch(/traced .*completions .*length/);
  });

  test("says so where there is no such request", async () => {
    await expect(command("trace", "nobody")).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining("no request nobody") });
  });
});
