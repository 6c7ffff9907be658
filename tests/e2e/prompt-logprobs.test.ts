// How likely the prompt's own tokens were: echo with logprobs, and vLLM's prompt_logprobs. Compared with what asking for each token by itself says.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { waitFor, workersOf, promptRestarts } from "./support.ts";

interface Logprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}
type PromptLogprobs = (Record<string, { logprob: number; rank: number; decoded_token: string }> | null)[];
interface Choice {
  text: string;
  logprobs: Logprobs;
  prompt_logprobs?: PromptLogprobs;
  finish_reason: string;
}

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({
    prefill: 1,
    decode: 2,
    restartPolicy: promptRestarts,
  });
}, 120_000);
afterAll(() => stack?.stop());

async function ask(more: object, path = "/v1/completions"): Promise<Response> {
  return await fetch(`${stack.baseUrl}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: stack.modelName, max_tokens: 1, ...more }),
  });
}

async function choices(more: object): Promise<Choice[]> {
  const answer = (await (await ask(more)).json()) as { choices: Choice[] };
  expect(answer).toHaveProperty("choices");
  return answer.choices;
}

/** Of 0 to 255 no token of the model in the box is special. */
const promptOf = (length: number, salt: number) => Array.from({ length }, (_, i) => (i * 31 + salt * 7 + ((i * i) % 11)) % 256);

/** The slow way: each token asked for after those before it. */
async function teacherForced(prompt: number[]): Promise<Logprobs> {
  const out: Logprobs = { tokens: [], token_logprobs: [null], top_logprobs: [null], text_offset: [] };
  for (let at = 1; at < prompt.length; at++) {
    const forced = {
      prompt: prompt.slice(0, at),
      logprobs: 20,
      allowed_token_ids: [prompt[at]],
      temperature: 0,
      skip_special_tokens: false,
    };
    const [choice] = await choices(forced);
    out.token_logprobs.push(choice?.logprobs.token_logprobs[0] as number);
    out.top_logprobs.push(choice?.logprobs.top_logprobs[0] as Record<string, number>);
  }
  return out;
}

async function streamed(more: object): Promise<Logprobs[]> {
  const events = (await (await ask({ ...more, stream: true })).text()).split("\n\n").filter((event) => event.startsWith("data: {"));
  const all: Logprobs[] = [];
  for (const event of events) {
    for (const { index, logprobs } of (JSON.parse(event.slice(6)) as { choices: (Choice & { index: number })[] }).choices) {
      all[index] ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
      if (logprobs === null) continue;
      for (const key of Object.keys(logprobs) as (keyof Logprobs)[]) (all[index][key] as unknown[]).push(...logprobs[key]);
    }
  }
  return all;
}

describe("echo with logprobs", () => {
  test("equals what asking for each token says, to the bit", async () => {
    const prompt = promptOf(140, 1);
    const [choice] = await choices({ prompt, echo: true, logprobs: 20, max_tokens: 0 });
    const slow = await teacherForced(prompt);
    expect(choice?.logprobs.token_logprobs).toEqual(slow.token_logprobs);
    expect(choice?.logprobs.top_logprobs).toEqual(slow.top_logprobs);
    expect(choice?.finish_reason).toBe("length");
  }, 120_000);

  test("is the same however it is asked: with an answer, alone or beside others, cached or not, streamed, several prompts and answers", async () => {
    const prompts = [promptOf(300, 2), promptOf(65, 3), promptOf(1, 4), promptOf(2, 5)];
    const asked = { echo: true, logprobs: 3, temperature: 1, seed: 7 };
    const alone: Choice[] = [];
    for (const prompt of prompts) alone.push(...(await choices({ ...asked, prompt, max_tokens: 5 })));
    for (const [i, { logprobs, text }] of alone.entries()) {
      const length = (prompts[i] as number[]).length;
      expect(logprobs.token_logprobs.length).toBe(length + 5);
      expect(logprobs.token_logprobs.filter((one) => one === null)).toEqual([null]);
      expect(logprobs.token_logprobs[0]).toBeNull();
      expect(logprobs.top_logprobs.slice(1).every((top) => Object.keys(top ?? {}).length > 0)).toBe(true);
      for (const [at, token] of logprobs.tokens.entries())
        if (/^[ -~]+$/.test(token)) expect(text.slice(logprobs.text_offset[at]).startsWith(token)).toBe(true);
    }
    // Warm the caches with the same prompts, and ask all at once.
    await Promise.all(prompts.map((prompt) => choices({ prompt })));
    const together = await choices({ ...asked, prompt: prompts, n: 2, max_tokens: 5 });
    expect(together.filter((_, i) => i % 2 === 0)).toEqual(alone.map((choice, i) => ({ ...choice, index: 2 * i })));
    for (const [i, prompt] of prompts.entries()) {
      const { logprobs } = together[2 * i + 1] as Choice;
      expect(logprobs.token_logprobs.slice(0, prompt.length)).toEqual(alone[i]?.logprobs.token_logprobs.slice(0, prompt.length));
    }
    expect(await streamed({ ...asked, prompt: prompts, n: 2, max_tokens: 5 })).toEqual(together.map(({ logprobs }) => logprobs));
    const [none] = await choices({ ...asked, prompt: prompts[0], max_tokens: 0 });
    expect(none?.logprobs.token_logprobs).toEqual(alone[0]?.logprobs.token_logprobs.slice(0, 300));
  }, 60_000);

  test("a text is echoed as it came, whatever the tokenizer puts before it", async () => {
    const text = "What is 127 + 536? é日";
    const [choice] = await choices({ prompt: text, echo: true, logprobs: 0, max_tokens: 0 });
    expect(choice?.text).toBe(text);
    expect(choice?.logprobs.text_offset.at(-1)).toBeLessThan(text.length);
    expect(choice?.logprobs.top_logprobs[1]).toEqual({});
  });

  test("goes on elsewhere when its worker is killed, with the same bits", async () => {
    const asked = { prompt: promptOf(2_000, 6), echo: true, logprobs: 2, max_tokens: 40, temperature: 1, seed: 3, ignore_eos: true };
    const [right] = await choices(asked);
    let killed = "";
    const running = choices(asked);
    await waitFor("it runs", async () => {
      killed =
        (await workersOf(stack)).find(({ workerId, requests }) => workerId.startsWith("decode") && requests.running > 0)?.workerId ?? "";
      return killed !== "";
    });
    stack.processes.find(({ name }) => name === killed)?.kill("SIGKILL");
    expect(await running).toEqual([right]);
    await waitFor("nothing is held", async () => {
      const workers = await workersOf(stack);
      return workers.every(({ requests, blocks }) => requests.running === 0 && blocks.free + blocks.cached === blocks.total);
    });
  }, 60_000);
});

describe("prompt_logprobs", () => {
  test("has each token with its rank, by id, and so many of the likeliest", async () => {
    const prompt = promptOf(130, 7);
    const [echoed] = await choices({ prompt, echo: true, logprobs: 20, max_tokens: 0 });
    const [choice] = await choices({ prompt, prompt_logprobs: 4 });
    const all = choice?.prompt_logprobs as PromptLogprobs;
    expect(all[0]).toBeNull();
    for (let at = 1; at < prompt.length; at++) {
      const entries = all[at] as NonNullable<PromptLogprobs[number]>;
      const own = entries[String(prompt[at])];
      expect(own?.logprob).toBe(echoed?.logprobs.token_logprobs[at]);
      expect(own?.decoded_token).toBe(echoed?.logprobs.tokens[at]);
      const likelier = Object.values(echoed?.logprobs.top_logprobs[at] ?? {}).filter((one) => one > (own?.logprob as number)).length;
      if (likelier < 20) expect(own?.rank).toBeGreaterThan(likelier);
      else expect(own?.rank).toBeGreaterThan(20);
      const ranks = Object.values(entries).map(({ rank }) => rank);
      expect(ranks.toSorted((a, b) => a - b).slice(0, 4)).toEqual([1, 2, 3, 4]);
      expect(ranks.length).toBe((own?.rank as number) <= 4 ? 4 : 5);
    }
    const chat = (await (
      await ask(
        { messages: [{ role: "user", content: "What is 1 + 1?" }], prompt_logprobs: 0, return_token_ids: true },
        "/v1/chat/completions",
      )
    ).json()) as { prompt_logprobs: PromptLogprobs; prompt_token_ids: number[] };
    expect(chat.prompt_logprobs.map((entries) => Object.keys(entries ?? {}))).toEqual(
      chat.prompt_token_ids.map((id, at) => (at === 0 ? [] : [String(id)])),
    );
  });

  test.each([
    [{ prompt_logprobs: 21 }, "prompt_logprobs"],
    [{ prompt_logprobs: -1 }, "prompt_logprobs"],
    [{ prompt_logprobs: 1, stream: true }, "prompt_logprobs"],
    [{ max_tokens: 0 }, "max_tokens"],
    [{ max_tokens: 0, logprobs: 1 }, "max_tokens"],
    [{ prompt: Array(100).fill(Array(200).fill(7)), prompt_logprobs: 20 }, "prompt_logprobs"],
    [{ prompt: Array(100).fill(Array(200).fill(7)), echo: true, logprobs: 20 }, "logprobs"],
  ])("%j is refused by name", async (more, param) => {
    const answer = await ask({ prompt: "a", ...more });
    expect([answer.status, ((await answer.json()) as { error: { param: string } }).error.param]).toEqual([400, param]);
  });
});
