// The generator against a real server on a real socket, which says what a test tells it to.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { closeConnections, type Target } from "./client.ts";
import { generate, type LoadPlan } from "./generator.ts";
import { htmlReport } from "./html.ts";
import { closedLoop, openLoop } from "./plan.ts";
import { compareReports, formatReport } from "./report.ts";
import { lagsOf } from "./notice-lag.ts";
import { measureWordCost, runKnee, runLoad } from "./run.ts";
import type { RequestRecord } from "./record.ts";
import { type Slo, summarise } from "./summary.ts";

interface Body {
  messages: { role: string; content: string }[];
  max_tokens: number;
  ignore_eos?: boolean;
}
type Answer = (body: Body, response: ServerResponse, turn: number) => void | Promise<void>;

let server: Server;
let target: Target;
let answer: Answer;
let bodies: Body[];
let open = 0;
let mostOpen = 0;
let leftEarly = 0;

const words = (text: string) => text.split(" ").length;
const event = (response: ServerResponse, body: object) => response.write(`data: ${JSON.stringify(body)}\n\n`);

/** Tokens in pairs, as a server that speculates sends them, so that events are no measure of tokens. */
const good: Answer = async (body, response) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(": keep-alive\n\n");
  event(response, { choices: [{ delta: { role: "assistant", content: "" } }] });
  for (let token = 0; token < body.max_tokens; token += 2) {
    const reasoning = token < 2;
    event(response, { choices: [{ delta: reasoning ? { reasoning_content: "hm" } : { content: "word word " } }] });
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const prompt = body.messages.reduce((sum, { content }) => sum + 3 + words(content), 5);
  event(response, {
    choices: [],
    usage: { prompt_tokens: prompt, completion_tokens: body.max_tokens, prompt_tokens_details: { cached_tokens: 4 } },
  });
  response.end("data: [DONE]\n\n");
};

