import { afterEach, describe, expect, it } from "vitest";
import { silentLog } from "../lib/contracts/bus.ts";
import { TokenizerPool } from "./tokenizer-pool.ts";
import { embeddedModel } from "../cli/stack/model-folder.ts";

let pool: TokenizerPool | undefined;
afterEach(() => pool?.close());

function start(
  options: { threads?: number; maxWaiting?: number; jobTimeoutMs?: number; model?: string; maxWaitMs?: number } = {},
): TokenizerPool {
  pool = new TokenizerPool({
    // Threads run the build.
    workerUrl: new URL("../../dist/services/gateway/tokenizer-worker.js", import.meta.url),
    model: embeddedModel(),
    vocabularySize: 320,
    threads: 1,
    maxWaiting: 10,
    jobTimeoutMs: 10_000,
    log: silentLog,
    ...options,
  });
  return pool;
}

describe("tokenizer pool", () => {
  it("encodes in its threads and passes on what the template refuses", async () => {
    const threads = start({ threads: 2 });
    await threads.ready();
    const prompts = await Promise.all(Array.from({ length: 8 }, (_, i) => threads.encode({ kind: "text", text: "x".repeat(i + 1) })));
    expect(prompts.map((prompt) => prompt.tokens.length)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    const full = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i)).join("");
    await expect(
      threads.encode({ kind: "chat", prompt: { thinking: true, messages: [{ role: "user", content: full }] } }),
    ).rejects.toMatchObject({
      code: "invalid_request",
      param: "messages",
    });
  });

  it("refuses what its queue has no room for", async () => {
    const threads = start({ maxWaiting: 2 });
    await threads.ready();
    const long = { kind: "text" as const, text: "word ".repeat(50_000) };
    const jobs = Array.from({ length: 4 }, () =>
      threads.encode(long).then(
        () => "done",
        (error: { code: string }) => error.code,
      ),
    );
    expect(await Promise.all(jobs)).toEqual(["done", "done", "done", "overloaded"]);
  });

  it("replaces a thread that hangs, and goes on", async () => {
    const threads = start({ jobTimeoutMs: 300 });
    await threads.ready();
    const endless = threads.encode({ kind: "text", text: "word ".repeat(2_000_000) });
    const next = threads.encode({ kind: "text", text: "ok" });
    await expect(endless).rejects.toMatchObject({ code: "deadline_exceeded" });
    expect((await next).tokens).toHaveLength(2);
  });

  it("answers many at once, each with its own, whatever stands between them", async () => {
    const threads = start({ threads: 2, maxWaiting: 1_000, jobTimeoutMs: 1_000 });
    await threads.ready();
    const lengths = Array.from({ length: 300 }, (_, i) => 1 + ((i * 37) % 100));
    const jobs = lengths.map((length) => threads.encode({ kind: "text", text: "x".repeat(length) }));
    const endless = threads.encode({ kind: "text", text: "word ".repeat(6_000_000) });
    const wrong = threads.encode({
      kind: "chat",
      prompt: {
        thinking: true,
        messages: [{ role: "user", content: Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i)).join("") }],
      },
    });
    const behind = lengths.map((length) => threads.encode({ kind: "text", text: "y".repeat(length) }));
    await Promise.all([
      expect(endless).rejects.toMatchObject({ code: "deadline_exceeded" }),
      expect(wrong).rejects.toMatchObject({ code: "invalid_request" }),
    ]);
    expect((await Promise.all([...jobs, ...behind])).map(({ tokens }) => tokens.length)).toEqual([...lengths, ...lengths]);
  });

  it("drops a job that waits too long or that nobody wants any more", async () => {
    const threads = start({ model: "services", maxWaitMs: 200 });
    threads.ready().catch(() => undefined);
    const gone = new AbortController();
    const unwanted = threads.encode({ kind: "text", text: "a" }, { signal: gone.signal });
    gone.abort();
    await expect(unwanted).rejects.toMatchObject({ code: "cancelled" });
    await expect(threads.encode({ kind: "text", text: "a" })).rejects.toMatchObject({ code: "internal" });
    // Its own deadline is no fault of ours.
    await expect(threads.encode({ kind: "text", text: "a" }, { timeoutMs: 50 })).rejects.toMatchObject({ code: "deadline_exceeded" });
  });

  it("says so when the tokenizer cannot be loaded", async () => {
    await expect(start({ model: "services" }).ready()).rejects.toThrow(/no tokenizer.json/);
  });
});
