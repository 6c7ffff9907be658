// Two models behind one gateway, each with a scripted worker of its own.
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, say, startGatewayUnderTest, waitFor } from "../../tests/gateway/gateway-under-test.ts";
import { ScriptedDecode } from "../../tests/gateway/scripted-decode.ts";
import { ErrorBody, ModelList } from "../lib/contracts/http.ts";
import { createKey, hashKey, KeyEntry, KeyRing } from "./admission/api-keys.ts";
import { gatewayStatus } from "./status.ts";

const [first, second] = ["test-model", "lab/other"] as const;
let stack: GatewayUnderTest;
let other: ScriptedDecode;
let stranger: ScriptedDecode;

beforeEach(async () => {
  stack = await startGatewayUnderTest({ models: [first, second] });
  other = startOther("decode-1", second);
  // Nobody serves it: it is left alone.
  stranger = startOther("decode-2", "stranger");
  await waitFor(() => stack.gateway.directory.snapshot().workers.length === 3);
});
afterEach(async () => {
  other.kill();
  stranger.kill();
  await stack.close();
});

function startOther(workerId: string, modelName: string): ScriptedDecode {
  const worker = new ScriptedDecode({ bus: stack.bus, workerId, script: () => say("other") });
  worker.state = { modelName, modelDigest: "c".repeat(64) };
  worker.sayState();
  return worker;
}

