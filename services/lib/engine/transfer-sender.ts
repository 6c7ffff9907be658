// One transfer, as the sender sees it: rows become ready layer by layer, credits come back, frames go out in order. What has no credit yet is
// not copied: its place in the cache is remembered, and the blocks are held until the transfer ends. So a frame that was lost is sent again
// from its place.
import { kvBlockTokens } from "../contracts/block-key.ts";
import type { Bus } from "../contracts/bus.ts";
import { frameHeaderBytes, frameMessageBytes, frameTransferId, writeFrameHeader, type KvDtype } from "../contracts/frame.ts";
import type { ModelRunner } from "./model-runner.ts";

export interface TransferOptions {
  transferId: string;
  kvDtype: KvDtype;
  /** Rows [firstRow, endRow) of every layer are wanted. */
  firstRow: number;
  endRow: number;
  grantedBytes: number;
}

/** Frames are written here, over and over, as far as they fit. */
const bufferBytes = 256 * 1024;
const noBuffer = new Uint8Array(0);

interface FramePlace {
  layer: number;
  firstRow: number;
  rowCount: number;
  cached: boolean;
  /** Payload bytes of the frame, and of all frames before it: positions never change, however often a frame is sent. */
  payloadBytes: number;
  bytesBefore: number;
}

export class TransferSender {
  readonly options: TransferOptions;
  private readonly runner: ModelRunner;
  private readonly dataBus: Bus;
  private readonly framesSubject: string;
  private readonly table: () => readonly number[];
  private readonly rowsPerFrame: number;
  private readonly totalBytes: number;
  private readonly messageBytes: number;
  private readonly transferId: Uint8Array;
  /** By sequence number, from the first that is not acknowledged to the last that is ready. */
  private readonly places = new Map<number, FramePlace>();
  private readyFrames = 0;
  private readyBytes = 0;
  private acknowledgedFrames = 0;
  private granted: number;
  /** The next frame to publish has this sequence number. */
  sentFrames = 0;
  /** Payload bytes published, repeated ones included. */
  sentBytes = 0;
  resentFrames = 0;
  private furthestFrame = 0;
  private readonly onFailure: (error: unknown) => void;
  /** The last frame has left, for the first time. */
  onSent: () => void = () => {};
  private saidSent = false;
  private buffer = noBuffer;
  private used = 0;
  /** Frames wait for the buffer to be free again. */
  private blocked = false;
  /** `reuse` is on its way, and whether frames were published since. */
  private reusing = false;
  private publishedSince = false;
  private closed = false;

  /** `table` gives the block ids of the rows' owner, in order of position. `onFailure` hears what goes wrong where nobody calls. */
  constructor(
    runner: ModelRunner,
    dataBus: Bus,
    framesSubject: string,
    options: TransferOptions,
    table: () => readonly number[],
    onFailure: (error: unknown) => void,
  ) {
    this.onFailure = onFailure;
    this.framesSubject = framesSubject;
    this.runner = runner;
    this.dataBus = dataBus;
    this.options = options;
    this.transferId = frameTransferId(options.transferId);
    this.table = table;
    this.granted = options.grantedBytes;
    this.rowsPerFrame = Math.max(1, Math.min(kvBlockTokens, Math.floor((dataBus.maxPayloadBytes - frameHeaderBytes) / runner.rowBytes)));
    this.messageBytes = Math.min(frameMessageBytes, dataBus.maxPayloadBytes);
    this.totalBytes = (options.endRow - options.firstRow) * runner.info.layerCount * runner.rowBytes;
  }

  /** These rows of this layer are in the cache; those not wanted are skipped. `cached`: nobody computed them now. */
  rowsReady(layer: number, firstRow: number, rowCount: number, cached = false): void {
    const end = Math.min(firstRow + rowCount, this.options.endRow);
    for (let row = Math.max(firstRow, this.options.firstRow); row < end; ) {
      const blockEnd = (Math.floor(row / kvBlockTokens) + 1) * kvBlockTokens;
      const next = Math.min(end, blockEnd, row + this.rowsPerFrame);
      const payloadBytes = (next - row) * this.runner.rowBytes;
      this.places.set(this.readyFrames++, {
        layer,
        firstRow: row,
        rowCount: next - row,
        cached,
        payloadBytes,
        bytesBefore: this.readyBytes,
      });
      this.readyBytes += payloadBytes;
      row = next;
    }
    this.send();
  }