beforeEach(async () => {
  answer = good;
  bodies = [];
  open = mostOpen = leftEarly = 0;
  server = createServer(async (request: IncomingMessage, response: ServerResponse) => {
    let text = "";
    for await (const chunk of request) text += String(chunk);
    const body = JSON.parse(text) as Body;
    bodies.push(body);
    mostOpen = Math.max(mostOpen, ++open);
    response.on("close", () => {
      open--;
      if (!response.writableFinished) leftEarly++;
    });
    await answer(body, response, bodies.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  target = { baseUrl: `http://127.0.0.1:${port}/v1`, model: "m", endpoint: "chat", headers: {}, timeoutMs: 20_000, ignoreEos: true };
});

afterEach(async () => {
  closeConnections();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const lengths = { promptTokens: 60, outputTokens: 10, spread: 0, turns: 1, sharedShare: 0 };
const common = { thinkSeconds: 0, cancelShare: 0, seed: 1 };
const wordCost = { base: 8, perWord: 1 };
const runWhole = (plan: LoadPlan, signal = new AbortController().signal) =>
  generate(plan, { target, wordCost, signal, onProgress: () => undefined });
const run = async (...of: Parameters<typeof runWhole>) => (await runWhole(...of)).records;
const sum = (records: RequestRecord[], slo: Slo = anySlo, noticeLagsMs: number[] = []) =>
  summarise({ records, noticeLagsMs, sendingMs: null }, slo);
const arrivals = { kind: "constant" as const, ratePerSecond: 100, endRatePerSecond: 100, durationSeconds: 0.2, burstiness: 1 };
const anySlo = { ttftSeconds: Number.POSITIVE_INFINITY, tpotSeconds: Number.POSITIVE_INFINITY };

test("an open loop sends every request in its time, and counts tokens, not events", async () => {
  const records = await run(openLoop(arrivals, { ...common, lengths }));
  expect(records.map(({ scheduledMs }) => Math.round(scheduledMs))).toEqual(Array.from({ length: 20 }, (_, i) => 10 * i));
  for (const record of records) {
    expect(record).toMatchObject({ outcome: "ok", status: 200, outputTokens: 10, promptTokens: 60, cachedTokens: 4, error: null });
    expect(record.gapsMs).toHaveLength(4);
    expect(record.sentMs).toBeGreaterThanOrEqual(record.scheduledMs);
    expect(record.firstAnswerMs as number).toBeGreaterThan(record.firstTokenMs as number);
    expect(record.endMs).toBeGreaterThanOrEqual(record.lastTokenMs as number);
  }
  expect(bodies.every((body) => body.max_tokens === 10 && body.ignore_eos === true)).toBe(true);
  const summary = sum(records);
  expect(summary).toMatchObject({ offered: 20, goodput: { good: 20, share: 1, attains99: true } });
  // 10 tokens: 9 gaps, whatever number of events they came in.
  const { firstTokenMs, lastTokenMs } = records[0] as (typeof records)[0];
  expect(sum(records.slice(0, 1)).tpotSeconds?.mean).toBeCloseTo(((lastTokenMs as number) - (firstTokenMs as number)) / 9_000, 9);
});

test("refusals, errors, cuts and silence are told apart, and all of them are misses", async () => {
  target = { ...target, timeoutMs: 600 };
  answer = (body, response, n) => {
    const fail = (status: number) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify({ error: { message: `no: ${status}` } }));
    };
    if (n === 1) return fail(503);
    if (n === 2) return fail(429);
    if (n === 3) return fail(400);
    if (n === 4) return void response.socket?.destroy();
    if (n === 9) return good(body, response, n);
    if (n === 5) return void response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    response.writeHead(200, { "content-type": "text/event-stream" });
    event(response, { choices: [{ delta: { content: "a" } }] });
    if (n === 6) return void response.end();
    if (n === 7) {
      event(response, { error: { message: "lost" } });
      return void response.end("data: [DONE]\n\n");
    }
    response.end("data: {oops\n\n");
  };
  const records = await run(closedLoop(1, 9, { ...common, lengths: { ...lengths, outputTokens: 2 } }));
  expect(records.map(({ outcome }) => outcome)).toEqual(["refused", "refused", "error", "cut", "timeout", "cut", "error", "error", "ok"]);
  expect(records[0]?.error).toBe("503: no: 503");
  expect(records[6]?.error).toBe("lost");
  expect(sum(records).goodput).toMatchObject({ good: 1, share: 1 / 9, attains90: false });
  expect(sum(records).failures[0]).toEqual({ outcome: "refused", error: "503: no: 503", requests: 2 });
});

test("a closed loop has never more requests open than clients", async () => {
  answer = async (...of) => {
    // The first wait for each other.
    while (open < 3 && bodies.length <= 3) await new Promise((resolve) => setTimeout(resolve, 1));
    await good(...of);
  };
  const records = await run(closedLoop(3, 12, { ...common, lengths }));
  expect(records).toHaveLength(12);
  expect(mostOpen).toBe(3);
});

test("turns of a session carry what was said before, answers included", async () => {
  await run(closedLoop(1, 1, { ...common, lengths: { ...lengths, turns: 3, outputTokens: 4 } }));
  expect(bodies.map(({ messages }) => messages.map(({ role }) => role))).toEqual([
    ["user"],
    ["user", "assistant", "user"],
    ["user", "assistant", "user", "assistant", "user"],
  ]);
  expect(bodies[2]?.messages.slice(0, 3)).toEqual(bodies[1]?.messages);
  expect(bodies[1]?.messages[1]?.content).toBe("word word ");
});

test("turns that follow a failed one were offered, too, and are misses", async () => {
  answer = (body, response, n) => (n === 2 ? void response.writeHead(503).end("{}") : good(body, response, n));
  const records = await run(closedLoop(1, 2, { ...common, lengths: { ...lengths, turns: 4, outputTokens: 4 } }));
  const outcomes = records.map(({ session, turn, outcome }) => [session, turn, outcome].join(" "));
  expect(outcomes.sort()).toEqual(["0 0 ok", "0 1 refused", "0 2 unsent", "0 3 unsent", "1 0 ok", "1 1 ok", "1 2 ok", "1 3 ok"]);
  expect(sum(records)).toMatchObject({ offered: 8, byOutcome: { unsent: 2 }, goodput: { good: 5, share: 5 / 8 } });
});

test("clients that leave are counted apart, and the server sees them go", async () => {
  const records = await run(openLoop(arrivals, { ...common, cancelShare: 1, lengths: { ...lengths, outputTokens: 200 } }));
  expect(records.every(({ outcome, outputTokens }) => outcome === "cancelled" && outputTokens > 0)).toBe(true);
  expect(sum(records)).toMatchObject({ offered: 20, byOutcome: { cancelled: 20 }, goodput: { good: 0, share: 0 } });
  for (const bound = performance.now() + 5_000; leftEarly < 20 && performance.now() < bound; )
    await new Promise((resolve) => setTimeout(resolve, 10));
  expect(leftEarly).toBe(20);
});

test("a stopped run ends at once with what there is", async () => {
  const stop = new AbortController();
  answer = (_, response, n) => {
    response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    if (n === 5) stop.abort();
  };
  const records = await run(openLoop({ ...arrivals, durationSeconds: 600 }, { ...common, lengths }), stop.signal);
  expect(records.length).toBeGreaterThan(0);
  expect(records.every(({ outcome }) => outcome === "cancelled")).toBe(true);
});

test("lateness of the generator makes the figures void, in sending and in noticing", async () => {
  const records = await run(openLoop(arrivals, { ...common, lengths }));
  const sentLate = (ms: number) => records.map((record) => ({ ...record, sentMs: record.scheduledMs + ms }));
  const soon = Array.from({ length: 99 }, () => 1);
  expect(sum(sentLate(1), anySlo, [...soon, 500]).refused).toBeNull();
  expect(sum(sentLate(60), anySlo, soon).refused).toContain("sent requests 60 ms late");
  expect(sum(sentLate(1), anySlo, [...soon, 500, 500]).refused).toContain("noticed answers 500 ms late");
  const asked = { ...anySlo, ttftSeconds: 100 };
  expect(sum(sentLate(60), asked, [500, 500]).refused).toBeNull();
  // What was never sent was not sent in time either.
  const unsent = Array.from({ length: 3_000 }, () => ({ ...(records[0] as RequestRecord), outcome: "unsent" as const }));
  expect(sum([...sentLate(60), ...unsent.map((one) => ({ ...one, sentMs: one.scheduledMs }))], anySlo, soon).refused).toContain(
    "60 ms late",
  );
});

test("a busy generator is noticed in a closed loop, too", async () => {
  answer = (...of) => {
    // The server shares the generator's process.
    for (const until = performance.now() + 50; performance.now() < until; );
    return good(...of);
  };
  const made = await runWhole(closedLoop(2, 10, { ...common, lengths: { ...lengths, outputTokens: 2 } }));
  expect(summarise(made, anySlo).refused).toContain("noticed answers");
});

test("what is offered is of the time of sending, and the drain is told apart", async () => {
  const [record] = await run(closedLoop(1, 1, { ...common, lengths }));
  const of = (scheduledMs: number, endMs: number) => ({ ...(record as RequestRecord), scheduledMs, sentMs: scheduledMs, endMs });
  const open = summarise({ records: [of(0, 900), of(1_000, 9_000)], noticeLagsMs: [], sendingMs: 2_000 }, anySlo);
  expect(open).toMatchObject({ sendingSeconds: 2, drainSeconds: 7, durationSeconds: 9, offeredPerSecond: 1, completedPerSecond: 2 / 9 });
  expect(open.goodput.goodPerSecond).toBe(1);
  // Nothing came in the rest of the time, which was offered time all the same.
  expect(summarise({ records: [of(0, 900)], noticeLagsMs: [], sendingMs: 2_000 }, anySlo)).toMatchObject({
    offeredPerSecond: 0.5,
    drainSeconds: 0,
  });
  const later = summarise({ records: [of(0, 900), of(4_000, 5_000)], noticeLagsMs: [], sendingMs: 2_000 }, anySlo);
  expect(later).toMatchObject({ sendingSeconds: 4, drainSeconds: 1 });
  const closed = summarise({ records: [of(0, 900), of(1_000, 4_000)], noticeLagsMs: [], sendingMs: null }, anySlo);
  expect(closed).toMatchObject({ sendingSeconds: 4, drainSeconds: 0, offeredPerSecond: 0.5 });
  const atOnce = summarise({ records: [of(0, 900), of(0, 4_000)], noticeLagsMs: [], sendingMs: 0 }, anySlo);
  expect(atOnce).toMatchObject({ sendingSeconds: 4, drainSeconds: 0 });
});

test("plans say how long they send, and a stop ends it", async () => {
  expect(openLoop(arrivals, { ...common, lengths }).sendingMs).toBe(200);
  expect(closedLoop(1, 1, { ...common, lengths }).sendingMs).toBeNull();
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 50);
  const made = await runWhole(openLoop({ ...arrivals, durationSeconds: 600 }, { ...common, lengths }), stop.signal);
  expect(made.sendingMs).toBeLessThan(600_000);
});

test("a turn of the event loop counts for every moment that it held up", () => {
  expect(lagsOf(100, 99)).toEqual([]);
  expect(lagsOf(100, 101)).toEqual([1]);
  expect(lagsOf(100, 121)).toEqual([21, 16, 11, 6, 1]);
});

test("a run measures what a word costs, and its report is text, HTML and comparable", async () => {
  const signal = new AbortController().signal;
  expect(await measureWordCost(target, signal)).toEqual({ perWord: 1, base: 8 });
  // Late as it may be where tests run: nothing here depends on it.
  const slo = { ttftSeconds: 1_000, tpotSeconds: 1_000 };
  const report = await runLoad(openLoop(arrivals, { ...common, lengths }), {
    ...{ target, slo, options: { rate: 100 }, signal },
    ...{ onProgress: () => undefined, onNote: () => undefined },
  });
  expect(report.summary.byOutcome.ok).toBe(20);
  expect(formatReport(report)).toContain("100.0% of all offered; 90% attained");
  const html = htmlReport({ ...report, target: { ...report.target, model: "<script>alert(1)</script>" } });
  expect(html).not.toContain("<script>");
  expect(html.match(/<svg/g)).toHaveLength(4);
  expect(compareReports(report, report)).toContain("+0.0%");
  const other = compareReports(report, { ...report, options: { rate: 50, json: true }, summary: { ...report.summary, refused: "late" } });
  expect(other.split("\n").slice(-2)).toEqual(["different rate: 100 and 50", "NOT TO BE USED (after): late"]);
  target = { ...target, baseUrl: "http://127.0.0.1:9/v1" };
  await expect(measureWordCost(target, signal)).rejects.toThrow("does not serve m");
});

test("the knee of a server that refuses what is beyond its capacity is found for several attainments in one search", async () => {
  // 30 of the requests of a run are answered, whatever the rate: 0.1 s of 300/s, or of 333/s if nine tenths are enough.
  let left = 0;
  answer = (body, response, n) => (left-- > 0 ? good(body, response, n) : void response.writeHead(503).end("{}"));
  const planAt = (ratePerSecond: number) => {
    left = 30;
    return openLoop({ ...arrivals, ratePerSecond, endRatePerSecond: ratePerSecond, durationSeconds: 0.1 }, { ...common, lengths });
  };
  left = 2;
  // Late as it may be where tests run: nothing here depends on it.
  const slo = { ttftSeconds: 1_000, tpotSeconds: 1_000 };
  const notes: string[] = [];
  const { knee, summary } = await runKnee(planAt, 100, [0.9, 0.99], {
    ...{ target, slo, options: {}, signal: new AbortController().signal },
    ...{ onProgress: () => undefined, onNote: (text: string) => notes.push(text) },
  });
  const [at90, at99] = (knee?.found ?? []).map(({ ratePerSecond }) => ratePerSecond);
  expect(at99).toBeGreaterThan(270);
  expect(at99).toBeLessThanOrEqual(300);
  expect(at90).toBeGreaterThan(300);
  expect(at90).toBeLessThanOrEqual(340);
  expect(notes).toHaveLength(knee?.points.length as number);
  expect(summary.goodput.share).toBeGreaterThanOrEqual(0.9);
});

test("a summary takes any number of requests", async () => {
  const [record] = await run(closedLoop(1, 1, { ...common, lengths }));
  const many = Array.from({ length: 300_000 }, () => record as NonNullable<typeof record>);
  expect(sum(many)).toMatchObject({ offered: 300_000, goodput: { share: 1 } });
});
