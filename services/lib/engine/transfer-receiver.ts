// One transfer, as the receiver sees it: frames in, rows into reserved blocks. It stores exactly the next frame, once: an earlier one is a
// repetition, a later one says that something was lost, and both are told apart for whoever asks again. Rows that every layer has are whole.
import { kvBlockTokens } from "../contracts/block-key.ts";
import { frameHeaderBytes, type FrameHeader, readFrame, type FrameKvDtype } from "../contracts/frame.ts";
import type { ModelRunner } from "./model-runner.ts";

export interface ReceiverOptions {
  transferId: string;
  kvDtype: FrameKvDtype;
  firstRow: number;
  endRow: number;
}

/** `missing`: this frame is not the next, or arrived damaged; the next must be sent again. */
export type Arrival = { kind: "stored"; payloadBytes: number } | { kind: "repeated" } | { kind: "missing"; reason: string };

export class TransferReceiver {
  private readonly runner: ModelRunner;
  private readonly options: ReceiverOptions;
  private readonly table: readonly number[];
  /** For each layer, the first row that is still missing. */
  private readonly nextRow: number[];
  frames = 0;
  /** Rows that prefill had in its cache. */
  cachedRows = 0;
  receivedBytes = 0;

  constructor(runner: ModelRunner, options: ReceiverOptions, table: readonly number[]) {
    this.runner = runner;
    this.options = options;
    this.table = table;
    this.nextRow = new Array<number>(runner.info.layerCount).fill(options.firstRow);
  }

  /** Payload bytes of the whole transfer. */
  get totalBytes(): number {
    return (this.options.endRow - this.options.firstRow) * this.runner.info.layerCount * this.runner.rowBytes;
  }

  /** Rows [0, completeRows) are whole: every layer has them. */
  get completeRows(): number {
    return Math.min(...this.nextRow);
  }

  get complete(): boolean {
    return this.completeRows === this.options.endRow;
  }

  /** Throws an error that says what is wrong where the frame contradicts the transfer; then nothing was written. */
  accept(frame: Uint8Array): Arrival {
    let header: FrameHeader;
    try {
      header = readFrame(frame, (data) => this.runner.xxh64(data));
    } catch (error) {
      return { kind: "missing", reason: error instanceof Error ? error.message : String(error) };
    }
    const { options } = this;
    if (header.transferId !== options.transferId) throw new Error(`frame of transfer ${header.transferId}`);
    if (header.sequence < this.frames) return { kind: "repeated" };
    if (header.sequence > this.frames) return { kind: "missing", reason: `frame ${header.sequence} where ${this.frames} was due` };
    if (header.kvDtype !== options.kvDtype) throw new Error(`frame in ${header.kvDtype}`);
    const next = this.nextRow[header.layer];
    if (next === undefined) throw new Error(`frame of layer ${header.layer}`);
    const end = header.firstRow + header.rowCount;
    const block = Math.floor(header.firstRow / kvBlockTokens);
    if (header.firstRow !== next || header.rowCount === 0 || end > options.endRow || Math.floor((end - 1) / kvBlockTokens) !== block) {
      throw new Error(`rows ${header.firstRow} to ${end} of layer ${header.layer} where row ${next} was due`);
    }
    if (header.payloadBytes !== header.rowCount * this.runner.rowBytes)
      throw new Error(`${header.payloadBytes} bytes for ${header.rowCount} rows`);
    this.runner.unpackRows(
      header.layer,
      this.table[block] as number,
      header.firstRow % kvBlockTokens,
      header.rowCount,
      frame,
      frameHeaderBytes,
    );
    this.nextRow[header.layer] = end;
    if (header.cached && header.layer === 0) this.cachedRows += header.rowCount;
    this.frames++;
    this.receivedBytes += header.payloadBytes;
    return { kind: "stored", payloadBytes: header.payloadBytes };
  }
}
