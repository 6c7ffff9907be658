// One transfer, as prefill sees it: rows become ready layer by layer, credits come back, frames go out in order. What has no credit yet is
// not copied: its place in the cache is remembered, and the blocks are held until the transfer ends.
import { kvBlockTokens } from "../contracts/block-key.ts";
import type { Bus } from "../contracts/bus.ts";
import { frameHeaderBytes, writeFrameHeader, type FrameKvDtype } from "../contracts/frame.ts";
import type { ModelRunner } from "./model-runner.ts";

export interface TransferOptions {
  transferId: string;
  kvDtype: FrameKvDtype;
  /** Rows [firstRow, endRow) of every layer are wanted. */
  firstRow: number;
  endRow: number;
  grantedBytes: number;
}

interface PendingRows {
  layer: number;
  firstRow: number;
  rowCount: number;
  cached: boolean;
}

export class TransferSender {
  readonly options: TransferOptions;
  private readonly runner: ModelRunner;
  private readonly dataBus: Bus;
  private readonly framesSubject: string;
  private readonly table: () => readonly number[];
  private readonly rowsPerFrame: number;
  private readonly totalBytes: number;
  private readonly pending: PendingRows[] = [];
  private granted: number;
  /** Frames published. */
  sentFrames = 0;
  /** Payload bytes published. */
  sentBytes = 0;

  /** `table` gives the block ids of the rows' owner, in order of position. */
  constructor(runner: ModelRunner, dataBus: Bus, framesSubject: string, options: TransferOptions, table: () => readonly number[]) {
    this.framesSubject = framesSubject;
    this.runner = runner;
    this.dataBus = dataBus;
    this.options = options;
    this.table = table;
    this.granted = options.grantedBytes;
    this.rowsPerFrame = Math.max(1, Math.min(kvBlockTokens, Math.floor((dataBus.maxPayloadBytes - frameHeaderBytes) / runner.rowBytes)));
    this.totalBytes = (options.endRow - options.firstRow) * runner.info.layerCount * runner.rowBytes;
  }

  /** These rows of this layer are in the cache; those not wanted are skipped. `cached`: nobody computed them now. Throws BusError "disconnected". */
  rowsReady(layer: number, firstRow: number, rowCount: number, cached = false): void {
    const end = Math.min(firstRow + rowCount, this.options.endRow);
    for (let row = Math.max(firstRow, this.options.firstRow); row < end; ) {
      const blockEnd = (Math.floor(row / kvBlockTokens) + 1) * kvBlockTokens;
      const next = Math.min(end, blockEnd, row + this.rowsPerFrame);
      this.pending.push({ layer, firstRow: row, rowCount: next - row, cached });
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

  private send(): void {
    let sent = 0;
    for (const rows of this.pending) {
      const payloadBytes = rows.rowCount * this.runner.rowBytes;
      if (this.sentBytes + payloadBytes > this.granted) break;
      this.publish(rows, payloadBytes);
      sent++;
    }
    this.pending.splice(0, sent);
  }

  private publish(rows: PendingRows, payloadBytes: number): void {
    const frame = new Uint8Array(frameHeaderBytes + payloadBytes);
    const block = this.table()[Math.floor(rows.firstRow / kvBlockTokens)] as number;
    const payloadChecksum = this.runner.packRows(rows.layer, block, rows.firstRow % kvBlockTokens, rows.rowCount, frame, frameHeaderBytes);
    writeFrameHeader(
      frame,
      {
        transferId: this.options.transferId,
        sequence: this.sentFrames,
        layer: rows.layer,
        last: this.sentBytes + payloadBytes === this.totalBytes,
        cached: rows.cached,
        firstRow: rows.firstRow,
        rowCount: rows.rowCount,
        payloadBytes,
        kvDtype: this.options.kvDtype,
        payloadChecksum,
      },
      (data) => this.runner.xxh64(data),
    );
    this.dataBus.publish(this.framesSubject, frame);
    this.sentFrames++;
    this.sentBytes += payloadBytes;
  }
}
