// The way from tokens to what a reader sees: detokenizer, reasoning splitter, stop matcher, and the assembler that joins them.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Detokenizer } from "./detokenizer.ts";
import { loadTokenizerFiles, type TokenizerFiles } from "../lib/model/folder.ts";
import { OutputAssembler, type OutputPiece } from "./output-assembler.ts";
import { type OutputText, ReasoningSplitter } from "./reasoning-splitter.ts";
import { StopMatcher } from "./stop-matcher.ts";
import { TokenTable } from "../lib/model/token-table.ts";
import { embeddedModel } from "../cli/stack/model-folder.ts";

const files = loadTokenizerFiles(embeddedModel()) as TokenizerFiles;
const table = new TokenTable(files.json);
const bytes = (text: string) => [...Buffer.from(text)];
const [eos, think, endThink] = ["<｜end▁of▁sentence｜>", "<think>", "</think>"].map((token) => table.addedTokenId(token) as number) as [
  number,
  number,
  number,
];

/** Cuts a list into consecutive parts of these sizes, over and over. */
function cut<T>(items: readonly T[], sizes: readonly number[]): T[][] {
  const parts: T[][] = [];
  for (let at = 0, i = 0; at < items.length; i++) {
    const size = sizes[i % sizes.length] ?? 1;
    parts.push(items.slice(at, at + size));
    at += size;
  }
  return parts;
}

describe("detokenizer", () => {
  it("gives the text of any bytes, and never half a character", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: "binary" }).map((text) => Buffer.from(text)),
          fc.uint8Array(),
        ),
        (data) => {
          const detokenizer = new Detokenizer(table);
          const pieces = [...data].map((byte) => detokenizer.push(byte));
          pieces.push(detokenizer.flush());
          expect(pieces.join("")).toBe(new TextDecoder("utf-8", { ignoreBOM: true }).decode(data));
          for (const piece of pieces) expect(Buffer.from(piece).toString()).toBe(piece);
        },
      ),
    );
  });

  it("gives the text of any tokens: whole words, parts of characters, and none at all", () => {
    const token = fc.oneof(fc.nat({ max: 255 }), fc.nat({ max: Object.keys(files.json.model.vocab).length + 300 }));
    fc.assert(
      fc.property(fc.array(token), (tokens) => {
        const detokenizer = new Detokenizer(table);
        const pieces = tokens.map((id) => detokenizer.push(id));
        pieces.push(detokenizer.flush(), detokenizer.push(tokens[0] ?? 0), detokenizer.flush());
        const utf8 = () => new TextDecoder("utf-8", { ignoreBOM: true });
        const [all, first] = [table.bytesOfAll(tokens), table.bytesOf(tokens[0] ?? 0)];
        expect(pieces.join("")).toBe(utf8().decode(all) + utf8().decode(first));
      }),
    );
  });
});

describe("stop matcher", () => {
  function naive(text: string, stops: readonly string[]): { text: string; stop: string | null } {
    for (let end = 1; end <= text.length; end++) {
      const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
      if (found !== undefined) return { text: text.slice(0, end - found.length), stop: found };
    }
    return { text, stop: null };
  }
  const letters = (maxLength: number, minLength = 0) => fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength, maxLength });

  it("finds what a search of the whole text finds, however the text is cut", () => {
    fc.assert(
      fc.property(letters(40), fc.array(letters(5, 1), { maxLength: 5 }), fc.array(fc.nat(4), { minLength: 1 }), (text, stops, cuts) => {
        const matcher = new StopMatcher(stops);
        let out = "";
        let stop: string | null = null;
        for (const part of cut(
          [...text],
          cuts.map((size) => size + 1),
        )) {
          const result = matcher.push(part.join(""));
          out += result.text;
          stop = result.stop;
          if (stop !== null) break;
        }
        if (stop === null) out += matcher.flush();
        expect({ text: out, stop }).toEqual(naive(text, stops));
      }),
      { numRuns: 500 },
    );
  });

  it("holds back no more than may begin a stop", () => {
    const matcher = new StopMatcher(["END"]);
    expect(matcher.push("the E").text).toBe("the ");
    expect(matcher.push("x").text).toBe("Ex");
  });

  it("takes linear time on its worst input", () => {
    const matcher = new StopMatcher(Array.from({ length: 16 }, (_, i) => `${"a".repeat(1000 + i)}b`));
    const started = performance.now();
    for (let i = 0; i < 200; i++) matcher.push("a".repeat(1000));
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});

