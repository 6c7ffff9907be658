import fc from "fast-check";
import { expect, test } from "vitest";
import { Credit } from "./messages.ts";
import { DamagedMessage, decodeMessage, encodeMessage } from "./wire.ts";

test("a changed byte anywhere in a message, its length and checksum included, makes it a damaged one, not another or a malformed one", () => {
  const body = { transferId: "0f".repeat(16), grantedBytes: 77, receivedFrames: 3 };
  const message = encodeMessage(body, Uint32Array.of(1, 2, 3));
  expect(decodeMessage(Credit, message).body).toMatchObject(body);
  fc.assert(
    fc.property(fc.nat({ max: message.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, flipped) => {
      const damaged = message.slice();
      damaged[at] = (damaged[at] as number) ^ flipped;
      expect(() => decodeMessage(Credit, damaged)).toThrow(DamagedMessage);
    }),
    { numRuns: 2_000 },
  );
});
