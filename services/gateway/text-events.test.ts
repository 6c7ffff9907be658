// Events of plain text are made of a frame that is cut once: they must be what JSON.stringify makes of the whole.
import fc from "fast-check";
import { expect, it } from "vitest";
import { ChatFormat } from "./chat-format.ts";
import { CompletionFormat } from "./completion-format.ts";
import type { OutputPiece } from "./output-assembler.ts";
import { sseEvent } from "./sse.ts";

const anyText = fc.oneof(fc.string({ unit: "binary" }), fc.string(), fc.string({ unit: fc.constantFrom('"', "\\", "\ud800", "\n", "a") }));

it("is the same bytes, whatever the text, the model's name and what else the events say", () => {
  fc.assert(
    fc.property(anyText, fc.array(anyText, { maxLength: 4 }), fc.boolean(), fc.nat({ max: 3 }), (model, texts, includeUsage, index) => {
      const head = { id: "x-1", created: 5, model };
      const options = { head, table: null, logprobs: false, promptLogprobs: null, includeUsage };
      const chat = new ChatFormat({ ...options, prompt: new Uint32Array(1), thinking: true, showReasoning: true });
      const completion = new CompletionFormat({ ...options, prompts: [new Uint32Array(1)], top: 0, echo: null, perPrompt: 4 });
      const pieces = texts.map((text, i): OutputPiece => ({ kind: i % 2 === 0 ? "reasoning" : "content", text, logprobs: [] }));
      const usage = includeUsage ? { usage: null } : {};
      const event = (object: string, piece: object) =>
        sseEvent({
          ...{ id: head.id, object, created: head.created, model },
          choices: [{ index, ...piece, logprobs: null, finish_reason: null }],
          ...usage,
        });
      expect(chat.pieces(index, pieces, {}, null)).toBe(
        pieces
          .map(({ kind, text }) =>
            event("chat.completion.chunk", { delta: kind === "reasoning" ? { reasoning_content: text } : { content: text } }),
          )
          .join(""),
      );
      expect(completion.pieces(index, pieces, {}, null)).toBe(pieces.map(({ text }) => event("text_completion", { text })).join(""));
    }),
  );
});
