// Gets rows of a sequence from workers that have or compute them, the counterpart of row-server.ts: one source after another, each transfer under
// one credit budget, until the rows are here or nobody is left to ask. Whatever goes wrong, rows that came whole are kept.
import { kvBlockTokens } from "../contracts/block-key.ts";
import type { Bus, BusMessage, Clock, Log } from "../contracts/bus.ts";
import type { KvDtype } from "../contracts/frame.ts";
import { RowsReply, type Standing, TransferNotice } from "../contracts/messages.ts";
import { decodeMessage, encodeMessage } from "../contracts/wire.ts";
import { CreditBudget } from "./credit-budget.ts";
import type { Outage } from "./outage.ts";
import { type Arrival, TransferReceiver } from "./transfer-receiver.ts";
import type { ReceivedTransfer } from "./transfer-times.ts";
import type { WorkerCore } from "./worker-core.ts";

const rowsReplyMs = 1_000;
/** A worker that sends rows says something at least every 500 ms. */
const senderSilenceMs = 2_500;
/** Frames that left so long ago and are not here are lost: all that may be on its way fits in the receive budget. */
const frameLossMs = 1_000;
/** A frame that was asked for again is asked for once more after so long, and the transfer is void after so many times in vain. */
const resendGapMs = 300;
const maxResendsInVain = 5;
/** So long without a new row, and the next source is asked. */
const senderSlowMs = 15_000;
const creditHeartbeatMs = 500;
const rememberedTransfers = 64;

export interface RowSource {
  workerId: string;
  /** It has, or computes, rows [0, endRow). */
  endRow: number;
  /** It prefills; otherwise it is asked only for what it has. */
  prefills: boolean;
}

export interface RowFetch {
  /** The engine's name of the request, whose block table takes the rows. */
  id: string;
  requestId: string;
  tokens: Uint32Array;
  promptLength: number;
  cacheSalt: string;
  /** As of now. */
  standing(): Standing | undefined;
  deadlineAtMs: number;
  leaseMs: number;
  /** Whom to ask, best first. */
  sources: readonly RowSource[];
  /** A source is asked: what comes of it is written into the answer. */
  onAsk(source: RowSource): ReceivedTransfer;
  /** A source sent all it was asked for, of which it had so many rows before it was asked. */
  onSource(source: RowSource, cachedRows: number): void;
  /** Rows [0, rows) are here, and nobody has more. */
  onDone(rows: number): void;
  onError(error: unknown): void;
}

interface Transfer {
  id: string;
  source: RowSource;
  receiver: TransferReceiver;
  unsubscribe: () => void;
  account: ReceivedTransfer;
  lastHeardMs: number;
  /** As the sender last reported. */
  sentFrames: number;
  lastRowMs: number;
  lastCreditMs: number;
  /** The last time a frame was asked for again, and how often since the last new row. */
  askedAgainMs: number;
  resendsInVain: number;
}

interface Fetch extends RowFetch {
  left: RowSource[];
  transfer: Transfer | undefined;
}

export class RowFetcher {
  private readonly core: WorkerCore;
  private readonly control: Bus;
  private readonly data: Bus;
  private readonly outage: Outage;
  private readonly fewestRows: number;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly fetches = new Map<string, Fetch>();
  private readonly transfers = new Map<string, Fetch>();
  /** Whose sender may yet say where its time went: that comes on another connection than its last frame. */
  private readonly ended = new Map<string, ReceivedTransfer>();
  private readonly credits: CreditBudget;
  onTransferEnd: (end: { outcome: "complete" | "failed"; bytes: number; seconds: number }) => void = () => {};

  /** `data` is a connection of its own. Fewer missing rows than `fewestRows` are not worth a transfer. */
  constructor(core: WorkerCore, control: Bus, data: Bus, outage: Outage, options: { fewestRows: number; budgetBytes: number }) {
    this.core = core;
    this.control = control;
    this.data = data;
    this.outage = outage;
    this.fewestRows = options.fewestRows;
    this.clock = core.clock;
    this.log = core.log;
    this.credits = new CreditBudget(options.budgetBytes);
    control.subscribe(core.subjects.notices(core.workerId), (message) => this.onNotice(message));
    control.onReconnect(() => this.heal());
    data.onReconnect(() => this.heal());
  }

  /** Granted to senders and not yet received. */
  get outstandingBytes(): number {
    return this.credits.outstandingBytes;
  }

  get running(): number {
    return this.fetches.size;
  }

  /** Rows [0, haveRows) are in the cache already. */
  start(fetch: RowFetch, haveRows: number): void {
    const started = { ...fetch, left: [...fetch.sources], transfer: undefined };
    this.fetches.set(fetch.id, started);
    this.next(started, haveRows);
  }

  /** Nobody wants them any more. Without effect where nothing is under way. */
  stop(id: string): void {
    const fetch = this.fetches.get(id);
    if (fetch === undefined) return;
    this.fetches.delete(id);
    this.endTransfer(fetch, "abort");
  }

