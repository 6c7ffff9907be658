// The header of a KV frame: 64 bytes before the latents of some rows of one block and layer. TypeScript writes the header, C++ the payload
// and both checksums.
//
//   0  magic "PLKV"      4  version u16, header bytes u16     8  transfer id, 16 bytes
//  24  sequence u32     28  layer u16, flags u16             32  first row u32     36  row count u32
//  40  payload bytes u32  44  KV dtype u8, 3 zero bytes      48  XXH64 of the payload   56  XXH64 of bytes 0 to 55
//
// All little-endian. Rows are absolute positions in the sequence; a frame never crosses a block boundary. A message holds one frame or more,
// one after the other: a message costs the bus more than a small frame does.

export const frameHeaderBytes = 64;
/** Of a message with several frames, at most. nats.js puts larger ones together from several reads, which costs more than it saves. */
export const frameMessageBytes = 32 * 1024;
const magic = 0x564b4c50; // "PLKV"
const version = 1;
const lastFlag = 1;
const cachedFlag = 2;

/** fp8: latents in e4m3 with a scale for each 128, and the rotated key in bfloat16. */
export const kvDtypes = ["float32", "bfloat16", "fp8"] as const;
export type KvDtype = (typeof kvDtypes)[number];

export interface FrameHeader {
  sequence: number;
  layer: number;
  /** Nothing follows this frame in its transfer. */
  last: boolean;
  /** Prefill had these rows in its cache: nobody computed them for this request. */
  cached: boolean;
  firstRow: number;
  rowCount: number;
  payloadBytes: number;
  kvDtype: KvDtype;
}

export type Xxh64 = (data: Uint8Array) => bigint;

const idAt = 8;
const idBytes = 16;
const payloadSumAt = 48;
const headerSumAt = 56;

/** A transfer id, 32 hex digits, as frames carry it. */
export function frameTransferId(hex: string): Uint8Array {
  const id = new Uint8Array(Buffer.from(hex, "hex"));
  if (id.length !== idBytes) throw new Error(`transfer id ${JSON.stringify(hex)}: 32 hex digits expected`);
  return id;
}

/** Writes the header over frame[0..48); the checksums are left to whoever writes the payload. */
export function writeFrameHeader(frame: Uint8Array, transferId: Uint8Array, header: FrameHeader): void {
  const view = new DataView(frame.buffer, frame.byteOffset, frameHeaderBytes);
  view.setUint32(0, magic, true);
  view.setUint16(4, version, true);
  view.setUint16(6, frameHeaderBytes, true);
  frame.set(transferId, idAt);
  view.setUint32(24, header.sequence, true);
  view.setUint16(28, header.layer, true);
  view.setUint16(30, (header.last ? lastFlag : 0) | (header.cached ? cachedFlag : 0), true);
  view.setUint32(32, header.firstRow, true);
  view.setUint32(36, header.rowCount, true);
  view.setUint32(40, header.payloadBytes, true);
  view.setUint32(44, kvDtypes.indexOf(header.kvDtype), true);
}

/** Writes both checksums, for those who do not leave it to native code. */
export function sealFrame(frame: Uint8Array, xxh64: Xxh64): void {
  const view = new DataView(frame.buffer, frame.byteOffset, frameHeaderBytes);
  view.setBigUint64(payloadSumAt, xxh64(frame.subarray(frameHeaderBytes)), true);
  view.setBigUint64(headerSumAt, xxh64(frame.subarray(0, headerSumAt)), true);
}

export function headerIntact(frame: Uint8Array, xxh64: Xxh64): boolean {
  return checksum(frame, headerSumAt) === xxh64(frame.subarray(0, headerSumAt));
}

export function payloadIntact(frame: Uint8Array, xxh64: Xxh64): boolean {
  return checksum(frame, payloadSumAt) === xxh64(frame.subarray(frameHeaderBytes));
}

function checksum(frame: Uint8Array, at: number): bigint {
  return new DataView(frame.buffer, frame.byteOffset, frameHeaderBytes).getBigUint64(at, true);
}

/** Where a message's frames stand in their transfer, unverified, in order: for whoever only watches. null: not a message of frames. */
export function readFramePlaces(message: Uint8Array): { sequence: number; last: boolean; payloadBytes: number }[] | null {
  const places = [];
  for (let at = 0; at < message.length; ) {
    if (message.length - at < frameHeaderBytes) return null;
    const view = new DataView(message.buffer, message.byteOffset + at, frameHeaderBytes);
    if (view.getUint32(0, true) !== magic) return null;
    const payloadBytes = view.getUint32(40, true);
    places.push({ sequence: view.getUint32(24, true), last: (view.getUint16(30, true) & lastFlag) !== 0, payloadBytes });
    at += frameHeaderBytes + payloadBytes;
  }
  return places.length > 0 ? places : null;
}

export function isOfTransfer(frame: Uint8Array, transferId: Uint8Array): boolean {
  for (let i = 0; i < idBytes; i++) if (frame[idAt + i] !== transferId[i]) return false;
  return true;
}

/**
 * What the header of the frame at this place in a message says; its checksum is not looked at here. Throws an error that names the field by
 * which this is no frame.
 */
export function readFrameHeader(message: Uint8Array, at = 0): FrameHeader {
  const length = message.length - at;
  if (length < frameHeaderBytes) throw bad("length", `${length} bytes, at least ${frameHeaderBytes} expected`);
  const view = new DataView(message.buffer, message.byteOffset + at, frameHeaderBytes);
  if (view.getUint32(0, true) !== magic) throw bad("magic", "not a KV frame");
  if (view.getUint16(4, true) !== version) throw bad("version", `${view.getUint16(4, true)}, this build reads ${version}`);
  if (view.getUint16(6, true) !== frameHeaderBytes) throw bad("header bytes", String(view.getUint16(6, true)));
  const kvDtype = kvDtypes[view.getUint32(44, true)];
  if (kvDtype === undefined) throw bad("KV dtype", String(view.getUint32(44, true)));
  const payloadBytes = view.getUint32(40, true);
  if (frameHeaderBytes + payloadBytes > length) throw bad("payload bytes", `${payloadBytes} where ${length - frameHeaderBytes} are left`);
  const flags = view.getUint16(30, true);
  return {
    sequence: view.getUint32(24, true),
    layer: view.getUint16(28, true),
    last: (flags & lastFlag) !== 0,
    cached: (flags & cachedFlag) !== 0,
    firstRow: view.getUint32(32, true),
    rowCount: view.getUint32(36, true),
    payloadBytes,
    kvDtype,
  };
}

function bad(field: string, detail: string): Error {
  return new Error(`KV frame: ${field}: ${detail}`);
}