describe("reasoning splitter", () => {
  function split(parts: readonly string[], reasoning: boolean): Record<OutputText["kind"], string> {
    const splitter = new ReasoningSplitter({ reasoning, tagsAreTokens: false });
    const out = { reasoning: "", content: "" };
    for (const piece of [...parts.flatMap((part) => splitter.push(part)), ...splitter.flush()]) out[piece.kind] += piece.text;
    return out;
  }
  const cases: [string, string, string][] = [
    ["why\n</think>\n\nbecause", "why\n", "because"],
    ["<think>\nwhy</think>because", "why", "because"],
    ["<think", "<think", ""],
    ["only thought, </thin", "only thought, </thin", ""],
    ["</think>\n\n", "", ""],
    ["a</think>b</think>c", "a", "b</think>c"],
    ["a < b </ c</think>d", "a < b </ c", "d"],
  ];

  it("gives the same for every way to cut the text in three", () => {
    for (const [text, reasoning, content] of cases) {
      for (let first = 0; first <= text.length; first++) {
        for (let second = first; second <= text.length; second++) {
          expect(split([text.slice(0, first), text.slice(first, second), text.slice(second)], true)).toEqual({ reasoning, content });
        }
      }
    }
  });

  it("leaves an answer without thinking as it is", () => {
    expect(split(["\n\nno </think> here"], false)).toEqual({ reasoning: "", content: "\n\nno </think> here" });
  });
});

describe("output assembler", () => {
  function assemble(tokens: number[], options: Partial<ConstructorParameters<typeof OutputAssembler>[0]>, cuts: number[] = [1]) {
    const assembler = new OutputAssembler({ table, stops: [], stopTokenIds: [eos], ...options });
    const all: OutputPiece[] = [];
    for (const part of cut(tokens, cuts)) {
      const pieces: OutputPiece[] = [];
      assembler.push(
        Uint32Array.from(part),
        part.map((token) => ({ logprob: -token, top: [] })),
        pieces,
      );
      all.push(...pieces);
      if (assembler.stopped) break;
    }
    assembler.finish(all);
    const text = (kind: OutputPiece["kind"]) =>
      all
        .filter((piece) => piece.kind === kind)
        .map((piece) => piece.text)
        .join("");
    const logprobs = (kind: OutputPiece["kind"]) =>
      all.filter((piece) => piece.kind === kind).flatMap((piece) => piece.logprobs.map((entry) => entry.tokenId));
    return { assembler, all, reasoning: text("reasoning"), content: text("content"), logprobs };
  }

  it("splits at the token and counts", () => {
    const { assembler, reasoning, content, logprobs } = assemble([...bytes("why\n"), endThink, ...bytes("\n\nso"), eos], {
      thinking: true,
    });
    expect({ reasoning, content }).toEqual({ reasoning: "why\n", content: "so" });
    expect(assembler.completionTokens).toBe(10);
    expect(assembler.reasoningTokens).toBe(4);
    expect(logprobs("reasoning")).toEqual(bytes("why\n"));
    expect(logprobs("content")).toEqual(bytes("\n\nso"));
  });

  it("knows a repeated <think>, thinking off, and an answer cut in its reasoning", () => {
    expect(assemble([think, ...bytes("\nwhy"), endThink, ...bytes("so")], { thinking: true })).toMatchObject({
      reasoning: "why",
      content: "so",
    });
    expect(assemble(bytes("so"), { thinking: false })).toMatchObject({ reasoning: "", content: "so" });
    expect(assemble(bytes("why"), { thinking: true })).toMatchObject({ reasoning: "why", content: "" });
  });

  it("looks for stops in the answer only, and keeps them and what follows out of text and logprobs", () => {
    const tokens = [...bytes("a STOP b"), endThink, ...bytes("c STOP d")];
    const { assembler, reasoning, content, logprobs } = assemble(tokens, { thinking: true, stops: ["STOP"] });
    expect({ reasoning, content }).toEqual({ reasoning: "a STOP b", content: "c " });
    expect(logprobs("content")).toEqual(bytes("c "));
    expect(assembler.stopped).toBe(true);
    expect(assembler.completionTokens).toBe(15);
  });

  it("gives one result however the tokens are cut, each token's logprob once", () => {
    const tokens = [...bytes("grüße 😀 "), endThink, ...bytes("\n\n答え 42 ENDx")];
    const whole = assemble(tokens, { thinking: true, stops: ["END"] }, [tokens.length]);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }), (cuts) => {
        const parts = assemble(tokens, { thinking: true, stops: ["END"] }, cuts);
        expect(parts).toMatchObject({ reasoning: whole.reasoning, content: "答え 42 " });
        for (const kind of ["reasoning", "content"] as const) expect(parts.logprobs(kind)).toEqual(whole.logprobs(kind));
        for (const piece of parts.all) expect(piece.text).not.toContain("\ufffd");
      }),
    );
  });

  it("leaves completions whole", () => {
    expect(assemble([...bytes("a"), endThink, ...bytes("\nb"), eos], {})).toMatchObject({ reasoning: "", content: "a</think>\nb" });
  });

  it("has no text without a tokenizer, and counts", () => {
    const { assembler, content } = assemble([1, 2, 3], { table: null });
    expect(content).toBe("");
    expect(assembler.completionTokens).toBe(3);
  });
});
