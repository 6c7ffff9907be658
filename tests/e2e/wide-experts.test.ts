// The model with its experts made wide is the same function: what `bench experts --expert-width` says of it holds for the model in the box.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CliError } from "../../services/cli/cli-error.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { writeWideExperts } from "../../services/cli/wide-experts.ts";
import { silentLog, systemClock } from "../../services/lib/contracts/bus.ts";
import { Engine } from "../../services/lib/engine/engine.ts";
import { runLocal } from "../../services/lib/engine/local.ts";
import { loadNativeRunner } from "../../services/lib/engine/model-runner.ts";

const prompt = Uint32Array.from({ length: 48 }, (_, i) => 32 + ((i * 37) % 90));

async function answerOf(dir: string) {
  const runner = await loadNativeRunner({ dir, kvDtype: "float32", threads: 1, isa: "auto", kvBlocks: 8 });
  const config = { kvBlocks: 8, tokenBudget: 64, chunkTokens: 64, chunkAlignTokens: 64 as const, maxSequences: 1, maxWaiting: 1 };
  try {
    const engine = new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "" }, config, systemClock, silentLog);
    const { tokens, logits } = await runLocal(engine, { id: "a", tokens: prompt, maxTokens: 8, logitsFrom: 0 });
    return { tokens, logits: [...logits].sort(([a], [b]) => a - b).flatMap(([, rows]) => [...rows]) };
  } finally {
    await runner.close();
  }
}

test("a model with its experts made wide answers as it did", async () => {
  const folder = mkdtempSync(join(tmpdir(), "pelagic-wide-"));
  try {
    writeWideExperts(embeddedModel(), folder, 512);
    const [narrow, wide] = [await answerOf(embeddedModel()), await answerOf(folder)];
    expect(wide.tokens).toEqual(narrow.tokens);
    expect(wide.logits.length).toBe(narrow.logits.length);
    const largest = Math.max(...narrow.logits.map(Math.abs));
    const apart = Math.max(...narrow.logits.map((logit, i) => Math.abs(logit - (wide.logits[i] as number))));
    // Rounding apart, which sums in another order change.
    expect(apart / largest).toBeLessThan(1e-4);
    expect(apart).toBeGreaterThan(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a width that whole neurons do not fill is refused", () => {
  expect(() => writeWideExperts(embeddedModel(), "nowhere", 300)).toThrow(CliError);
  expect(() => writeWideExperts(embeddedModel(), "nowhere", 300)).toThrow("take a multiple of 256");
});