const post = (path: string, body: object, headers: Record<string, string> = {}) =>
  fetch(stack.url + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
const messages = [{ role: "user", content: "hi" }];
const chat = (model: string | undefined, more: object = {}, headers = {}) =>
  post("/v1/chat/completions", { model, messages, thinking: { type: "disabled" }, ...more }, headers);
const textOf = async (response: Response) => {
  expect(response.status).toBe(200);
  const body = (await response.json()) as { model: string; choices: { message: { content: string } }[] };
  return [body.model, body.choices[0]?.message.content];
};
const errorOf = async (response: Response) => ({ status: response.status, ...ErrorBody.parse(await response.json()).error });

describe("two models behind one gateway", () => {
  it("answer by name, from their own workers only", async () => {
    for (let i = 0; i < 5; i++) {
      expect(await textOf(await chat(first))).toEqual([first, "hello"]);
      expect(await textOf(await chat(second))).toEqual([second, "other"]);
    }
    expect([stack.decode, other, stranger].map(({ dispatches }) => dispatches.length)).toEqual([5, 5, 0]);
  });

  it("are listed, each by its own name too", async () => {
    const list = ModelList.parse(await (await fetch(`${stack.url}/v1/models`)).json());
    expect(list.data.map(({ id }) => id)).toEqual([first, second]);
    for (const id of [first, second]) expect(await (await fetch(`${stack.url}/v1/models/${id}`)).json()).toMatchObject({ id });
    expect(await errorOf(await fetch(`${stack.url}/v1/models/stranger`))).toMatchObject({ status: 404, code: "model_not_found" });
  });

  it("are named to whoever asks for another one or for none, in each API's words", async () => {
    const bodies: [path: string, body: object][] = [
      ["/v1/chat/completions", { messages }],
      ["/v1/completions", { prompt: "hi" }],
      ["/v1/responses", { input: "hi" }],
      ["/tokenize", { prompt: "hi" }],
      ["/detokenize", { tokens: [1] }],
    ];
    for (const [path, body] of bodies) {
      const unknown = await errorOf(await post(path, { ...body, model: "stranger" }));
      expect(unknown, path).toMatchObject({ status: 404, code: "model_not_found", param: "model" });
      expect(unknown.message).toContain(`${first}, ${second}`);
      const unnamed = await errorOf(await post(path, body));
      expect(unnamed, path).toMatchObject({ status: 400, code: "invalid_request", param: "model" });
      expect(unnamed.message).toContain(`${first}, ${second}`);
    }
    for (const path of ["/v1/messages", "/v1/messages/count_tokens"]) {
      const body = { messages, max_tokens: 5 };
      const unknown = await post(path, { ...body, model: "stranger" });
      expect([unknown.status, await unknown.json()]).toMatchObject([404, { type: "error", error: { type: "not_found_error" } }]);
      const unnamed = await post(path, body);
      expect([unnamed.status, await unnamed.json()]).toMatchObject([400, { type: "error", error: { type: "invalid_request_error" } }]);
    }
    expect(stranger.dispatches).toEqual([]);
  });

  it("are for the keys that may use them: others see nothing of them", async () => {
    const key = createKey();
    stack.gateway.callers.use(new KeyRing([KeyEntry.parse({ name: "narrow", sha256: hashKey(key), models: [second] })]));
    const headers = { "x-api-key": key };
    const list = ModelList.parse(await (await fetch(`${stack.url}/v1/models`, { headers })).json());
    expect(list.data.map(({ id }) => id)).toEqual([second]);
    expect(await textOf(await chat(second, {}, headers))).toEqual([second, "other"]);
    const refused = await errorOf(await chat(first, {}, headers));
    const unknown = await errorOf(await chat("nowhere", {}, headers));
    expect(refused).toMatchObject({ status: 404, code: "model_not_found" });
    expect(unknown).toEqual({ ...refused, message: refused.message.replace(first, "nowhere") });
    expect((await fetch(`${stack.url}/v1/models/${first}`, { headers })).status).toBe(404);
    // Where the key leaves no choice, nothing need be named that has a default.
    expect((await post("/tokenize", { prompt: "hi" }, headers)).status).toBe(200);
    for (const worker of [stack.decode, other]) {
      worker.state = { ...worker.state, state: "draining" };
      worker.sayState();
    }
    await waitFor(() => stack.gateway.directory.snapshot().workers.filter(({ state }) => state === "draining").length === 2);
    const { status, message } = await errorOf(await fetch(`${stack.url}/ready`, { headers }));
    expect([status, message]).toEqual([503, "no model is ready"]);
  });

  it("fail apart: one without workers is listed and answers 503, and the gateway is ready for the other", async () => {
    other.state = { ...other.state, state: "draining" };
    other.sayState();
    await waitFor(() => stack.gateway.directory.snapshot().workers.some(({ state }) => state === "draining"));
    const refused = await chat(second);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(await errorOf(refused)).toMatchObject({ status: 503, code: "no_workers", message: expect.stringContaining(second) });
    expect(await textOf(await chat(first))).toEqual([first, "hello"]);
    expect((await fetch(`${stack.url}/ready`)).status).toBe(200);
    const list = ModelList.parse(await (await fetch(`${stack.url}/v1/models`)).json());
    expect(list.data.map(({ id, max_model_len }) => [id, max_model_len])).toEqual([
      [first, 8192],
      [second, null],
    ]);
    expect(gatewayStatus(stack.gateway, "g")).toMatchObject({
      gateway: {
        models: [
          { name: first, notReady: null },
          { name: second, notReady: expect.stringContaining("decode-1 is draining") },
        ],
      },
    });
    stack.decode.state = { state: "draining" };
    stack.decode.sayState();
    await waitFor(() => stack.gateway.directory.snapshot().workers.filter(({ state }) => state === "draining").length === 2);
    expect((await fetch(`${stack.url}/ready`)).status).toBe(503);
  });

  it("go on with their own workers only, when one of those dies", async () => {
    other.script = () => ({ ...say("other"), hangAfter: 2 });
    const answer = chat(second);
    await waitFor(() => other.dispatches.length === 1);
    const third = startOther("decode-3", second);
    await waitFor(() => stack.gateway.directory.snapshot().workers.length === 4);
    other.kill();
    stack.gateway.client.workerGone({ workerId: "decode-1", instanceId: "decode-1-1" });
    expect(await textOf(await answer)).toEqual([second, "other"]);
    expect(third.dispatches).toHaveLength(1);
    expect([stack.decode, stranger].map(({ dispatches }) => dispatches.length)).toEqual([0, 0]);
    third.kill();
  });

  it("end with worker_lost rather than on another model's worker", async () => {
    other.script = () => ({ ...say("other"), hangAfter: 2 });
    const answer = chat(second);
    await waitFor(() => other.dispatches.length === 1);
    other.kill();
    stack.gateway.client.workerGone({ workerId: "decode-1", instanceId: "decode-1-1" });
    // As what it was, and as what comes in its place: a process of the same id with another model.
    const usurper = startOther("decode-1", first);
    usurper.instanceId = "decode-1-2";
    usurper.sayState();
    expect(await errorOf(await answer)).toMatchObject({ status: 503, code: "worker_lost" });
    expect([stack.decode, usurper, stranger].map(({ dispatches }) => dispatches.length)).toEqual([0, 0, 0]);
    usurper.kill();
  });

  it("are told apart in metrics, where a client's own words never become a name", async () => {
    await textOf(await chat(first));
    await textOf(await chat(second));
    await chat("stranger");
    const text = await stack.registry.metrics();
    for (const name of [first, second]) {
      expect(text).toContain(`pelagic_gateway_requests_total{endpoint="chat",outcome="stop",model_name="${name}"} 1`);
      expect(text).toContain(`vllm:num_requests_running{model_name="${name}"}`);
    }
    expect(text).toContain('pelagic_gateway_requests_total{endpoint="chat",outcome="model_not_found",model_name=""} 1');
    expect(text).not.toContain("stranger");
    expect(stack.gateway.recent.list().map(({ model }) => model)).toEqual([null, second, first]);
  });
});
