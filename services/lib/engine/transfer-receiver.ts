// One transfer, as the receiver sees it: frames in, rows into reserved blocks. It stores exactly the next frame, once: an earlier one is a
// repetition, a later one says that something was lost, and both are told apart for whoever asks again. Rows that every layer has are whole.
import { kvBlockTokens } from "../contracts/block-key.ts";
import {
  frameHeaderBytes,
  type FrameHeader,
  type KvDtype,
  frameTransferId,
  headerIntact,
  isOfTransfer,
  readFrameHeader,
} from "../contracts/frame.ts";
import type { ModelRunner } from "./model-runner.ts";

export interface ReceiverOptions {
  transferId: string;
  kvDtype: KvDtype;
  firstRow: number;
  endRow: number;
}

export interface Arrival {
  /** Payload bytes of new rows. */
  storedBytes: number;
  /** Why the next frame must be sent again: it is not the one that came, or arrived damaged. */
  missing?: string;
}

const damaged = "a checksum differs";

export class TransferReceiver {
  private readonly runner: ModelRunner;
  private readonly options: ReceiverOptions;
  private readonly transferId: Uint8Array;
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
    this.transferId = frameTransferId(options.transferId);
    this.table = table;
    this.nextRow = new Array<number>(runner.info.layerCount).fill(options.firstRow);
  }

  get firstRow(): number {
    return this.options.firstRow;
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

  /**
   * A message's frames, in order, up to the first that is not as it should be. Throws an error that says what is wrong where a frame contradicts
   * the transfer; then nothing of it was written. A damaged payload lies where its rows are due and does not count: they are written again.
   */
  accept(message: Uint8Array): Arrival {
    const before = this.receivedBytes;
    let missing: string | undefined;
    for (let at = 0; at < message.length && missing === undefined; ) {
      let header: FrameHeader;
      try {
        header = readFrameHeader(message, at);
      } catch (error) {
        missing = error instanceof Error ? error.message : String(error);
        break;
      }
      const end = at + frameHeaderBytes + header.payloadBytes;
      missing = this.acceptFrame(at === 0 && end === message.length ? message : message.subarray(at, end), header);
      at = end;
    }
    const storedBytes = this.receivedBytes - before;
    return missing === undefined ? { storedBytes } : { storedBytes, missing };
  }

  /** Why it must be sent again, if so. One that is here already is passed over. */
  private acceptFrame(frame: Uint8Array, header: FrameHeader): string | undefined {
    const contradiction = this.contradiction(frame, header);
    if (contradiction !== undefined) {
      if (!headerIntact(frame, (data) => this.runner.xxh64(data))) return damaged;
      throw new Error(contradiction);
    }
    if (header.sequence < this.frames) return undefined;
    if (header.sequence > this.frames) return `frame ${header.sequence} where ${this.frames} was due`;
    const { layer, firstRow, rowCount } = header;
    const block = this.table[Math.floor(firstRow / kvBlockTokens)] as number;
    if (!this.runner.unpackFrame(layer, block, firstRow % kvBlockTokens, rowCount, frame)) return damaged;
    this.nextRow[layer] = firstRow + rowCount;
    if (header.cached && layer === 0) this.cachedRows += rowCount;
    this.frames++;
    this.receivedBytes += header.payloadBytes;
    return undefined;
  }

  /** Of another transfer or, as the next frame, not the rows that are due. */
  private contradiction(
    frame: Uint8Array,
    { sequence, layer, firstRow, rowCount, payloadBytes, kvDtype }: FrameHeader,
  ): string | undefined {
    if (!isOfTransfer(frame, this.transferId)) return "frame of another transfer";
    if (sequence !== this.frames) return undefined;
    if (kvDtype !== this.options.kvDtype) return `frame in ${kvDtype}`;
    const next = this.nextRow[layer];
    if (next === undefined) return `frame of layer ${layer}`;
    const end = firstRow + rowCount;
    const sameBlock = Math.floor((end - 1) / kvBlockTokens) === Math.floor(firstRow / kvBlockTokens);
    if (firstRow !== next || rowCount === 0 || end > this.options.endRow || !sameBlock) {
      return `rows ${firstRow} to ${end} of layer ${layer} where row ${next} was due`;
    }
    if (payloadBytes !== rowCount * this.runner.rowBytes) return `${payloadBytes} bytes for ${rowCount} rows`;
    return undefined;
  }
}
