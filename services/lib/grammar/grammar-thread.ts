// A thread of grammar-threads.ts: compiles grammars one by one, and says between two of them which tokens may come next in what is compiled.
import { parentPort, workerData } from "node:worker_threads";
import type { GrammarAsk, GrammarTell, GrammarThreadData } from "./grammar-threads.ts";
import { GrammarCompiler, type GrammarMatcher } from "./matcher.ts";
import { grammarVocabulary } from "./vocabulary.ts";

const port = parentPort;
if (port === null) throw new Error("grammar-thread.js runs as a worker thread only");
const { modelDir, vocabularySize } = workerData as GrammarThreadData;
const compiler = new GrammarCompiler(() => grammarVocabulary(modelDir, vocabularySize));
const matchers = new Map<number, GrammarMatcher>();
let opening: (GrammarAsk & { kind: "open" })[] = [];
let compiling = false;

async function tell(call: number, work: () => Promise<Uint32Array | undefined>): Promise<void> {
  let answer: GrammarTell;
  try {
    const mask = await work();
    answer = { call, ...(mask && { mask }) };
  } catch (error) {
    answer = { call, error: error instanceof Error ? error.message : String(error) };
  }
  port?.postMessage(answer, answer.mask ? [answer.mask.buffer as ArrayBuffer] : []);
}

async function compileAll(): Promise<void> {
  if (compiling) return;
  compiling = true;
  for (let ask = opening.shift(); ask !== undefined; ask = opening.shift()) {
    const { call, matcher, grammar, endTokenIds } = ask;
    await tell(call, async () => {
      matchers.set(matcher, await compiler.matcher(grammar, endTokenIds));
      return undefined;
    });
    // Whoever asked meanwhile what may come next.
    await new Promise((resolve) => setImmediate(resolve));
  }
  compiling = false;
}

port.on("message", (ask: GrammarAsk) => {
  switch (ask.kind) {
    case "open":
      opening.push(ask);
      void compileAll();
      break;
    case "next":
      void tell(ask.call, async () => await matchers.get(ask.matcher)?.next(ask.accepted));
      break;
    case "close":
      opening = opening.filter(({ matcher }) => matcher !== ask.matcher);
      matchers.get(ask.matcher)?.dispose();
      matchers.delete(ask.matcher);
  }
});
