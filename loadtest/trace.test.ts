import fc from "fast-check";
import { expect, test } from "vitest";
import { promptText } from "./prompts.ts";
import { parseTrace, TraceError } from "./trace.ts";

const asIs = { time: 1, length: 1 };

test("reads Mooncake's, Azure's and BurstGPT's traces, in order of time and from zero on", () => {
  const mooncake = [
    '{"timestamp":500,"input_length":700,"output_length":9,"hash_ids":[1,2]}',
    '{"timestamp":200,"input_length":600,"output_length":5,"hash_ids":[1,3]}',
  ];
  expect(parseTrace(mooncake.join("\n"), "m", asIs)).toEqual([
    { atMs: 0, promptTokens: 600, outputTokens: 5, blocks: { ids: [1, 3], tokensEach: 512 } },
    { atMs: 300, promptTokens: 700, outputTokens: 9, blocks: { ids: [1, 2], tokensEach: 512 } },
  ]);
  const azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n";
  expect(parseTrace(azure, "a", { time: 10, length: 0.01 })).toEqual([
    { atMs: 0, promptTokens: 48, outputTokens: 1, blocks: null },
    { atMs: 520, promptTokens: 32, outputTokens: 1, blocks: null },
  ]);
  // As the weeks of 2024 are written: with an offset, and without a fraction where it is zero.
  const week = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 23:59:59.500000+00:00,1,2\n2024-05-11 00:00:00+00:00,3,4\n";
  expect(parseTrace(week, "w", asIs).map(({ atMs }) => atMs)).toEqual([0, 500]);
  const burst =
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,s,1.2,ChatGPT,472,18,490,Conversation log\n6.5,s,1,GPT-4,10,20,30,API log";
  expect(parseTrace(burst, "b", asIs).map(({ atMs, outputTokens }) => [atMs, outputTokens])).toEqual([
    [0, 18],
    [1500, 20],
  ]);
});

test("a broken trace is an error that names the file and the line", () => {
  for (const [text, said] of [
    ["", "neither"],
    ["a,b,c\n1,2,3", "neither"],
    ['{"timestamp":1,"input_length":2,"output_length":3}\n{"timestamp":1}', "line 2"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,1,2\nyesterday,3,4", "line 3"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,,2", "line 2"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens\n\n2023-11-16 18:17:03.97,1,2\nyesterday,3,4", "line 4"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens", "no requests"],
  ] as const) {
    expect(() => parseTrace(text, "file", asIs)).toThrow(TraceError);
    expect(() => parseTrace(text, "file", asIs)).toThrow(said);
  }
});

test("prompts have the wanted number of words, and equal blocks give equal words", () => {
  const cost = { base: 10, perWord: 2 };
  const own = promptText({ promptTokens: 110, seed: 1, blocks: null }, cost);
  expect(own.split(" ")).toHaveLength(50);
  const one = promptText({ promptTokens: 110, seed: 1, blocks: { ids: [4, 5], tokensEach: 40 } }, cost).split(" ");
  const two = promptText({ promptTokens: 110, seed: 2, blocks: { ids: [4, 6], tokensEach: 40 } }, cost).split(" ");
  expect([one.length, two.length]).toEqual([50, 50]);
  expect(one.slice(0, 20)).toEqual(two.slice(0, 20));
  expect(one.slice(20, 40)).not.toEqual(two.slice(20, 40));
});

test("any shape gives so many of the words, and prompts begin alike as far as their blocks do", () => {
  const blocks = fc.record({ ids: fc.array(fc.nat(50), { maxLength: 8 }), tokensEach: fc.integer({ min: 1, max: 60 }) });
  const shape = fc.record({ promptTokens: fc.integer({ min: 1, max: 300 }), seed: fc.nat(1_000), blocks });
  fc.assert(
    fc.property(shape, fc.nat(1_000), fc.integer({ min: 1, max: 5 }), (one, seed, perWord) => {
      const cost = { base: 7, perWord };
      const words = (text: string) => text.split(" ");
      const [a, b] = [words(promptText(one, cost)), words(promptText({ ...one, seed }, cost))];
      expect(a).toHaveLength(Math.max(1, Math.round(Math.max(1, one.promptTokens - 7) / perWord)));
      expect(a.every((word) => /^[a-z]{4}$/.test(word))).toBe(true);
      const shared = one.blocks.ids.length * Math.max(1, Math.round(one.blocks.tokensEach / perWord));
      expect(a.slice(0, shared)).toEqual(b.slice(0, shared));
      expect(promptText(one, cost)).toBe(a.join(" "));
    }),
  );
});

test("a prompt is what it has always been, so that loads of one seed are the same load", () => {
  const blocks = { ids: [4, 5], tokensEach: 2 };
  expect(promptText({ promptTokens: 6, seed: 9, blocks }, { base: 0, perWord: 1 })).toBe("snow food boat name face care");
});
