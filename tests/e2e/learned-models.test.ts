// A gateway that is told of no model: it learns each from the workers that appear, serves it with the bits that it has with the folder, follows a
// change under its name, and forgets it when its workers are gone.
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { ErrorBody, ModelList } from "../../services/lib/contracts/http.ts";
import { writeOtherModel } from "../support/other-model.ts";
import { Fleet, type FleetProcess } from "./fleet.ts";
import { waitFor } from "./support.ts";

/** Far longer than any step of these tests takes, but for the one that waits for it. */
const keepMs = 20_000;
let fleet: Fleet;
let gateway: FleetProcess;
let a: { folder: string; name: string };
let b: { folder: string; name: string };
const workers = new Map<string, FleetProcess>();

beforeAll(async () => {
  fleet = await Fleet.start();
  const other = join(fleet.dir, "other");
  mkdirSync(other);
  writeOtherModel(other);
  a = { folder: embeddedModel(), name: "lab/a" };
  b = { folder: other, name: "b" };
  gateway = await fleet.gateway("gateway-0", { PELAGIC_KEEP_MODEL_MS: String(keepMs) }).ready();
});
afterAll(() => fleet?.close());

async function start(id: string, role: "prefill" | "decode", model: { folder: string; name: string }): Promise<void> {
  const worker = fleet.worker(id, role, model);
  workers.set(id, worker);
  await worker.ready();
}

/** As the workers of a pool stop: in order, all at once. */
async function stop(...ids: string[]): Promise<void> {
  await Promise.all(ids.map((id) => workers.get(id)?.stop()));
}

