// Grammars in threads: the same tokens as in the process itself, and small ones never behind large ones.
import { afterEach, expect, test } from "vitest";
import { embeddedModel } from "../../cli/stack/model-folder.ts";
import { GrammarThreads } from "./grammar-threads.ts";
import { GrammarCompiler } from "./matcher.ts";
import { formatEbnf } from "./text-format.ts";
import { grammarVocabulary } from "./vocabulary.ts";

const modelDir = embeddedModel();
const vocabularySize = 320;
let threads: GrammarThreads | undefined;
afterEach(() => threads?.close());

function start(callMs?: number): GrammarThreads {
  // Threads run the build.
  const workerUrl = new URL("../../../dist/services/lib/grammar/grammar-thread.js", import.meta.url);
  threads = new GrammarThreads({ workerUrl, modelDir, vocabularySize, ...(callMs !== undefined && { callMs }) });
  return threads;
}

const small = formatEbnf({ kind: "choice", choices: ["red", "green"] }, false).ebnf;
/** Distinct, long and without a common beginning: as slow to compile as what is let through can be. */
const large = formatEbnf(
  { kind: "choice", choices: Array.from({ length: 1_024 }, (_, i) => `${(i * 7_919) % 1_024} ${"abcdefghij".repeat(9)}${i}`) },
  false,
).ebnf;

test("the tokens that may come are those that the compiler itself gives", async () => {
  const inThread = await start().matcher(small, [2]);
  const here = await new GrammarCompiler(() => grammarVocabulary(modelDir, vocabularySize)).matcher(small, [2]);
  const first = await inThread.next([]);
  expect(first).toEqual(await here.next([]));
  const allowed = Array.from({ length: vocabularySize }, (_, id) => id).filter((id) => ((first[id >>> 5] as number) >>> (id & 31)) & 1);
  const token = allowed[0] as number;
  expect(await inThread.next([token])).toEqual(await here.next([token]));
  await expect(inThread.next([token])).rejects.toThrow(`token ${token}`);
  await expect(threads?.matcher("root ::= (", [2])).rejects.toThrow();
  inThread.dispose();
});

test("while a large grammar is compiled this process goes on, and so does an answer with a small one", async () => {
  const matcher = await start().matcher(small, [2]);
  let isCompiled = false;
  const compiling = threads?.matcher(large, [2]).then(() => {
    isCompiled = true;
  });
  await matcher.next([]);
  expect(isCompiled).toBe(false);
  await compiling;
});

test("a thread that hangs is ended with those that wait for it, and another takes its place", async () => {
  const grammars = start(1);
  await expect(grammars.matcher(large, [2])).rejects.toThrow("did not answer");
  await grammars.close();
  await expect(start().matcher(small, [2])).resolves.toBeDefined();
});