  /** A cumulative grant: an older or repeated one changes nothing. */
  grant(grantedBytes: number): void {
    if (grantedBytes <= this.granted) return;
    this.granted = grantedBytes;
    this.send();
  }

  /** Frames before this one have arrived and are never asked for again. */
  acknowledge(receivedFrames: number): void {
    while (this.acknowledgedFrames < Math.min(receivedFrames, this.furthestFrame)) this.places.delete(this.acknowledgedFrames++);
    this.sentFrames = Math.max(this.sentFrames, this.acknowledgedFrames);
  }

  /** Sends again from this frame on. One that was acknowledged, or not sent yet, changes nothing. */
  resend(fromFrame: number): void {
    if (fromFrame < this.acknowledgedFrames || fromFrame >= this.sentFrames) return;
    this.sentFrames = fromFrame;
    this.send();
  }

  /** As far as credit reaches. While the bus is away nothing is sent: the receiver asks again, or a later call goes on from here. */
  send(): void {
    // The next message begins here in the buffer.
    let from = this.used;
    while (this.dataBus.connected && !this.closed && !this.blocked) {
      const place = this.places.get(this.sentFrames);
      if (place === undefined || place.bytesBefore + place.payloadBytes > this.granted) break;
      const bytes = frameHeaderBytes + place.payloadBytes;
      if (this.used + bytes - from > this.messageBytes) {
        this.publish(from);
        from = this.used;
      }
      const frame = this.take(bytes);
      if (frame === null) break;
      this.write(place, frame);
    }
    this.publish(from);
    if (this.saidSent || this.readyBytes < this.totalBytes || this.sentFrames < this.readyFrames) return;
    this.saidSent = true;
    this.onSent();
  }

  /** The blocks are no longer ours to read. */
  close(): void {
    this.closed = true;
  }

  /** What was written since, as one message. */
  private publish(from: number): void {
    if (this.used > from) this.dataBus.publish(this.framesSubject, this.buffer.subarray(from, this.used));
  }

  private write(place: FramePlace, frame: Uint8Array): void {
    const { layer, firstRow, rowCount, cached, payloadBytes } = place;
    const block = this.table()[Math.floor(firstRow / kvBlockTokens)] as number;
    writeFrameHeader(frame, this.transferId, {
      sequence: this.sentFrames,
      layer,
      last: place.bytesBefore + payloadBytes === this.totalBytes,
      cached,
      firstRow,
      rowCount,
      payloadBytes,
      kvDtype: this.options.kvDtype,
    });
    this.runner.packFrame(layer, block, firstRow % kvBlockTokens, rowCount, frame);
    if (this.sentFrames < this.furthestFrame) this.resentFrames++;
    this.sentFrames++;
    this.furthestFrame = Math.max(this.furthestFrame, this.sentFrames);
    this.sentBytes += payloadBytes;
  }

  /** Room for a frame, or null: then frames go on in a later microtask. Memory that was just written costs a third of fresh memory. */
  private take(bytes: number): Uint8Array | null {
    this.publishedSince = true;
    if (!this.reusing) {
      this.reusing = true;
      queueMicrotask(() => this.reuse());
    }
    if (this.used + bytes > this.buffer.length) {
      if (this.used > 0) {
        this.blocked = true;
        return null;
      }
      this.buffer = new Uint8Array(Math.max(bytes, bufferBytes));
    }
    const frame = this.buffer.subarray(this.used, this.used + bytes);
    this.used += bytes;
    return frame;
  }

  /** The bus has copied what was published before this microtask was queued; what was published later is waited for. */
  private reuse(): void {
    if (this.publishedSince) {
      this.publishedSince = false;
      queueMicrotask(() => this.reuse());
      return;
    }
    this.reusing = false;
    this.used = 0;
    if (!this.blocked) {
      this.buffer = noBuffer;
      return;
    }
    this.blocked = false;
    try {
      this.send();
    } catch (error) {
      this.onFailure(error);
    }
  }
}
