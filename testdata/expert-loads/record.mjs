// Records plankton.json.gz: see the README here. Needs the tree built.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { Tokenizer } from "@huggingface/tokenizers";
import { silentLog, systemClock } from "../../dist/services/lib/contracts/bus.js";
import { Engine } from "../../dist/services/lib/engine/engine.js";
import { runLocal } from "../../dist/services/lib/engine/local.js";
import { loadNativeRunner } from "../../dist/services/lib/engine/model-runner.js";

const intervals = 60;
const textsPerInterval = 12;
const longestText = 160;
/** What most texts are of, by turns of 10 intervals. */
const topics = [["add", "sub", "chain"], ["sort", "cmp"], ["lookup", "json"], ["word", "followup"], ["count", "reverse"], ["mul", "div"]];

const model = new URL("../../models/plankton/", import.meta.url).pathname;
const json = (name) => JSON.parse(readFileSync(`${model}${name}`, "utf8"));
const texts = JSON.parse(execFileSync("python3", [new URL("tasks.py", import.meta.url).pathname], { maxBuffer: 1 << 28 }));
const kinds = Object.keys(texts);
const tokenizer = new Tokenizer(json("tokenizer.json"), json("tokenizer_config.json"));
const runner = await loadNativeRunner({ dir: model, kvDtype: "bfloat16", threads: 2, isa: "auto", kvBlocks: 256 });
const { moeLayerCount: layers, logicalExpertCount: experts } = runner.info;

let state = 1;
const below = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};
const recorded = [];
for (let interval = 0; interval < intervals; interval++) {
  const sums = new Array(layers * experts).fill(0);
  const engine = new Engine(
    runner,
    { modelDigest: "record", numericsId: "record", kvDtype: "bfloat16" },
    { kvBlocks: 256, tokenBudget: 512, chunkTokens: 512, chunkAlignTokens: 64, maxSequences: 32, maxWaiting: 64 },
    systemClock,
    silentLog,
  );
  engine.onStep = ({ expertCounts }) => expertCounts.forEach((count, i) => (sums[i] += count));
  const topic = topics[Math.floor(interval / 10) % topics.length];
  const requests = Array.from({ length: textsPerInterval }, (_, i) => {
    const kind = below(10) < 6 ? topic[below(topic.length)] : kinds[below(kinds.length)];
    const text = texts[kind][below(texts[kind].length)];
    const tokens = Uint32Array.from(tokenizer.encode(text).ids.slice(0, longestText));
    // With the logits of every row, or the last layer's experts would get the last row alone.
    return runLocal(engine, { id: `${i}`, tokens, maxTokens: 1, logitsFrom: 0 });
  });
  for (const { end } of await Promise.all(requests)) if (end.kind === "error") throw end.error;
  recorded.push(Array.from({ length: layers }, (_, layer) => sums.slice(layer * experts, (layer + 1) * experts)));
  process.stderr.write(`${interval + 1} of ${intervals}\r`);
}
await runner.close();
const file = new URL("plankton.json.gz", import.meta.url);
writeFileSync(file, gzipSync(JSON.stringify({ name: "plankton, recorded", layers, experts, intervals: recorded }), { level: 9 }));
