// Loads that were recorded: testdata/expert-loads.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { z } from "zod";

const maxBytes = 64 * 1024 * 1024;

const RecordingFile = z
  .object({
    name: z.string().min(1).max(256),
    layers: z.int().min(1).max(512),
    experts: z.int().min(1).max(8192),
    intervals: z.array(z.array(z.array(z.number().min(0)))).min(1),
  })
  .refine(
    ({ layers, experts, intervals }) => intervals.every((rows) => rows.length === layers && rows.every((row) => row.length === experts)),
    {
      path: ["intervals"],
      message: "not [layers][experts] each",
    },
  );

export interface Recording {
  name: string;
  layers: number;
  experts: number;
  /** Each [layers, experts]. */
  intervals: Float64Array[];
}

export function readRecording(file: string): Recording {
  const text = gunzipSync(readFileSync(file), { maxOutputLength: maxBytes }).toString();
  const { intervals, ...rest } = RecordingFile.parse(JSON.parse(text));
  return { ...rest, intervals: intervals.map((rows) => Float64Array.from(rows.flat())) };
}