  stopAll(): void {
    for (const id of [...this.fetches.keys()]) this.stop(id);
  }

  /** Asks the next source for what is missing after `haveRows`, or is done. */
  private next(fetch: Fetch, haveRows: number): void {
    for (let source = fetch.left.shift(); source !== undefined; source = fetch.left.shift()) {
      const missing = source.endRow - haveRows;
      if (missing <= 0 || missing < this.fewestRows) continue;
      this.ask(fetch, source, haveRows).catch((error: unknown) => fetch.onError(error));
      return;
    }
    this.fetches.delete(fetch.id);
    fetch.onDone(haveRows);
  }

  private async ask(fetch: Fetch, source: RowSource, firstRow: number): Promise<void> {
    const { core } = this;
    const id = core.freshId(16);
    const { endRow } = source;
    const receiver = new TransferReceiver(
      core.runner,
      { transferId: id, kvDtype: core.identity.kvDtype as KvDtype, firstRow, endRow },
      core.engine.table(fetch.id),
    );
    const subscription = this.data.subscribe(core.subjects.frames(core.workerId, id), (message) => this.onFrame(fetch, id, message.data));
    const now = this.clock.nowMs();
    const account = fetch.onAsk(source);
    fetch.transfer = {
      id,
      source,
      receiver,
      unsubscribe: () => subscription.unsubscribe(),
      account,
      lastHeardMs: now,
      sentFrames: 0,
      lastRowMs: now,
      lastCreditMs: now,
      askedAgainMs: Number.NEGATIVE_INFINITY,
      resendsInVain: 0,
    };
    this.transfers.set(id, fetch);
    this.credits.open(id, receiver.totalBytes);
    this.distributeCredits(id);
    try {
      // The subscription must stand before the sender can publish to it: they are different connections.
      await this.data.flush();
      if (fetch.transfer?.id !== id) return;
      const answer = await this.control.request(
        core.subjects.rows(source.workerId),
        encodeMessage(
          {
            requestId: fetch.requestId,
            transferId: id,
            decodeWorkerId: core.workerId,
            ...core.identity,
            cacheSalt: fetch.cacheSalt,
            standing: fetch.standing(),
            firstRow,
            endRow,
            promptLength: fetch.promptLength,
            deadlineMs: Math.max(0, fetch.deadlineAtMs - this.clock.nowMs()),
            grantedBytes: this.credits.grantedBytes(id),
            ...(source.prefills ? {} : { onlyCached: true }),
            ...(account.context !== undefined && { trace: account.context }),
          },
          fetch.tokens.subarray(0, endRow),
        ),
        rowsReplyMs,
      );
      const { body } = decodeMessage(RowsReply, answer);
      if (body.kind !== "accepted") throw new Error(body.kind === "busy" ? `busy: ${body.reason}` : body.error.message);
    } catch (error) {
      this.giveUp(fetch, id, error instanceof Error ? error.message : String(error));
    }
  }

  private onFrame(fetch: Fetch, id: string, frame: Uint8Array): void {
    const { transfer } = fetch;
    if (transfer?.id !== id) return;
    const now = this.clock.nowMs();
    transfer.lastHeardMs = now;
    let arrival: Arrival;
    try {
      arrival = transfer.receiver.accept(frame);
    } catch (error) {
      this.giveUp(fetch, id, error instanceof Error ? error.message : String(error));
      return;
    }
    const { storedBytes, missing } = arrival;
    if (storedBytes > 0) {
      transfer.lastRowMs = now;
      transfer.resendsInVain = 0;
      transfer.askedAgainMs = Number.NEGATIVE_INFINITY;
      this.credits.received(id, storedBytes);
      this.core.receivedBytes += storedBytes;
    }
    if (missing !== undefined && !transfer.receiver.complete) {
      if (storedBytes > 0) this.distributeCredits();
      this.askAgain(fetch, transfer, missing);
      return;
    }
    if (storedBytes === 0) return;
    if (!transfer.receiver.complete) {
      this.distributeCredits();
      return;
    }
    const { completeRows, cachedRows, receivedBytes } = transfer.receiver;
    const seconds = this.endTransfer(fetch, "complete");
    this.onTransferEnd({ outcome: "complete", bytes: receivedBytes, seconds });
    this.core.noteTransfer(receivedBytes, seconds);
    fetch.onSource(transfer.source, cachedRows);
    // A peer's whole blocks may end before the prompt does: then prefill has the rest.
    this.next(fetch, completeRows);
  }

