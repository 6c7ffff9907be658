// A request trace from testdata/traces: when prompts came, how long they were, and which prefixes they share.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { kvBlockTokens, reusableRows } from "../../contracts/block-key.ts";

export interface TraceRequest {
  atMs: number;
  promptTokens: number;
  outputTokens: number;
  /** Names of the prompt's whole blocks, as far as a cache hit may cover them. */
  blockKeys: string[];
}

const traceBlockTokens = 512;

/** Times are divided by `speed`. */
export function readTrace(path: string, speed: number): TraceRequest[] {
  const lines = gunzipSync(readFileSync(path)).toString("utf8").trim().split("\n");
  return lines.map((line) => {
    const [atMs = 0, promptTokens = 0, outputTokens = 0, ...runs] = JSON.parse(line) as number[];
    const blockKeys: string[] = [];
    const wanted = reusableRows(promptTokens) / kvBlockTokens;
    for (let i = 0; i < runs.length; i += 2) {
      for (let block = runs[i] as number; block < (runs[i] as number) + (runs[i + 1] as number); block++) {
        for (let part = 0; part < traceBlockTokens / kvBlockTokens && blockKeys.length < wanted; part++) blockKeys.push(`${block}.${part}`);
      }
    }
    return { atMs: atMs / speed, promptTokens, outputTokens: Math.max(1, outputTokens), blockKeys };
  });
}
