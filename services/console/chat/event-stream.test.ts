import fc from "fast-check";
import { expect, it } from "vitest";
import { EventStream } from "./event-stream.ts";

const text = 'data: {"a":1}\n\n: keep-alive\n\ndata: {"b":"data: é"}\r\n\r\nevent: x\ndata:[DONE]\n\ndata: unfinished';

it("gives the same events however the text is cut", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(text.length), { maxLength: 8 }), (cuts) => {
      const stream = new EventStream();
      const ends = [...cuts.sort((a, b) => a - b), text.length];
      const parts = ends.map((end, i) => text.slice(i === 0 ? 0 : ends[i - 1], end));
      expect(parts.flatMap((part) => stream.push(part))).toEqual(['{"a":1}', '{"b":"data: é"}', "[DONE]"]);
    }),
  );
});
