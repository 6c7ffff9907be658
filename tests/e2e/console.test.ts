// The console in a real browser, over the whole system: what it shows is what is, by keyboard alone, in both colour schemes.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import axe, { type AxeResults } from "axe-core";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { chromiumBinary } from "../../services/cli/chromium-binary.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { createKey, hashKey } from "../../services/gateway/admission/api-keys.ts";
import { ConsoleExperts, ConsoleOverview, ConsoleRequests } from "../../services/lib/contracts/console.ts";
import { RequestTimeline } from "../../services/lib/contracts/timeline.ts";
import { waitFor } from "./support.ts";

const boundMs = 30_000;
/** Getting the browser may be part of it. */
const startMs = 600_000;
const testMs = 120_000;

let stack: Stack;
let browser: Browser;
let context: BrowserContext;
let page: Page;
/** What the browser complained of, and where it asked for anything. */
let complaints: string[];
let origins: Set<string>;

beforeAll(async () => {
  const executablePath = await chromiumBinary(() => undefined);
  [stack, browser] = await Promise.all([startStack(), chromium.launch({ executablePath, args: ["--no-sandbox"] })]);
}, startMs);

afterAll(async () => {
  await browser?.close();
  await stack?.stop();
});

async function open(options: Parameters<Browser["newContext"]>[0] = {}, url = stack.consoleUrl): Promise<void> {
  context = await browser.newContext(options);
  context.setDefaultTimeout(boundMs);
  page = await context.newPage();
  complaints = [];
  origins = new Set();
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => origins.add(new URL(request.url()).origin));
  await page.goto(url as string);
}

async function get<S extends { parse(value: unknown): unknown }>(schema: S, path: string): Promise<ReturnType<S["parse"]>> {
  const response = await fetch(new URL(path, stack.consoleUrl as string));
  return schema.parse(await response.json()) as ReturnType<S["parse"]>;
}

/** Of what has the focus; runs in the page. */
const focused = `(() => {
  const element = document.activeElement;
  const role = element.getAttribute("role") ?? { A: "link", BUTTON: "button", SUMMARY: "summary", INPUT: "radio" }[element.tagName] ?? "";
  // A radio button's ring is around its words.
  const ringed = element.tagName === "INPUT" ? element.nextElementSibling : element;
  const name = element.getAttribute("aria-label") ?? ringed.textContent;
  return { role, name, ring: getComputedStyle(ringed).outlineStyle !== "none" };
})()`;

/** By the Tab key, as somebody without a mouse would; what it leads to is seen to have the focus. */
async function tabTo(what: { role: string; name: RegExp }): Promise<void> {
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press("Tab");
    const { role, name, ring } = await page.evaluate<{ role: string; name: string; ring: boolean }>(focused);
    if (role !== what.role || !what.name.test(name)) continue;
    expect(ring, `${what.name} has a visible focus`).toBe(true);
    return;
  }
  throw new Error(`Tab does not lead to the ${what.role} ${what.name}`);
}

async function follow(name: RegExp): Promise<void> {
  await tabTo({ role: "link", name });
  await page.keyboard.press("Enter");
}

async function ask(question: string): Promise<void> {
  await page.getByRole("textbox", { name: "Your message" }).focus();
  await page.keyboard.type(question);
  await page.keyboard.press("Enter");
}

