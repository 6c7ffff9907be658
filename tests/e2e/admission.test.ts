// Who may ask, how much, and who comes first, with every real process: keys made by the command, and the workers' own word that nothing was
// computed for those who were refused.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { waitFor, workersOf } from "./support.ts";

let stack: Stack;
let dir: string;
const made: Record<string, string> = {};
const testMs = 120_000;
const queues = { PELAGIC_MAX_SEQUENCES: "1", PELAGIC_MAX_WAITING: "2", PELAGIC_MAX_QUEUED: "10" };

async function keys(...args: string[]): Promise<string> {
  const command = [inTree("dist", "services", "cli", "main.js"), "keys", ...args, "--file", join(dir, "keys.json")];
  return (await promisify(execFile)(process.execPath, command)).stdout.trim();
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-admission-"));
  const limits: Record<string, string[]> = {
    ann: [],
    bob: [],
    urgent: ["--priority", "high"],
    other: ["--model", "another"],
    few: ["--requests-per-minute", "2"],
    little: ["--tokens-per-minute", "400"],
    single: ["--max-concurrent", "1"],
    team1: ["--cache-group", "team"],
    team2: ["--cache-group", "team"],
    gone: [],
  };
  for (const [name, options] of Object.entries(limits)) made[name] = await keys("create", name, ...options);
  await keys("revoke", "gone");
  stack = await startStack({ prefill: 1, decode: 1, apiKeys: join(dir, "keys.json"), env: queues });
}, 180_000);
afterAll(async () => {
  await stack?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const bearer = (name: string) => ({ authorization: `Bearer ${made[name] ?? name}` });
const xApiKey = (name: string) => ({ "x-api-key": made[name] ?? name });

function post(path: string, headers: object, body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`${stack.baseUrl}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model: stack.modelName, ...body }),
    signal,
  });
}

let prompts = 0;
/** No two are alike from their first token on. */
const fresh = (length: number) => {
  prompts++;
  return Array.from({ length }, (_, i) => (i === 0 ? prompts : i * 31 + prompts) % 256);
};
const complete = (headers: object, more: object = {}, signal?: AbortSignal) =>
  post("/v1/completions", headers, { prompt: fresh(20), max_tokens: 2, ignore_eos: true, ...more }, signal);

async function errorOf(response: Response) {
  const { error } = (await response.json()) as { error: { code: string; type: string; param: string | null; message: string } };
  return { status: response.status, code: error.code, param: error.param, retryAfter: Number(response.headers.get("retry-after")) };
}

/** Steps that each worker's engine has made. */
async function stepsOf(...names: string[]): Promise<number[]> {
  return Promise.all(
    names.map(async (name) => {
      const port = stack.processes.find((process) => process.name === name)?.metricsPort;
      const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      return Number(/^pelagic_engine_steps_total (\d+)$/m.exec(text)?.[1]);
    }),
  );
}

const idle = () =>
  waitFor("nothing runs", async () =>
    (await workersOf(stack)).every(
      ({ requests, blocks }) => requests.running + requests.waiting === 0 && blocks.free + blocks.cached === blocks.total,
    ),
  );

/** Refused, and no worker has computed a thing. */
async function refused(asked: () => Promise<Response>) {
  await idle();
  const before = await stepsOf("prefill-0", "decode-0");
  expect(before.every((steps) => steps >= 0)).toBe(true);
  const response = await asked();
  const error = await errorOf(response);
  expect(await stepsOf("prefill-0", "decode-0")).toEqual(before);
  return error;
}

/** Holds the decode worker until it is let go: one request runs, another one goes on where that ends. */
async function occupy(): Promise<{ release(): Promise<void> }> {
  const controller = new AbortController();
  const ask = () => complete(bearer("urgent"), { stream: true, max_tokens: 7_900 }, controller.signal);
  const first = await ask();
  expect(first.status).toBe(200);
  const second = ask().catch(() => null);
  return {
    release: async () => {
      controller.abort();
      await first.text().catch(() => undefined);
      await second;
    },
  };
}

describe("keys", () => {
  test("none, a wrong one and a revoked one get 401 in each API's own words, and nothing is computed", { timeout: testMs }, async () => {
    const chat = { messages: [{ role: "user", content: "1+1=?" }], max_tokens: 2 };
    const bodies: [string, object][] = [
      ["/v1/chat/completions", chat],
      ["/v1/completions", { prompt: "1+1=", max_tokens: 2 }],
      ["/v1/responses", { input: "1+1=?", max_output_tokens: 2 }],
      ["/v1/messages", chat],
    ];
    await idle();
    const before = await stepsOf("prefill-0", "decode-0");
    for (const [path, body] of bodies) {
      for (const headers of [{}, bearer("sk-wrong"), xApiKey("sk-wrong"), bearer("gone"), xApiKey("gone"), { authorization: "Basic x" }]) {
        const response = await post(path, headers, body);
        expect(response.status).toBe(401);
        expect(response.headers.get("www-authenticate")).toBe("Bearer");
        const answer = (await response.json()) as { type?: string; error: { type: string; code?: string } };
        if (path === "/v1/messages") expect(answer).toMatchObject({ type: "error", error: { type: "authentication_error" } });
        else expect(answer.error).toMatchObject({ type: "authentication_error", code: "invalid_api_key" });
      }
    }
    expect((await fetch(`${stack.baseUrl}/v1/models`, { headers: bearer("gone") })).status).toBe(401);
    expect(await stepsOf("prefill-0", "decode-0")).toEqual(before);
    for (const [path, body] of bodies) {
      for (const headers of [bearer("ann"), xApiKey("ann")]) {
        const response = await post(path, headers, body);
        expect(response.status).toBe(200);
        await response.text();
      }
    }
  });

  test("that are made or revoked while the gateway runs count within moments", { timeout: testMs }, async () => {
    made.late = await keys("create", "late");
    await waitFor("the new key is known", async () => (await complete(bearer("late"))).status === 200);
    await keys("revoke", "late");
    await waitFor("the revoked key is refused", async () => (await complete(bearer("late"))).status === 401);
    expect((await complete(bearer("ann"))).status).toBe(200);
  });

  test("a model that the key may not use is one that does not exist", { timeout: testMs }, async () => {
    expect(await refused(() => complete(bearer("other")))).toMatchObject({ status: 404, code: "model_not_found", param: "model" });
    const models = await (await fetch(`${stack.baseUrl}/v1/models`, { headers: bearer("other") })).json();
    expect(models).toMatchObject({ data: [] });
  });

  test("find only their own prompts in the cache, or their group's", { timeout: testMs }, async () => {
    const prompt = fresh(300);
    const hits = async (name: string) => {
      const { usage } = (await (await complete(bearer(name), { prompt })).json()) as { usage: { prompt_cache_hit_tokens: number } };
      return usage.prompt_cache_hit_tokens;
    };
    expect(await hits("ann")).toBe(0);
    expect(await hits("bob")).toBe(0);
    expect(await hits("ann")).toBe(256);
    expect(await hits("team1")).toBe(0);
    expect(await hits("team2")).toBe(256);
  });
});

describe("quotas", () => {
  test("requests a minute", { timeout: testMs }, async () => {
    for (const left of ["1", "0"]) {
      const response = await complete(bearer("few"));
      expect([response.status, response.headers.get("x-ratelimit-remaining-requests")]).toEqual([200, left]);
      await response.text();
    }
    const error = await refused(() => complete(bearer("few")));
    expect(error).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    expect(error.retryAfter).toBeGreaterThan(0);
    const messages = await post("/v1/messages", xApiKey("few"), { messages: [{ role: "user", content: "hi" }], max_tokens: 2 });
    expect(messages.headers.get("retry-after")).not.toBeNull();
    expect([messages.status, await messages.json()]).toMatchObject([429, { type: "error", error: { type: "rate_limit_error" } }]);
  });

  test("tokens a minute: what would be too much waits, what can never be is said to be final", { timeout: testMs }, async () => {
    expect((await complete(bearer("little"), { prompt: fresh(300), max_tokens: 10 })).status).toBe(200);
    const later = await refused(() => complete(bearer("little"), { prompt: fresh(300), max_tokens: 10 }));
    expect(later).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    expect(later.retryAfter).toBeGreaterThan(1);
    const never = await refused(() => complete(bearer("little"), { prompt: fresh(500), max_tokens: 10 }));
    expect(never).toMatchObject({ status: 429, retryAfter: 0 });
  });

  test("requests at once", { timeout: testMs }, async () => {
    const controller = new AbortController();
    const first = await complete(bearer("single"), { stream: true, max_tokens: 7_000 }, controller.signal);
    expect(first.status).toBe(200);
    const [prefilled] = await stepsOf("prefill-0");
    const second = await errorOf(await complete(bearer("single"), { prompt: fresh(300) }));
    expect(second).toMatchObject({ status: 429, code: "rate_limit_exceeded", retryAfter: 1 });
    expect(await stepsOf("prefill-0")).toEqual([prefilled]);
    controller.abort();
    await first.text().catch(() => undefined);
    await waitFor("the place is free again", async () => (await complete(bearer("single"))).status === 200);
  });
});

describe("time", () => {
  test("a deadline that cannot be met is refused at the door, one that can is kept", { timeout: testMs }, async () => {
    // Rates are measured by then.
    expect((await complete(bearer("ann"), { prompt: fresh(600) })).status).toBe(200);
    const late = { ...bearer("ann"), "x-request-timeout-ms": "50" };
    const error = await refused(() => complete(late, { prompt: fresh(6_000) }));
    expect(error).toMatchObject({ status: 503, code: "overloaded" });
    expect(error.retryAfter).toBeGreaterThan(0);
    expect((await complete({ ...late, "x-request-timeout-ms": "60000" }, { prompt: fresh(300) })).status).toBe(200);
    const passed = await complete({ ...late, "x-request-timeout-ms": "1000" }, { max_tokens: 7_000 });
    expect(await errorOf(passed)).toMatchObject({ status: 504, code: "deadline_exceeded" });
    await idle();
  });

  test("what is no time is refused by the header's name", { timeout: testMs }, async () => {
    for (const name of ["x-request-timeout-ms", "x-slo-ttft-ms", "x-slo-tpot-ms"]) {
      const error = await refused(() => complete({ ...bearer("ann"), [name]: "soon" }));
      expect(error).toMatchObject({ status: 400, code: "invalid_request", param: name });
    }
  });
});

describe("before a full worker", () => {
  const waiting = async () => {
    const status = (await (await fetch(`${stack.adminUrl}/status`)).json()) as { gateway: { requests: { waiting: number } } };
    return status.gateway.requests.waiting + (await workersOf(stack)).reduce((sum, { requests }) => sum + requests.waiting, 0);
  };

  test("tenants share, the better class goes first, and a queue that is full refuses without prefill", { timeout: testMs }, async () => {
    await idle();
    const occupant = await occupy();
    await waitFor("the worker is taken", async () => (await waiting()) === 1);
    const order: string[] = [];
    const asked: Promise<unknown>[] = [];
    const queue = async (name: string) => {
      const place = asked.length + 2;
      asked.push(
        complete(bearer(name), { prompt: fresh(300) }).then(async (response) => {
          expect(response.status).toBe(200);
          await response.text();
          order.push(name);
        }),
      );
      await waitFor(`${place} wait`, async () => (await waiting()) === place);
    };
    const [prefilled] = await stepsOf("prefill-0");
    for (const name of ["ann", "ann", "ann", "ann", "ann", "ann", "bob", "bob", "urgent"]) await queue(name);
    // Its objective passes while it waits, by others' fault.
    const hasty = await errorOf(await complete({ ...bearer("bob"), "x-slo-ttft-ms": "100" }));
    expect(hasty).toMatchObject({ status: 503, code: "overloaded" });
    expect(hasty.retryAfter).toBeGreaterThan(0);
    const controller = new AbortController();
    const statuses: number[] = [];
    const flood = Array.from({ length: 12 }, async () => {
      const response = await complete(bearer("ann"), { prompt: fresh(300) }, controller.signal).catch(() => null);
      if (response === null) return;
      statuses.push(response.status);
      expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
    });
    await waitFor("the flood is refused but for what the queue holds", async () => statuses.length >= 9);
    expect(new Set(statuses)).toEqual(new Set([503]));
    controller.abort();
    await Promise.all(flood);
    expect(await stepsOf("prefill-0")).toEqual([prefilled]);
    await waitFor("only the queue waits", async () => (await waiting()) === 10);
    await occupant.release();
    await Promise.all(asked);
    expect(order).toHaveLength(9);
    // One of ann's was at the worker already when the others came.
    expect(order.indexOf("urgent")).toBeLessThan(2);
    expect(order.lastIndexOf("bob")).toBeLessThan(order.lastIndexOf("ann"));
    expect(order.slice(0, 7).filter((name) => name === "bob")).toHaveLength(2);
    await idle();
  });
});