async function post(path: string, body: object, at = gateway): Promise<Response> {
  return fetch(at.url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

const chat = (model: string, at = gateway) =>
  post(
    "/v1/chat/completions",
    {
      model,
      messages: [{ role: "user", content: "What is 127 + 536?" }],
      max_tokens: 120,
      temperature: 1,
      seed: 7,
      return_token_ids: true,
    },
    at,
  );

interface Answer {
  model: string;
  choices: { message: { content: string; reasoning_content?: string }; token_ids: number[] }[];
}

async function answerOf(model: string, at = gateway): Promise<Answer["choices"][number]> {
  const response = await chat(model, at);
  const body = (await response.json()) as Answer;
  expect([response.status, body], at.log).toMatchObject([200, { model }]);
  return body.choices[0] as Answer["choices"][number];
}

async function refusalOf(
  model: string,
  at = gateway,
): Promise<{ status: number; code: string | null; retryAfter: string | null; message: string }> {
  const response = await chat(model, at);
  const { code, message } = ErrorBody.parse(await response.json()).error;
  return { status: response.status, code, retryAfter: response.headers.get("retry-after"), message };
}

const list = async (at = gateway) =>
  ModelList.parse(await (await fetch(`${at.url}/v1/models`)).json()).data.map(({ id, max_model_len }) => [id, max_model_len !== null]);
const isServed = async (name: string, at = gateway) => (await list(at)).some(([id, canAnswer]) => id === name && canAnswer);

test("without a worker it is ready, lists nothing, and says what it waits for", async () => {
  for (const port of [gateway.url, gateway.admin]) expect((await fetch(`${port}/ready`)).status).toBe(200);
  expect(await (await fetch(`${gateway.url}/ready`)).json()).toEqual({ status: "ready", waits_for: "a worker of any model" });
  expect(await list()).toEqual([]);
  expect(await refusalOf(a.name)).toMatchObject({ status: 404, code: "model_not_found" });
  expect((await fetch(`${gateway.url}/openapi.json`)).status).toBe(200);
});

test("a worker of a model appears: it answers with the bits that a gateway with the folder gives", async () => {
  await start("a-prefill", "prefill", a);
  await start("a-decode", "decode", a);
  await waitFor("the model is served", () => isServed(a.name));
  expect(await (await fetch(`${gateway.url}/ready`)).json()).toEqual({ status: "ready" });
  const told = await fleet.gateway("gateway-1", { PELAGIC_MODEL: `${a.name}=${a.folder}` }).ready();
  const learned = await answerOf(a.name);
  expect(learned.token_ids.length).toBeGreaterThan(10);
  expect(learned).toEqual(await answerOf(a.name, told));
  // Formats are compiled with the vocabulary that was learned.
  const shaped = await post("/v1/chat/completions", {
    model: a.name,
    messages: [{ role: "user", content: "hi" }],
    thinking: { type: "disabled" },
    max_tokens: 20,
    structured_outputs: { choice: ["yes", "no"] },
  });
  expect(["yes", "no"]).toContain(((await shaped.json()) as Answer).choices[0]?.message.content);
  const tokens = async (at: FleetProcess) => (await post("/tokenize", { model: a.name, prompt: "What is 127 + 536?" }, at)).json();
  expect(await tokens(gateway)).toEqual(await tokens(told));
  await told.stop();
});

test("a worker of a second model appears: both are served, each by its own", async () => {
  const before = await answerOf(a.name);
  await start("b-decode", "decode", b);
  await waitFor("the second is served", () => isServed(b.name));
  expect(await list()).toEqual([
    [a.name, true],
    [b.name, true],
  ]);
  expect(await answerOf(a.name)).toEqual(before);
  expect((await answerOf(b.name)).token_ids).not.toEqual(before.token_ids);
});

test("another gateway that starts is ready when it serves what workers have", async () => {
  const before = await answerOf(a.name);
  await gateway.kill();
  gateway = await fleet.gateway("gateway-0", { PELAGIC_KEEP_MODEL_MS: String(keepMs) }).ready();
  expect(new Set((await list()).map(([name]) => name))).toEqual(new Set([a.name, b.name]));
  expect(await answerOf(a.name)).toEqual(before);
});

test("NATS dies and comes back: no model is lost, and one that appears then is learned", async () => {
  const before = await answerOf(b.name);
  await fleet.nats.kill();
  const asked = answerOf(a.name);
  await fleet.nats.start();
  await asked;
  expect(await answerOf(b.name)).toEqual(before);
  await start("c-decode", "decode", { ...b, name: "c" });
  await waitFor("the third is served", () => isServed("c"));
  expect(await answerOf("c")).toEqual(before);
});

test("a model that changes under its name, worker by worker, answers all the while; by the new one at the end", async () => {
  // Other weights, and a template of its own: what is served before is not what is served after.
  const changed = join(fleet.dir, "changed");
  cpSync(b.folder, changed, { recursive: true });
  const file = join(changed, "tokenizer_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as { chat_template: string };
  writeFileSync(file, JSON.stringify({ ...config, chat_template: `New. ${config.chat_template}` }));
  const promptTokens = async () => {
    const body = await (await post("/tokenize", { model: a.name, messages: [{ role: "user", content: "hi" }] })).json();
    return (body as { count: number }).count;
  };
  const [before, answerBefore] = [await promptTokens(), await answerOf(a.name)];
  const statuses: number[] = [];
  let isOver = false;
  const asking = Array.from({ length: 3 }, async () => {
    while (!isOver) {
      const response = await chat(a.name);
      statuses.push(response.status);
      if (response.status !== 200) console.log(await response.text());
      else await response.arrayBuffer();
    }
  });
  try {
    await start("a-decode-2", "decode", { folder: changed, name: a.name });
    await stop("a-decode", "a-prefill");
  } finally {
    isOver = true;
    await Promise.all(asking);
  }
  expect(statuses.length).toBeGreaterThan(3);
  expect(new Set(statuses)).toEqual(new Set([200]));
  expect(await promptTokens()).toBe(before + "New. ".length);
  expect((await answerOf(a.name)).token_ids).not.toEqual(answerBefore.token_ids);
});

test("all workers of a model leave: 503 with a time to come back, and in the end no such model; others go on", async () => {
  const before = await answerOf("c");
  await stop("a-decode-2");
  expect(await refusalOf(a.name)).toMatchObject({ status: 503, code: "no_workers", retryAfter: expect.stringMatching(/^[1-9]/) });
  expect((await list()).find(([name]) => name === a.name)).toEqual([a.name, false]);
  expect((await fetch(`${gateway.url}/ready`)).status).toBe(200);
  await waitFor("it is forgotten", async () => (await list()).every(([name]) => name !== a.name), 2 * keepMs);
  expect(await refusalOf(a.name)).toMatchObject({ status: 404, code: "model_not_found", message: expect.stringContaining("b, c") });
  await waitFor("its metrics go", async () => !(await (await fetch(`${gateway.admin}/metrics`)).text()).includes(a.name));
  expect(await answerOf("c")).toEqual(before);
  await start("a-decode", "decode", a);
  await waitFor("it is back", () => isServed(a.name));
  expect((await answerOf(a.name)).token_ids.length).toBeGreaterThan(0);
});