async function expectAccessible(what: string): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate<AxeResults>("axe.run(document)");
  expect(
    violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`),
    `axe on ${what}`,
  ).toEqual([]);
}

const exchange = (n: number) => page.getByRole("article").nth(n);
const decode = () => stack.processes.find(({ name }) => name === "decode-0");

describe.each(["light", "dark"] as const)("in the %s scheme", { timeout: testMs }, (colorScheme) => {
  beforeEach(async () => {
    await open({ colorScheme, reducedMotion: "reduce" });
    await page.getByText("2 workers ready").waitFor();
  });
  afterEach(async () => {
    expect(complaints).toEqual([]);
    expect([...origins]).toEqual([new URL(stack.baseUrl).origin]);
    await context.close();
  });

  it("chats, with the reasoning folded, turn after turn", async () => {
    await expectAccessible("the empty chat");
    const bodies: { messages: object[]; thinking: object }[] = [];
    page.on("request", (request) => {
      if (request.method() === "POST") bodies.push(request.postDataJSON());
    });
    await page.keyboard.type("What is 127 + 536?");
    await page.keyboard.press("Enter");
    await exchange(0).getByText("663", { exact: true }).waitFor();
    const thought = exchange(0).locator("details");
    await thought.getByText(/^Thought for/).waitFor();
    expect(await thought.getAttribute("open")).toBeNull();
    await page.getByRole("log").focus();
    await tabTo({ role: "summary", name: /^Thought for/ });
    await page.keyboard.press("Enter");
    await thought.getByText("=663").waitFor();
    await expectAccessible("an answer");

    await page.getByRole("textbox", { name: "Your message" }).focus();
    await tabTo({ role: "switch", name: /Think first/ });
    await page.keyboard.press("Space");
    await ask("What is 2 + 2?");
    await exchange(1)
      .getByText(/tokens\/s|Ended|first after/)
      .first()
      .waitFor();
    expect(await exchange(1).locator("details").count()).toBe(0);
    expect(bodies.map(({ thinking }) => thinking)).toEqual([{ type: "enabled" }, { type: "disabled" }]);
    expect(bodies[1]?.messages).toEqual([
      { role: "user", content: "What is 127 + 536?" },
      { role: "assistant", content: "663" },
      { role: "user", content: "What is 2 + 2?" },
    ]);
  });

  it("stops an answer, and says in words what went wrong", async () => {
    // Its worker stands still, so the answer cannot end before it is stopped.
    decode()?.kill("SIGSTOP");
    await ask("What is 1 + 1?");
    await exchange(0).getByText("Waiting for the first token").waitFor();
    await page.getByRole("button", { name: "Stop" }).waitFor();
    await page.keyboard.press("Escape");
    await exchange(0).getByText("Stopped").waitFor();
    decode()?.kill("SIGCONT");
    await waitFor("no request in the gateway", async () => (await get(ConsoleOverview, "api/overview")).gateway.requests.running === 0);
    await page.getByText("2 workers ready").waitFor();

    // Longer than the model's context.
    await page.getByRole("textbox", { name: "Your message" }).fill("9 ".repeat(6000));
    await page.keyboard.press("Enter");
    const alert = page.getByRole("alert");
    await alert.getByText(/8192/).waitFor();
    await expectAccessible("an error");
    // The browser reports each refused request itself.
    expect(complaints.splice(0)).toEqual([expect.stringContaining("400")]);

    await context.setOffline(true);
    await ask("What is 127 + 536?");
    await alert.getByText("The gateway does not answer.").waitFor();
    await page.getByRole("status").getByText("The gateway does not answer").waitFor();
    await context.setOffline(false);
    await alert.getByRole("button", { name: "Ask again" }).focus();
    await page.keyboard.press("Enter");
    await page.getByText("663", { exact: true }).waitFor();
    await page.getByText("2 workers ready").waitFor();
    complaints = complaints.filter((complaint) => !complaint.includes("ERR_INTERNET_DISCONNECTED"));
    await tabTo({ role: "button", name: /New chat/ });
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: /^Ask / }).waitFor();
  });

  it("shows pools and blocks as they change", async () => {
    await follow(/Pools/);
    await page.getByRole("heading", { name: "Pools", level: 1 }).waitFor();
    const legend = (chart: string, name: string) =>
      page
        .locator("figure", { has: page.getByText(chart, { exact: true }) })
        .locator("dl > div", { hasText: name })
        .locator("dd");
    const shown = async (chart: string, name: string) => Number((await legend(chart, name).textContent())?.replace(/[^\d.]/g, ""));
    expect(await shown("KV blocks", "in use")).toBe(0);
    const load = Promise.all(Array.from({ length: 6 }, (_, i) => completion(i)));
    await waitFor("requests run", async () => (await shown("Requests", "running")) > 0);
    await waitFor("blocks are in use", async () => (await shown("KV blocks", "in use")) > 0);
    await waitFor("tokens are generated", async () => (await shown("Tokens", "generated")) > 0);
    await load;
    await waitFor("nothing runs any more", async () => (await shown("Requests", "running")) === 0);
    await waitFor("blocks stay cached", async () => (await shown("KV blocks", "cached")) > 0);
    const { workers } = await get(ConsoleOverview, "api/overview");
    const cached = workers.reduce((sum, { blocks }) => sum + blocks.cached, 0);
    await waitFor("the sums are the workers'", async () => (await shown("KV blocks", "cached")) === cached);
    await tabTo({ role: "radio", name: /Both pools/ });
    await page.keyboard.press("ArrowRight");
    await waitFor(
      "one pool's alone",
      async () => (await shown("KV blocks", "cached")) === workers.find(({ role }) => role === "prefill")?.blocks.cached,
    );
    await tabTo({ role: "slider", name: /^KV blocks/ });
    const chart = page.getByRole("slider", { name: /^KV blocks/ });
    expect(await chart.getAttribute("aria-valuetext")).toMatch(/^now:/);
    await page.keyboard.press("ArrowLeft");
    await waitFor("the chart tells of earlier", async () =>
      /^\d\d:\d\d:\d\d: in use/.test((await chart.getAttribute("aria-valuetext")) ?? ""),
    );
    await expectAccessible("the pools");
  });

  it("shows what each expert got", async () => {
    await completion(99);
    await follow(/Experts/);
    await page.getByText(/^4 layers of 32 experts, 4 for each token\. .* an equal share of late,/).waitFor();
    await tabTo({ role: "radio", name: /Of late/ });
    await page.keyboard.press("ArrowRight");
    await page.getByText(/ an equal share since the workers began,/).waitFor();
    await tabTo({ role: "application", name: /Load of 32 experts/ });
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    await page.getByText(/^Layer 2, expert 0: [\d,]+ tokens, [\d.]+ times an equal share$/).waitFor();
    await expectAccessible("the experts");
    // Nothing is lost: each computed row went to four experts of each layer, but for the last one's rows that nobody samples.
    for (const workerId of ["prefill-0", "decode-0"]) {
      await waitFor(`the counts of ${workerId} are those of its rows`, async () => {
        const { tokens } = await get(ConsoleExperts, `api/workers/${workerId}/experts/start`);
        const totals = (await get(ConsoleOverview, "api/overview")).workers.find((worker) => worker.workerId === workerId)?.totals;
        const rows = (totals?.prefilledTokens ?? 0) + (totals?.sampledTokens ?? 0);
        const sums = tokens?.slice(0, 3).map((layer) => layer.reduce((sum, count) => sum + count, 0));
        return (rows > 0 || workerId === "prefill-0") && sums?.every((sum) => sum === 4 * rows) === true;
      });
    }
  });

  it("shows where the time of a request went", async () => {
    await completion(7);
    await ask("What is 127 + 536?");
    await exchange(0).getByText("663", { exact: true }).waitFor();
    await page.getByRole("log").focus();
    await tabTo({ role: "link", name: /^Time line$/ });
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Time line" }).waitFor();
    const id = (await page.getByRole("heading", { level: 1, name: /^req-/ }).textContent()) as string;
    const timeline = await get(RequestTimeline, `api/requests/${id}`);
    const phases = page.getByRole("table").locator("tbody tr");
    expect(await phases.locator("th").allTextContents()).toEqual(
      timeline.phases.map(({ name, workerId }) => (workerId === undefined ? name : `${name} in ${workerId}`)),
    );
    await expectAccessible("a time line");
    await tabTo({ role: "radio", name: /Whole request/ });
    await page.keyboard.press("ArrowRight");
    const early = timeline.phases.filter(({ startSeconds }) => startSeconds < (timeline.ttftSeconds ?? 0)).length;
    expect(early).toBeLessThan(timeline.phases.length);
    await waitFor("the phases up to the first token alone", async () => (await phases.count()) === early);

    await follow(/^Requests$/);
    await page.getByRole("heading", { name: "Requests", level: 1 }).waitFor();
    const rows = page.getByRole("table").locator("tbody tr");
    await rows.first().waitFor();
    expect(await rows.nth(0).textContent()).toContain(id);
    const { requests } = await get(ConsoleRequests, "api/requests");
    const [prefill, decode] = [requests[1]?.prefillWorkerId ?? null, requests[1]?.decodeWorkerId];
    expect(decode).toBe("decode-0");
    // Which of the two prefills is the router's to decide.
    expect(await rows.nth(1).locator("td").last().textContent()).toBe(prefill === null ? "decode-0" : "prefill-0 → decode-0");
    await expectAccessible("the requests");
    await tabTo({ role: "link", name: new RegExp(id) });
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: id }).waitFor();
  });

  it("fits a narrow window", async () => {
    await page.setViewportSize({ width: 380, height: 700 });
    for (const view of ["Chat", "Pools", "Experts", "Requests"]) {
      await page.getByRole("link", { name: view }).click();
      await page.getByRole("main", { name: view }).waitFor();
      await expectAccessible(`${view}, narrow`);
      expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(380);
    }
  });
});

it("keeps the colours that one chose", { timeout: testMs }, async () => {
  await open({ colorScheme: "light" });
  const ground = () => page.evaluate<string>("getComputedStyle(document.documentElement).backgroundColor");
  const light = await ground();
  await tabTo({ role: "button", name: /^Colours.*change to light/ });
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  await waitFor("it is dark", async () => (await ground()) !== light);
  const dark = await ground();
  await page.reload();
  await page.getByText("2 workers ready").waitFor();
  expect(await ground()).toBe(dark);
  await context.close();
});

it("asks for its own key, and in the chat for an API key, where there are such", { timeout: testMs }, async () => {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-console-"));
  const apiKey = createKey();
  const consoleKey = "correct horse battery";
  writeFileSync(join(dir, "keys.json"), JSON.stringify({ keys: [{ name: "alice", sha256: hashKey(apiKey) }] }));
  writeFileSync(join(dir, "console-key"), consoleKey);
  const guarded = await startStack({
    prefill: 0,
    apiKeys: join(dir, "keys.json"),
    env: { PELAGIC_CONSOLE_KEY_FILE: join(dir, "console-key") },
  });
  try {
    await open({}, guarded.consoleUrl);
    const field = page.getByLabel("The console's key");
    await field.waitFor();
    await expectAccessible("the sign-in");
    await page.keyboard.type("not this one, I think");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").getByText("This is not the console's key.").waitFor();
    await expectAccessible("a refused sign-in");
    await field.fill(consoleKey);
    await page.keyboard.press("Enter");
    await page.getByText("1 worker ready").waitFor();
    await ask("What is 127 + 536?");
    await page.getByLabel(/^API key/).fill(apiKey);
    await page.keyboard.press("Enter");
    await exchange(0).getByText("663", { exact: true }).waitFor();
    await page.reload();
    await page.getByText("1 worker ready").waitFor();
  } finally {
    await context.close();
    await guarded.stop();
    rmSync(dir, { recursive: true });
  }
});

/** A prompt long enough for prefill, and an answer. */
async function completion(seed: number): Promise<void> {
  const response = await fetch(`${stack.baseUrl}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model: stack.modelName,
      prompt: Array.from({ length: 700 }, (_, i) => (i * 31 + seed) % 256),
      max_tokens: 300,
      ignore_eos: true,
      temperature: 1,
    }),
  });
  expect(response.status).toBe(200);
  await response.text();
}
