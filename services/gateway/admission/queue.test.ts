// The gateway's app on a real port, before workers that are full.
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, say, startGatewayUnderTest, waitFor } from "../../../tests/gateway/gateway-under-test.ts";
import { ErrorBody } from "../../lib/contracts/http.ts";

let stack: GatewayUnderTest;
beforeEach(async () => {
  stack = await startGatewayUnderTest();
});
afterEach(() => stack.close());

const ask = (more: object = {}, init: { headers?: Record<string, string>; signal?: AbortSignal } = {}) =>
  fetch(`${stack.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...init.headers },
    body: JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }], ...more }),
    signal: init.signal,
  });
const errorOf = async (response: Response) => ({ status: response.status, ...ErrorBody.parse(await response.json()).error });

async function workersHave(places: number): Promise<void> {
  stack.decode.state = { requests: { running: 8, waiting: 16 - places, maxWaiting: 16 } };
  stack.decode.sayState();
  await waitFor(() => stack.gateway.directory.snapshot().workers[0]?.requests.waiting === 16 - places);
}

describe("before full workers", () => {
  it("requests wait without a header, and go when there is room: the better class, then fair shares", async () => {
    await workersHave(0);
    stack.decode.script = () => say("x");
    const users = [{ user_id: "a", priority: 1 }, { user_id: "a" }, { user_id: "a" }, { user_id: "b" }, { user_id: "c", priority: -1 }];
    const asked: Promise<Response>[] = [];
    for (const [n, user] of users.entries()) {
      asked.push(ask({ ...user, stream: true, max_tokens: n + 1 }));
      await waitFor(() => stack.gateway.admission.waiting === n + 1);
    }
    expect(stack.decode.dispatches).toHaveLength(0);
    expect(await stack.registry.metrics()).toContain('pelagic_gateway_requests_waiting{model_name="test-model"} 5');
    for (let n = 1; n <= users.length; n++) {
      await workersHave(1);
      await waitFor(() => stack.decode.dispatches.length === n);
      await workersHave(0);
    }
    for (const response of await Promise.all(asked)) expect(response.status).toBe(200);
    expect(stack.decode.dispatches.map(({ body }) => body.maxTokens)).toEqual([5, 2, 4, 3, 1]);
  });

  it("a deadline counts from the request's arrival: what its body took is part of it", async () => {
    await workersHave(0);
    const body = JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }] });
    const slow = async function* () {
      yield Buffer.from(body.slice(0, 10));
      await new Promise((resolve) => setTimeout(resolve, 250));
      yield Buffer.from(body.slice(10));
    };
    const headers = { "content-type": "application/json", "x-request-timeout-ms": "200" };
    const response = await fetch(`${stack.url}/v1/chat/completions`, { method: "POST", headers, body: slow(), duplex: "half" });
    expect(await errorOf(response)).toMatchObject({ status: 504, code: "deadline_exceeded" });
    expect(await errorOf(await ask({}, { headers }))).toMatchObject({ status: 504, code: "deadline_exceeded" });
    expect(stack.gateway.admission.waiting).toBe(0);
  });

  it("a client that leaves is forgotten, one that waits too long is told when to come back", async () => {
    await stack.close();
    stack = await startGatewayUnderTest({ maxWaitMs: 300 });
    await workersHave(0);
    const controller = new AbortController();
    const left = ask({}, { signal: controller.signal }).catch(() => null);
    await waitFor(() => stack.gateway.admission.waiting === 1);
    controller.abort();
    await waitFor(() => stack.gateway.admission.waiting === 0);
    await left;
    const refused = await ask({ stream: true });
    expect(Number(refused.headers.get("retry-after-ms"))).toBeGreaterThanOrEqual(1_000);
    expect(refused.headers.get("x-should-retry")).toBeNull();
    expect(await errorOf(refused)).toMatchObject({ status: 503, code: "overloaded" });
    // Its objective passes while it waits, by others' fault.
    expect(await errorOf(await ask({}, { headers: { "x-slo-ttft-ms": "50" } }))).toMatchObject({
      status: 503,
      message: expect.stringMatching(/^no worker had room for the request within \d+ ms; try again later$/),
    });
    expect(stack.decode.dispatches).toHaveLength(0);
    expect(stack.gateway.admission.running).toBe(0);
  });

  it("a queue that is full refuses at once", async () => {
    await workersHave(0);
    const controller = new AbortController();
    const refused: number[] = [];
    const flood = Array.from({ length: 40 }, async () => {
      const response = await ask({}, { signal: controller.signal }).catch(() => null);
      if (response !== null) refused.push(response.status);
    });
    // Of 20 places one user alone gets four fifths.
    await waitFor(() => refused.length === 24);
    expect(new Set(refused)).toEqual(new Set([503]));
    expect(stack.gateway.admission.waiting).toBe(16);
    const other = ask({ user_id: "other" });
    await waitFor(() => stack.gateway.admission.waiting === 17);
    controller.abort();
    await Promise.all(flood);
    await workersHave(16);
    expect((await other).status).toBe(200);
  });
});
