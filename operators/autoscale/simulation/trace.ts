// Requests of testdata/traces as the simulation takes them: when they came, and how long prompt and answer were.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

export interface TraceRequest {
  atMs: number;
  promptTokens: number;
  outputTokens: number;
}

/** Of the azure-*.txt.gz: a line of gaps in ms, one of prompt tokens, one of output tokens. */
export function readTrace(path: string): TraceRequest[] {
  const [gaps = [], prompts = [], outputs = []] = gunzipSync(readFileSync(path))
    .toString("utf8")
    .trim()
    .split("\n")
    .map((line) => line.split(" ").map(Number));
  let atMs = 0;
  return gaps.map((gap, i) => {
    atMs += gap;
    return { atMs, promptTokens: prompts[i] as number, outputTokens: outputs[i] as number };
  });
}

/** One after the other, with nothing between them for so long. */
export function afterAnother(first: readonly TraceRequest[], gapSeconds: number, second: readonly TraceRequest[]): TraceRequest[] {
  const beginMs = (first.at(-1)?.atMs ?? 0) + gapSeconds * 1000;
  return [...first, ...second.map((request) => ({ ...request, atMs: request.atMs + beginMs }))];
}
