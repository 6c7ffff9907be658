// Request traces: Mooncake's JSON lines, Azure's and BurstGPT's CSV, told apart by their first line.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

export interface TraceRequest {
  atMs: number;
  promptTokens: number;
  outputTokens: number;
  /** Requests with the same ids in front share so many blocks of prompt; null where the trace says nothing. */
  blocks: { ids: number[]; tokensEach: number } | null;
}

export interface TraceScale {
  /** 2: twice as slow. */
  time: number;
  /** 0.5: half as long, at least one token. */
  length: number;
}

const mooncakeBlockTokens = 512;

export class TraceError extends Error {}

/** In order of time, from 0 on. Throws a TraceError that names file and line. */
export function readTrace(path: string, scale: TraceScale): TraceRequest[] {
  const bytes = readFileSync(path);
  const text = (bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes).toString("utf8");
  return parseTrace(text, path, scale);
}

export function parseTrace(text: string, name: string, scale: TraceScale): TraceRequest[] {
  const lines = text.split(/\r?\n/).flatMap((line, i) => (line.trim() === "" ? [] : [{ line, number: i + 1 }]));
  const head = lines[0]?.line ?? "";
  const parse = head.startsWith("{") ? mooncakeLine : csvParser(head);
  if (parse === null) throw new TraceError(`${name}: neither Mooncake's JSON lines nor the header of Azure's or BurstGPT's CSV`);
  const body = head.startsWith("{") ? lines : lines.slice(1);
  if (body.length === 0) throw new TraceError(`${name}: no requests in it`);
  const requests = body.map(({ line, number }) => {
    const request = parse(line);
    if (request === null || ![request.atMs, request.promptTokens, request.outputTokens].every((n) => Number.isFinite(n) && n >= 0)) {
      throw new TraceError(`${name}, line ${number}: no time, prompt length and output length in it`);
    }
    return request;
  });
  requests.sort((a, b) => a.atMs - b.atMs);
  const beganMs = (requests[0] as TraceRequest).atMs;
  const scaled = (tokens: number) => Math.max(1, Math.round(tokens * scale.length));
  return requests.map(({ atMs, promptTokens, outputTokens, blocks }) => ({
    atMs: (atMs - beganMs) * scale.time,
    promptTokens: scaled(promptTokens),
    outputTokens: scaled(outputTokens),
    blocks: blocks && { ids: blocks.ids, tokensEach: scaled(blocks.tokensEach) },
  }));
}

function mooncakeLine(line: string): TraceRequest | null {
  let row: { timestamp?: unknown; input_length?: unknown; output_length?: unknown; hash_ids?: unknown };
  try {
    row = JSON.parse(line);
  } catch {
    return null;
  }
  const ids = Array.isArray(row.hash_ids) ? row.hash_ids.map(Number) : null;
  return {
    atMs: asNumber(row.timestamp),
    promptTokens: asNumber(row.input_length),
    outputTokens: asNumber(row.output_length),
    blocks: ids && { ids, tokensEach: mooncakeBlockTokens },
  };
}

const asNumber = (value: unknown) => (typeof value === "number" ? value : Number.NaN);

function csvParser(head: string): ((line: string) => TraceRequest | null) | null {
  const names = head.split(",").map((name) => name.trim());
  const column = (...choices: string[]) => names.findIndex((name) => choices.includes(name));
  const time = column("TIMESTAMP", "Timestamp");
  const prompt = column("ContextTokens", "Request tokens");
  const output = column("GeneratedTokens", "Response tokens");
  if (time < 0 || prompt < 0 || output < 0) return null;
  return (line) => {
    const fields = line.split(",");
    return {
      atMs: timeOf(fields[time] ?? ""),
      promptTokens: numberIn(fields[prompt]),
      outputTokens: numberIn(fields[output]),
      blocks: null,
    };
  };
}

/** Seconds in BurstGPT, a date of UTC in Azure, which Date reads to the millisecond. */
function timeOf(text: string): number {
  if (/^[\d.]+$/.test(text)) return Number(text) * 1000;
  const [, day, time] = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,3})?)\d*(?:\+00:00|Z)?$/.exec(text.trim()) ?? [];
  return Date.parse(`${day}T${time}Z`);
}

/** Of an empty text Number makes 0. */
function numberIn(text = ""): number {
  return text.trim() === "" ? Number.NaN : Number(text);
}
