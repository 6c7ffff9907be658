// Model folders whose small files lie: config.json, generation_config.json, tokenizer.json, tokenizer_config.json. What the gateway reads of them
// is refused with the file's name, or serves: then every token it makes and every default it has is one that a worker takes.
// The weights and the engine's own reading of config.json have their mutants in kernels/graph/mutants.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { changedSomewhere, type Json } from "../../services/cli/hostile/hostile-json.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { planGeneration } from "../../services/gateway/generation-plan.ts";
import { PromptEncoder } from "../../services/gateway/prompt-encoder.ts";
import { servedModel } from "../../services/gateway/served-model.ts";
import { Constraint, Sampling } from "../../services/lib/contracts/messages.ts";
import { grammarVocabulary } from "../../services/lib/grammar/vocabulary.ts";
import { loadModelFolder } from "../../services/lib/model/folder.ts";
import { Random } from "../../services/lib/simulator/random.ts";

const files = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] as const;
const mutantsOfEach = 250;
const text = "What is 127 + 536? é 日本 <｜User｜>";
const conversation = { messages: [{ role: "user" as const, content: text }], thinking: true };

const sound = new Map<string, Json>();
let dir: string;
let soundTokens: { text: number[]; chat: number[] };

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-folder-"));
  for (const file of files) sound.set(file, JSON.parse(readFileSync(join(embeddedModel(), file), "utf8")));
  write();
  soundTokens = serve();
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** The sound folder but for these files. */
function write(other: Partial<Record<(typeof files)[number], string>> = {}): void {
  for (const file of files) writeFileSync(join(dir, file), other[file] ?? JSON.stringify(sound.get(file)));
}

/** As a gateway and the grammars of a decode worker take the folder. */
function serve(): { text: number[]; chat: number[] } {
  const folder = loadModelFolder(dir);
  const model = servedModel(folder, { name: "m", filesDigest: null });
  if (folder.tokenizer === null || model.table === null) throw new Error("tokenizer.json is there, and was not found");
  const encoder = new PromptEncoder(folder.tokenizer);
  expect(grammarVocabulary(dir, folder.vocabularySize).tokens).toHaveLength(folder.vocabularySize);
  const prompt = encoder.encodeText(text);
  expect(prompt.tokens.length).toBeGreaterThan(0);
  const plan = planGeneration(
    {} as Parameters<typeof planGeneration>[0],
    { askedTokens: 1, askedTokensField: "max_tokens", promptField: "prompt", logprobs: undefined },
    { ...prompt, grammar: 'root ::= "a"' },
    { ...model, eosTokenIds: model.eosTokenIds.length > 0 ? model.eosTokenIds : [0] },
    { maxPositions: 4096, defaultMaxTokens: 10 },
  );
  Sampling.parse(plan.sampling);
  Constraint.parse(plan.constraint);
  let chat: Uint32Array = new Uint32Array(0);
  try {
    chat = encoder.encodeChat(conversation).tokens;
  } catch (error) {
    // A template that refuses every conversation refuses requests, not the folder.
    expect((error as Error).message).toMatch(/^messages: |no chat template/);
  }
  for (const id of [...prompt.tokens, ...chat, ...plan.stopTokenIds]) {
    if (!(id >= 0 && id < folder.vocabularySize)) throw new Error(`token ${id} of ${folder.vocabularySize}`);
  }
  for (let id = 0; id < folder.vocabularySize; id++) model.table.bytesOf(id);
  return { text: [...prompt.tokens], chat: [...chat] };
}

test.each(files)(
  "%s with something else in it",
  (file) => {
    const tally = { refused: 0, served: 0 };
    for (let seed = 0; seed < mutantsOfEach; seed++) {
      const random = new Random(seed);
      const { value, path } = changedSomewhere(random, sound.get(file) as Json);
      write({ [file]: JSON.stringify(value) });
      const where = `seed ${seed}, ${file}: ${path.join(".").slice(0, 200)}`;
      try {
        serve();
        tally.served++;
      } catch (error) {
        tally.refused++;
        const message = error instanceof Error ? error.message : String(error);
        // config.json says how many tokens there may be in the others.
        if (!message.includes(file) && !(file === "config.json" && files.some((other) => message.includes(other)))) {
          throw new Error(`${where}: no file in this error: ${(error as Error).stack ?? message}`);
        }
      }
    }
    expect(tally.served).toBeGreaterThan(0);
    expect(tally.refused).toBeGreaterThan(0);
    console.log(JSON.stringify({ file, ...tally }));
  },
  120_000,
);

test.each(files)("%s that is no JSON, or none of ours", (file) => {
  const whole = JSON.stringify(sound.get(file));
  for (const content of [
    "",
    " ",
    "{",
    "null",
    "[]",
    "1",
    '"x"',
    "\u0000",
    whole.slice(0, -1),
    `${whole}x`,
    "[".repeat(100_000),
    "\ufeff\ufeff{}",
  ]) {
    write({ [file]: content });
    expect(serve, JSON.stringify(content.slice(0, 20))).toThrow(file);
  }
});

test("white space, order and unknown words change nothing", () => {
  for (const file of files) {
    const value = sound.get(file) as Record<string, Json>;
    const shuffled = Object.fromEntries([...Object.entries(value).reverse(), ["__proto__x", { a: [1] }], ["", null]]);
    write({ [file]: JSON.stringify(shuffled, null, "\t") });
    expect(serve()).toEqual(soundTokens);
  }
});

test("ids that would take gigabytes, and defaults that no worker takes, are refused by name", () => {
  const tokenizer = sound.get("tokenizer.json") as { added_tokens: Record<string, Json>[]; model: Record<string, Json> };
  const withVocab = (change: Record<string, Json>) => ({
    ...tokenizer,
    model: { ...tokenizer.model, vocab: { ...(tokenizer.model.vocab as object), ...change } },
  });
  const withAdded = (change: Record<string, Json>) => ({
    ...tokenizer,
    added_tokens: tokenizer.added_tokens.map((token, i) => (i === 0 ? { ...token, ...change } : token)),
  });
  for (const id of [4_000_000_000, 2 ** 53, 320, -1, 0.5, "1", null]) {
    write({ "tokenizer.json": JSON.stringify(withVocab({ zzz: id })) });
    expect(serve, `vocab ${id}`).toThrow(/tokenizer\.json: model\.vocab\.zzz/);
    write({ "tokenizer.json": JSON.stringify(withAdded({ id })) });
    expect(serve, `added ${id}`).toThrow(/tokenizer\.json: added_tokens/);
  }
  for (const [field, value] of [
    ["temperature", -1],
    ["temperature", 1e9],
    ["top_p", 1.5],
    ["top_k", 2 ** 40],
    ["repetition_penalty", 1e9],
    ["repetition_penalty", -1],
    ["eos_token_id", 320],
    ["eos_token_id", -1],
    ["eos_token_id", [1, 1e9]],
    ["eos_token_id", Array(1_000).fill(1)],
  ] as const) {
    write({ "generation_config.json": JSON.stringify({ ...(sound.get("generation_config.json") as object), [field]: value }) });
    expect(serve, `${field} ${value}`).toThrow(`generation_config.json: ${field}`);
  }
  for (const size of [0, -1, 0.5, 2 ** 31, "320"]) {
    write({ "config.json": JSON.stringify({ ...(sound.get("config.json") as object), vocab_size: size }) });
    expect(serve, `vocab_size ${size}`).toThrow("config.json: vocab_size");
  }
});
