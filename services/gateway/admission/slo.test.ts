// The gateway's app on a real port: classes, objectives and deadlines on their way to the workers.
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type GatewayUnderTest, say, startGatewayUnderTest, waitFor } from "../../../tests/gateway/gateway-under-test.ts";
import { ErrorBody } from "../../lib/contracts/http.ts";
import { createKey, hashKey, KeyRing, parseKeysFile } from "./api-keys.ts";

let stack: GatewayUnderTest;
beforeEach(async () => {
  stack = await startGatewayUnderTest();
});
afterEach(() => stack.close());

const ask = (headers: Record<string, string>, more: object = {}) =>
  fetch(`${stack.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model: "test-model", messages: [{ role: "user", content: "hi" }], ...more }),
  });
const errorOf = async (response: Response) => ({ status: response.status, ...ErrorBody.parse(await response.json()).error });
const counted = async (line: string) => expect(await stack.registry.metrics()).toContain(`pelagic_gateway_slo_total${line}`);

describe("classes, objectives and deadlines", () => {
  it("go with the request", async () => {
    const key = createKey();
    expect((await ask({ "x-slo-ttft-ms": "30000", "x-request-timeout-ms": "15000" }, { priority: -1 })).status).toBe(200);
    const [first] = stack.decode.dispatches;
    expect(first?.body.standing).toMatchObject({ tenant: "", priority: "high" });
    expect(first?.body.standing?.ttftMs).toBeGreaterThan(15_000);
    expect(first?.body.standing?.ttftMs).toBeLessThanOrEqual(30_000);
    expect(first?.body.deadlineMs).toBeLessThanOrEqual(15_000);
    const file = { keys: [{ name: "a", sha256: hashKey(key), priority: "low" }] };
    stack.gateway.callers.use(new KeyRing(parseKeysFile(JSON.stringify(file))));
    for (const user_id of ["x", "y"]) await ask({ "x-api-key": key }, { priority: -1, user_id });
    const [, second, third] = stack.decode.dispatches;
    expect(second?.body.standing).toEqual({ tenant: third?.body.standing?.tenant, priority: "low" });
    expect(second?.body.cacheSalt).not.toBe(third?.body.cacheSalt);
  });

  it("that make no sense are refused by name", async () => {
    expect(await errorOf(await ask({ "x-slo-ttft-ms": "soon" }))).toMatchObject({ status: 400, param: "x-slo-ttft-ms" });
    expect(await errorOf(await ask({}, { priority: "high" }))).toMatchObject({ status: 400, param: "priority" });
    expect(stack.decode.dispatches).toHaveLength(0);
  });

  it("are counted as attained or missed", async () => {
    await ask({ "x-slo-ttft-ms": "20000", "x-slo-tpot-ms": "20000", "x-request-timeout-ms": "20000" });
    await counted('{slo="ttft",outcome="attained",priority="normal",model_name="test-model"} 1');
    await counted('{slo="tpot",outcome="attained",priority="normal",model_name="test-model"} 1');
    await counted('{slo="deadline",outcome="attained",priority="normal",model_name="test-model"} 1');
    stack.decode.busy = true;
    expect(await errorOf(await ask({ "x-slo-ttft-ms": "20000", "x-slo-tpot-ms": "20000" }))).toMatchObject({ status: 503 });
    await counted('{slo="ttft",outcome="missed",priority="normal",model_name="test-model"} 1');
    await counted('{slo="tpot",outcome="missed",priority="normal",model_name="test-model"} 1');
  });

  it("a deadline that passes ends the request, streamed or not", async () => {
    stack.decode.script = () => ({ ...say("never"), hangAfter: 0 });
    for (const stream of [true, false]) {
      const late = await ask({ "x-request-timeout-ms": "200" }, { stream });
      expect(await errorOf(late)).toMatchObject({ status: 504, code: "deadline_exceeded" });
    }
    await waitFor(() => stack.decode.attempts.size === 0);
    await counted('{slo="deadline",outcome="missed",priority="normal",model_name="test-model"} 2');
    stack.decode.script = () => ({ ...say("half of it"), hangAfter: 3 });
    const text = await (await ask({ "x-request-timeout-ms": "300" }, { stream: true })).text();
    expect(text).toContain('"code":"deadline_exceeded"');
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  it("what the workers' own figures say will be late is refused before anything is spent", async () => {
    stack.decode.state = {
      rates: { prefillTokensPerSecond: 1_000, decodeStepSeconds: 0.05, transferBytesPerSecond: 0 },
      requests: { running: 4, waiting: 8, maxWaiting: 16, waitingOf: { high: 0, normal: 8, low: 0 } },
    };
    stack.decode.sayState();
    await waitFor(() => stack.gateway.directory.snapshot().workers[0]?.requests.waiting === 8);
    const deadline = await ask({ "x-request-timeout-ms": "2000" });
    // 9 places, 4 of which come free every 12.8 s.
    expect(Number(deadline.headers.get("retry-after"))).toBeGreaterThan(20);
    expect(deadline.headers.get("x-should-retry")).toBeNull();
    expect(await errorOf(deadline)).toMatchObject({ status: 503, code: "overloaded" });
    expect(await errorOf(await ask({ "x-slo-ttft-ms": "2000" }, { stream: true }))).toMatchObject({ status: 503, code: "overloaded" });
    expect(stack.decode.dispatches).toHaveLength(0);
    // Nobody of its class waits.
    expect((await ask({ "x-slo-ttft-ms": "2000" }, { priority: -1 })).status).toBe(200);
    expect((await ask({}, { priority: -1 })).status).toBe(200);
  });
});
