import { afterEach, describe, expect, it } from "vitest";
import { embeddedModel } from "../cli/stack/model-folder.ts";
import { silentLog } from "../lib/contracts/bus.ts";
import { FormatEncoder } from "./format-encoder.ts";

let encoder: FormatEncoder | undefined;
afterEach(() => encoder?.close());

function start(jobTimeoutMs = 60_000): FormatEncoder {
  // Threads run the build.
  const built = (name: string) => new URL(`../../dist/services/gateway/${name}`, import.meta.url);
  encoder = new FormatEncoder(
    {
      workerUrl: built("tokenizer-worker.js"),
      model: embeddedModel(),
      vocabularySize: 320,
      threads: 1,
      maxWaiting: 10,
      jobTimeoutMs: 60_000,
      log: silentLog,
    },
    { workerUrl: built("grammar-worker.js"), jobTimeoutMs },
  );
  return encoder;
}

/** Without a common beginning: as slow to compile as what is let through can be. */
const slow = {
  kind: "choice" as const,
  choices: Array.from({ length: 1_024 }, (_, i) => `${(i * 7_919) % 1_024} ${"abcdefghij".repeat(9)}${i}`),
};

describe("formats", () => {
  it("become grammars, behind the thought where the prompt ends in one", async () => {
    const encoder = start();
    const format = { kind: "choice" as const, choices: ["red"] };
    const ids = await encoder.encode({ kind: "ids", format });
    expect(ids).toMatchObject({ insideThink: false, grammar: expect.stringContaining("root ::=") as string });
    const chat = await encoder.encode({ kind: "chat", prompt: { thinking: true, messages: [{ role: "user", content: "a" }] }, format });
    expect(chat.insideThink).toBe(true);
    expect(chat.tokens.length).toBeGreaterThan(0);
    expect(chat.grammar).toContain("answer ::=");
    expect((await encoder.encode({ kind: "text", text: "a" })).grammar).toBeUndefined();
  });

  it("hold up no prompt while they are compiled", async () => {
    const encoder = start();
    let isCompiled = false;
    const compiling = encoder.encode({ kind: "ids", format: slow }).then(() => {
      isCompiled = true;
    });
    for (let i = 0; i < 5; i++) await encoder.encode({ kind: "text", text: "a" });
    expect(isCompiled).toBe(false);
    await compiling;
  });

  it("are refused by their field where they take too long or are none, and the next is taken", async () => {
    const encoder = start(1);
    await expect(encoder.encode({ kind: "ids", format: slow })).rejects.toMatchObject({
      code: "invalid_request",
      param: "structured_outputs.choice",
    });
    const pattern = { kind: "regex" as const, pattern: "a{3000}{3000}", param: "structured_outputs.regex" };
    await encoder.close();
    await expect(start().encode({ kind: "ids", format: pattern })).rejects.toMatchObject({ param: "structured_outputs.regex" });
    await expect(start().encode({ kind: "ids", format: { kind: "json-object" } })).resolves.toBeDefined();
  });
});
