import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type FrameHeader,
  frameHeaderBytes,
  frameTransferId,
  headerIntact,
  isOfTransfer,
  kvDtypes,
  payloadIntact,
  readFramePlaces,
  readFrameHeader,
  sealFrame,
  writeFrameHeader,
} from "./frame.ts";

const hash = (data: Uint8Array) => createHash("md5").update(data).digest().readBigUInt64LE();
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const hexId = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((id) => Buffer.from(id).toString("hex"));
const payload = fc.uint8Array({ maxLength: 80 });
const fields = fc.record({
  sequence: u32,
  layer: fc.integer({ min: 0, max: 0xffff }),
  last: fc.boolean(),
  cached: fc.boolean(),
  firstRow: u32,
  rowCount: u32,
  kvDtype: fc.constantFrom(...kvDtypes),
});

/** At an odd offset of a larger buffer, as messages arrive. */
function frameOf(header: FrameHeader, id: string, bytes: Uint8Array): Uint8Array {
  const frame = new Uint8Array(frameHeaderBytes + bytes.length + 3).subarray(3);
  frame.set(bytes, frameHeaderBytes);
  writeFrameHeader(frame, frameTransferId(id), header);
  sealFrame(frame, hash);
  return frame;
}

describe("a frame", () => {
  test("says what was written, and names its transfer", () => {
    fc.assert(
      fc.property(fields, hexId, hexId, payload, (rest, id, other, bytes) => {
        const header = { ...rest, payloadBytes: bytes.length };
        const frame = frameOf(header, id, bytes);
        expect(readFrameHeader(frame)).toEqual(header);
        expect(readFramePlaces(frame)).toEqual([{ sequence: header.sequence, last: header.last, payloadBytes: bytes.length }]);
        expect(isOfTransfer(frame, frameTransferId(id))).toBe(true);
        expect(isOfTransfer(frame, frameTransferId(other))).toBe(id === other);
        expect(headerIntact(frame, hash) && payloadIntact(frame, hash)).toBe(true);
      }),
    );
  });

  test("with a changed byte is refused by name, or shows it in a checksum", () => {
    fc.assert(
      fc.property(fields, hexId, payload, fc.nat(), fc.integer({ min: 1, max: 255 }), (rest, id, bytes, where, change) => {
        const frame = frameOf({ ...rest, payloadBytes: bytes.length }, id, bytes);
        const at = where % frame.length;
        frame[at] = (frame[at] as number) ^ change;
        if (at >= frameHeaderBytes) expect([headerIntact(frame, hash), payloadIntact(frame, hash)]).toEqual([true, false]);
        else expect(headerIntact(frame, hash)).toBe(false);
      }),
    );
  });

  test("lies in a message behind others, and each is found", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fields, payload), { minLength: 1, maxLength: 5 }), hexId, (parts, id) => {
        const frames = parts.map(([rest, bytes]) => frameOf({ ...rest, payloadBytes: bytes.length }, id, bytes));
        const message = Buffer.concat(frames);
        let at = 0;
        for (const [i, frame] of frames.entries()) {
          expect(readFrameHeader(message, at)).toEqual({ ...parts[i]?.[0], payloadBytes: frame.length - frameHeaderBytes });
          at += frame.length;
        }
        const places = parts.map(([{ sequence, last }, bytes]) => ({ sequence, last, payloadBytes: bytes.length }));
        expect(readFramePlaces(message)).toEqual(places);
        expect(readFramePlaces(message.subarray(0, message.length - (frames.at(-1)?.length ?? 0) + 7))).toBe(null);
      }),
    );
  });

  test("that is none is refused by name", () => {
    const header = {
      sequence: 1,
      layer: 2,
      last: false,
      cached: false,
      firstRow: 3,
      rowCount: 4,
      payloadBytes: 8,
      kvDtype: "bfloat16",
    } as const;
    const frame = frameOf(header, "00".repeat(16), new Uint8Array(8));
    const changed = (at: number) => {
      const copy = frame.slice();
      copy[at] = (copy[at] as number) ^ 0x7f;
      return () => readFrameHeader(copy);
    };
    expect(() => readFrameHeader(frame.subarray(0, 63))).toThrow("length: 63 bytes");
    expect(changed(0)).toThrow("magic");
    expect(changed(4)).toThrow("version");
    expect(changed(6)).toThrow("header bytes");
    expect(changed(40)).toThrow("payload bytes");
    expect(changed(44)).toThrow("KV dtype");
    expect(() => frameTransferId("00")).toThrow("32 hex digits");
  });
});
