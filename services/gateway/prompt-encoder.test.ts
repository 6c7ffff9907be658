import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { loadTokenizerFiles, type TokenizerFiles } from "../lib/model/folder.ts";
import { PromptEncoder } from "./prompt-encoder.ts";
import type { PromptMessage } from "./tool-prompt.ts";
import { TokenTable } from "../lib/model/token-table.ts";
import { embeddedModel } from "../cli/stack/model-folder.ts";

const files = loadTokenizerFiles(embeddedModel()) as TokenizerFiles;
const encoder = new PromptEncoder(files);
const table = new TokenTable(files.json);
const id = (token: string) => table.addedTokenId(token) as number;
const bytes = (text: string) => [...Buffer.from(text)];
const chat = (messages: PromptMessage[], thinking = true) => encoder.encodeChat({ messages, thinking });

const bos = id("<｜begin▁of▁sentence｜>");
const eos = id("<｜end▁of▁sentence｜>");
const user = id("<｜User｜>");
const assistant = id("<｜Assistant｜>");
const think = id("<think>");
const endThink = id("</think>");

describe("chat prompts of the model in the box", () => {
  it("end inside <think> by default", () => {
    const prompt = chat([{ role: "user", content: "hi" }]);
    expect([...prompt.tokens]).toEqual([bos, user, ...bytes("hi"), assistant, think, ...bytes("\n")]);
    expect(prompt.insideThink).toBe(true);
  });

  it("end with an empty think block when thinking is off", () => {
    const prompt = chat([{ role: "user", content: "hi" }], false);
    expect([...prompt.tokens]).toEqual([bos, user, ...bytes("hi"), assistant, think, ...bytes("\n\n"), endThink, ...bytes("\n\n")]);
    expect(prompt.insideThink).toBe(false);
  });

  it("never contain earlier reasoning", () => {
    const prompt = chat([
      { role: "system", content: "S" },
      { role: "user", content: "a" },
      { role: "assistant", content: "<think>\nlong\n</think>\n\nb" },
      { role: "user", content: "c" },
    ]);
    expect([...prompt.tokens]).toEqual([
      bos,
      ...bytes("S"),
      user,
      ...bytes("a"),
      assistant,
      ...bytes("\n\nb"),
      eos,
      user,
      ...bytes("c"),
      assistant,
      think,
      ...bytes("\n"),
    ]);
  });

  it("keep the roles' own tokens apart from what users write", () => {
    const control = files.json.added_tokens.map((token) => token.content);
    const piece = fc.oneof(
      fc.constantFrom(...control, "<", "<｜", "｜User｜>", "think>", "\ufdd0"),
      fc.string({ unit: "binary", maxLength: 4 }),
    );
    const content = fc.array(piece, { maxLength: 6 }).map((parts) => parts.join(""));
    // Two system messages stand side by side in this template: a token must not form across the seam either.
    fc.assert(
      fc.property(content, content, content, fc.boolean(), (first, second, third, thinking) => {
        const prompt = chat(
          [
            { role: "system", content: first },
            { role: "system", content: second },
            { role: "user", content: third },
          ],
          thinking,
        );
        const end = thinking ? [assistant, think, ...bytes("\n")] : [assistant, think, ...bytes("\n\n"), endThink, ...bytes("\n\n")];
        expect([...prompt.tokens]).toEqual([bos, ...bytes(first), ...bytes(second), user, ...bytes(third), ...end]);
      }),
    );
  });
});

describe("other templates", () => {
  const withTemplate = (chatTemplate: string | null) => new PromptEncoder({ ...files, chatTemplate });
  const oneMessage: PromptMessage[] = [{ role: "user", content: "hi" }];

  it("that leave out <think> get it", () => {
    const plain = withTemplate("{{ bos_token }}<｜User｜>{{ messages[0].content }}<｜Assistant｜>");
    expect([...plain.encodeChat({ messages: oneMessage, thinking: true }).tokens].slice(-3)).toEqual([assistant, think, 10]);
    expect(plain.encodeChat({ messages: oneMessage, thinking: true }).insideThink).toBe(true);
    expect(plain.encodeChat({ messages: oneMessage, thinking: false }).insideThink).toBe(false);
  });

  it("that know about thinking are left alone", () => {
    const hybrid = withTemplate("<｜Assistant｜>{% if thinking %}<think>{% else %}</think>{% endif %}");
    expect([...hybrid.encodeChat({ messages: oneMessage, thinking: true }).tokens]).toEqual([assistant, think]);
    expect([...hybrid.encodeChat({ messages: oneMessage, thinking: false }).tokens]).toEqual([assistant, endThink]);
  });

  it("that refuse a conversation say so as a client's error", () => {
    const strict = withTemplate("{{ raise_exception('roles must alternate') }}");
    expect(() => strict.encodeChat({ messages: oneMessage, thinking: true })).toThrow(/roles must alternate/);
    expect(() => withTemplate(null).encodeChat({ messages: oneMessage, thinking: true })).toThrow(/no chat template/);
  });
});

describe("completion prompts", () => {
  it("recognise the tokenizer's tokens and round trip", () => {
    expect([...encoder.encodeText("<｜User｜>hé<｜Assistant｜>").tokens]).toEqual([user, ...bytes("hé"), assistant]);
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        const decoded = Buffer.concat([...encoder.encodeText(text).tokens].map((token) => table.bytesOf(token))).toString();
        expect(decoded).toBe(text);
      }),
    );
  });

  it("begin with one BOS where the tokenizer adds it", () => {
    const adding = new PromptEncoder({ ...files, config: { ...files.config, add_bos_token: true } });
    expect([...adding.encodeText("a").tokens]).toEqual([bos, 97]);
    expect([...adding.encodeText("<｜begin▁of▁sentence｜>a").tokens]).toEqual([bos, 97]);
  });
});