  /** The frame that is due was lost or damaged on its way: the sender has its place and sends it, and all after it, again. */
  private askAgain(fetch: Fetch, transfer: Transfer, reason: string): void {
    const now = this.clock.nowMs();
    if (now - transfer.askedAgainMs < resendGapMs) return;
    if (transfer.resendsInVain >= maxResendsInVain) {
      this.giveUp(fetch, transfer.id, `${reason}; asked ${maxResendsInVain} times in vain`);
      return;
    }
    transfer.askedAgainMs = now;
    transfer.resendsInVain++;
    this.log.debug({ transfer: transfer.id, frame: transfer.receiver.frames, reason }, "asking again");
    this.sendCredit(transfer, { resend: true });
  }

  private giveUp(fetch: Fetch, id: string, reason: string): void {
    const { transfer } = fetch;
    if (transfer?.id !== id) return;
    const { completeRows: rows, receivedBytes } = transfer.receiver;
    this.log.warn({ request: fetch.requestId, sender: transfer.source.workerId, rows, reason }, "transfer given up");
    const seconds = this.endTransfer(fetch, "abort");
    this.onTransferEnd({ outcome: "failed", bytes: receivedBytes, seconds });
    this.next(fetch, rows);
  }

  /** Returns how many seconds it took. */
  private endTransfer(fetch: Fetch, end: "complete" | "abort"): number {
    const { transfer } = fetch;
    if (!transfer) return 0;
    const { account, receiver } = transfer;
    account.endMs = this.clock.nowMs();
    account.rows = receiver.completeRows - receiver.firstRow;
    account.bytes = receiver.receivedBytes;
    if (end !== "complete") account.failed = "aborted";
    this.rememberEnded(transfer);
    fetch.transfer = undefined;
    this.transfers.delete(transfer.id);
    transfer.unsubscribe();
    this.sendCredit(transfer, { end });
    this.credits.close(transfer.id);
    this.distributeCredits();
    return (account.endMs - account.startMs) / 1000;
  }

  private rememberEnded({ id, account }: Transfer): void {
    this.ended.set(id, account);
    for (const oldest of this.ended.keys()) {
      if (this.ended.size <= rememberedTransfers) return;
      this.ended.delete(oldest);
    }
  }

  private distributeCredits(except?: string): void {
    for (const id of this.credits.distribute(kvBlockTokens * this.core.runner.rowBytes)) {
      const transfer = this.transfers.get(id)?.transfer;
      if (transfer && id !== except) this.sendCredit(transfer);
    }
  }

  private sendCredit(transfer: Transfer, more: { end?: "complete" | "abort"; resend?: true } = {}): void {
    transfer.lastCreditMs = this.clock.nowMs();
    const subject = this.core.subjects.credit(transfer.source.workerId, transfer.id);
    const body = {
      transferId: transfer.id,
      grantedBytes: this.credits.grantedBytes(transfer.id),
      receivedFrames: transfer.receiver.frames,
      ...more,
    };
    try {
      this.control.publish(subject, encodeMessage(body));
    } catch (error) {
      // Disconnected: heal() says it all again.
      this.log.debug({ subject, error: String(error) }, "not sent");
    }
  }

  private onNotice(message: BusMessage): void {
    const { body } = decodeMessage(TransferNotice, message.data);
    const fetch = this.transfers.get(body.transferId);
    if (body.kind === "alive" && body.timings !== undefined) {
      const account = fetch?.transfer?.account ?? this.ended.get(body.transferId);
      if (account) account.sender = body.timings;
    }
    if (!fetch?.transfer) return;
    if (body.kind === "failed") {
      this.giveUp(fetch, body.transferId, body.error.message);
    } else {
      fetch.transfer.lastHeardMs = this.clock.nowMs();
      fetch.transfer.sentFrames = body.sentFrames;
    }
  }

  /** After an outage nobody is to blame for silence. Transfers go on from their position. */
  private heal(): void {
    const now = this.clock.nowMs();
    for (const { transfer } of this.transfers.values()) {
      if (!transfer) continue;
      transfer.lastHeardMs = now;
      transfer.lastRowMs = now;
      this.sendCredit(transfer, { resend: true });
    }
  }

  /** To be called regularly: looks after transfers that are silent, slow or short of a frame. */
  tick(): void {
    const now = this.clock.nowMs();
    for (const [id, fetch] of [...this.transfers]) {
      const { transfer } = fetch;
      if (!transfer) continue;
      if (now - transfer.lastHeardMs > senderSilenceMs && !this.outage.excuses(fetch.leaseMs)) {
        this.giveUp(fetch, id, `${transfer.source.workerId} fell silent`);
      } else if (now - transfer.lastRowMs > senderSlowMs) {
        this.giveUp(fetch, id, `${transfer.source.workerId} is slow`);
      } else if (transfer.sentFrames > transfer.receiver.frames && now - transfer.lastRowMs > frameLossMs) {
        this.askAgain(fetch, transfer, `${transfer.sentFrames - transfer.receiver.frames} frames were lost`);
      } else if (now - transfer.lastCreditMs > creditHeartbeatMs) {
        this.sendCredit(transfer);
      }
    }
  }
}
