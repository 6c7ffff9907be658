// Sends rows of a sequence to a decode worker that asks for them, computing those that are not cached: all that a prefill worker does, and
// what a decode worker does for the peers that take over its requests. Never a token. Each transfer holds its blocks until the receiver has
// every row, gives up, or falls silent for longer than the lease.
import type { Bus, BusMessage, Clock, Log } from "../contracts/bus.ts";
import { PelagicError, toPelagicError } from "../contracts/errors.ts";
import { Credit, RowsRequest, type SenderTimings, type TransferNotice } from "../contracts/messages.ts";
import type { Tracer } from "../contracts/trace.ts";
import { DamagedMessage, decodeMessage, encodeMessage } from "../contracts/wire.ts";
import { Outage } from "./outage.ts";
import { RecentIds } from "./recent-ids.ts";
import { standingAt } from "./standing.ts";
import { TransferSender } from "./transfer-sender.ts";
import { SentTransfer } from "./transfer-times.ts";
import type { WorkerCore } from "./worker-core.ts";

/** Receivers send credits at least every 500 ms; one that is silent for so long is gone. */
export const transferLeaseMs = 3_000;
const aliveMs = 500;
const busyRetryMs = 200;

type Notice = Omit<Extract<TransferNotice, { kind: "alive" }>, "v"> | Omit<Extract<TransferNotice, { kind: "failed" }>, "v">;

/** For metrics. */
export interface TransferEnd {
  outcome: "complete" | "aborted" | "failed";
  bytes: number;
  resentFrames: number;
  /** undefined: not all of it was sent. */
  timings: SenderTimings | undefined;
}

interface Transfer {
  request: RowsRequest;
  sender: TransferSender;
  leaseUntilMs: number;
  deadlineMs: number;
  unsubscribe: () => void;
  times: SentTransfer;
}

export class RowServer {
  private readonly core: WorkerCore;
  private readonly control: Bus;
  private readonly data: Bus;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly servesWhileDraining: boolean;
  private readonly tracer: Tracer | undefined;
  private readonly outage: Outage;
  private readonly transfers = new Map<string, Transfer>();
  private readonly ended = new RecentIds();
  /** Of transfers that are over. */
  private endedBytes = 0;
  private stopTimer: () => void = () => {};
  /** Rows sent, for metrics. */
  onTransferEnd: (end: TransferEnd) => void = () => {};

  /** `data` is a connection of its own: control messages do not queue behind frames. */
  constructor(core: WorkerCore, control: Bus, data: Bus, options: { servesWhileDraining: boolean; tracer?: Tracer }) {
    this.core = core;
    this.control = control;
    this.data = data;
    this.clock = core.clock;
    this.log = core.log;
    this.servesWhileDraining = options.servesWhileDraining;
    this.tracer = options.tracer;
    this.outage = new Outage(control, core.clock);
    core.sentBytes = () => [...this.transfers.values()].reduce((sum, { sender }) => sum + sender.sentBytes, this.endedBytes);
    control.subscribe(core.subjects.rows(core.workerId), (message) => this.onRequest(message));
    control.onReconnect(() => this.heal());
    data.onReconnect(() => this.heal());
    this.tick();
  }

  get activeTransfers(): number {
    return this.transfers.size;
  }

  stop(): void {
    this.stopTimer();
    for (const id of [...this.transfers.keys()]) this.end(id, new PelagicError("shutting_down", "the sending worker is stopping"));
  }

  private onRequest(message: BusMessage): void {
    const reply = (body: object) => message.respond?.(encodeMessage(body));
    try {
      const { body, tokens } = decodeMessage(RowsRequest, message.data);
      const mine = this.core.identity;
      if (this.core.draining && !this.servesWhileDraining) {
        reply({ kind: "busy", reason: "draining", retryAfterMs: busyRetryMs });
        return;
      }
      if (body.numericsId !== mine.numericsId || body.modelDigest !== mine.modelDigest || body.kvDtype !== mine.kvDtype) {
        throw new PelagicError(
          "numerics_mismatch",
          `decode ${body.decodeWorkerId} has numerics ${body.numericsId.slice(0, 12)} (${body.kvDtype}), this worker ${mine.numericsId.slice(0, 12)} (${mine.kvDtype}): blocks move only between equals`,
        );
      }
      if (tokens.length !== body.endRow || body.firstRow >= body.endRow) {
        throw new PelagicError("internal", `rows ${body.firstRow} to ${body.endRow}, ${tokens.length} token ids`);
      }
      if (this.ended.has(body.transferId)) throw new PelagicError("cancelled", "the transfer is over");
      if (!this.transfers.has(body.transferId)) {
        if (body.onlyCached && this.core.engine.cachedRows(tokens, body.cacheSalt) < body.endRow) {
          throw new PelagicError("overloaded", "not all of these rows are cached");
        }
        this.begin(body, tokens);
      }
      reply({ kind: "accepted" });
    } catch (error) {
      if (error instanceof DamagedMessage) throw error;
      const failure = toPelagicError(error);
      if (failure.code === "overloaded") reply({ kind: "busy", reason: failure.message, retryAfterMs: busyRetryMs });
      else reply({ kind: "error", error: { code: failure.code, message: failure.message } });
    }
  }

  private begin(request: RowsRequest, tokens: Uint32Array): void {
    const id = request.transferId;
    const { engine, runner } = this.core;
    const sender = new TransferSender(
      runner,
      this.data,
      this.core.subjects.frames(request.decodeWorkerId, id),
      request,
      () => engine.table(id),
      (error) => this.end(id, toPelagicError(error)),
    );
    const credits = this.control.subscribe(this.core.subjects.credit(this.core.workerId, id), (message) => this.onCredit(message));
    const now = this.clock.nowMs();
    const transfer: Transfer = {
      request,
      sender,
      leaseUntilMs: now + transferLeaseMs,
      deadlineMs: now + request.deadlineMs,
      unsubscribe: () => credits.unsubscribe(),
      times: new SentTransfer(now),
    };
    this.transfers.set(id, transfer);
    sender.onSent = () => {
      transfer.times.sent(this.clock.nowMs());
      this.sayAlive(id, transfer);
    };
    const guarded = (send: () => void) => {
      if (!this.transfers.has(id)) return;
      try {
        send();
      } catch (error) {
        this.end(id, toPelagicError(error));
      }
    };
    try {
      engine.submit({
        id,
        tokens,
        promptLength: request.promptLength,
        cacheSalt: request.cacheSalt,
        standing: standingAt(request, now),
        mode: "rows",
        maxTokens: 0,
        stopTokenIds: new Set(),
        sampling: null,
        listener: {
          onReserved: (hitRows) =>
            guarded(() => {
              transfer.times.reserved(this.clock.nowMs());
              for (let layer = 0; layer < runner.info.layerCount; layer++) sender.rowsReady(layer, 0, hitRows, true);
            }),
          onLayerRows: (layer, firstRow, rowCount) =>
            guarded(() => {
              transfer.times.computed(this.clock.nowMs(), firstRow, rowCount, layer === runner.info.layerCount - 1);
              sender.rowsReady(layer, firstRow, rowCount);
            }),
          onEnd: (end) => {
            if (end.kind === "error") this.end(id, end.error);
          },
        },
      });
    } catch (error) {
      this.forget(id);
      throw error;
    }
  }

  private onCredit(message: BusMessage): void {
    const { body } = decodeMessage(Credit, message.data);
    const transfer = this.transfers.get(body.transferId);
    if (!transfer) return;
    transfer.leaseUntilMs = this.clock.nowMs() + transferLeaseMs;
    if (body.end) {
      this.report(transfer, body.end === "complete" ? "complete" : "aborted");
      this.free(body.transferId, new PelagicError("cancelled", "the receiver ended the transfer"));
      return;
    }
    try {
      transfer.sender.acknowledge(body.receivedFrames);
      if (body.resend) transfer.sender.resend(body.receivedFrames);
      transfer.sender.grant(body.grantedBytes);
    } catch (error) {
      this.end(body.transferId, toPelagicError(error));
    }
  }

  /** A transfer that cannot go on: the receiver is told, and finds the rows elsewhere. */
  private end(id: string, error: PelagicError): void {
    const transfer = this.transfers.get(id);
    if (!transfer) return;
    this.log.warn({ request: transfer.request.requestId, transfer: id, error: error.message }, "transfer failed");
    this.report(transfer, "failed");
    this.tell(transfer, { kind: "failed", transferId: id, error: { code: error.code, message: error.message } });
    this.free(id, error);
  }

  private report({ request, sender, times }: Transfer, outcome: TransferEnd["outcome"]): void {
    this.onTransferEnd({ outcome, bytes: sender.sentBytes, resentFrames: sender.resentFrames, timings: times.timings });
    if (this.tracer === undefined || request.trace === undefined) return;
    times.report(
      this.tracer,
      request.trace,
      this.clock.nowMs(),
      {
        "pelagic.request_id": request.requestId,
        "pelagic.worker_id": this.core.workerId,
        "pelagic.first_row": request.firstRow,
        "pelagic.end_row": request.endRow,
        "pelagic.sent_bytes": sender.sentBytes,
      },
      outcome === "complete" ? undefined : outcome,
    );
  }

  private free(id: string, error: PelagicError): void {
    this.forget(id);
    this.ended.add(id);
    this.core.engine.release(id);
    this.core.engine.cancel(id, error);
  }

  private forget(id: string): void {
    const transfer = this.transfers.get(id);
    if (transfer === undefined) return;
    this.endedBytes += transfer.sender.sentBytes;
    transfer.sender.close();
    transfer.unsubscribe();
    this.transfers.delete(id);
  }

  private sayAlive(id: string, transfer: Transfer): void {
    const { timings } = transfer.times;
    this.tell(transfer, { kind: "alive", transferId: id, sentFrames: transfer.sender.sentFrames, ...(timings && { timings }) });
  }

  private tell(transfer: Transfer, notice: Notice): void {
    try {
      this.control.publish(this.core.subjects.notices(transfer.request.decodeWorkerId), encodeMessage(notice));
    } catch {
      // Disconnected: the receiver's own bound on silence ends its wait.
    }
  }

  /** After an outage nobody is to blame for silence, and what became ready meanwhile goes out. */
  private heal(): void {
    const now = this.clock.nowMs();
    for (const transfer of this.transfers.values()) {
      transfer.leaseUntilMs = Math.max(transfer.leaseUntilMs, now + transferLeaseMs);
      transfer.sender.send();
    }
  }

  private tick(): void {
    this.outage.look();
    const now = this.clock.nowMs();
    for (const [id, transfer] of [...this.transfers]) {
      if (now > transfer.leaseUntilMs && !this.outage.excuses(transferLeaseMs)) {
        this.end(id, new PelagicError("worker_lost", "the receiver fell silent"));
      } else if (now > transfer.deadlineMs) {
        this.end(id, new PelagicError("deadline_exceeded", "the request's deadline passed"));
      } else {
        this.sayAlive(id, transfer);
      }
    }
    this.stopTimer = this.clock.setTimer(aliveMs, () => this.tick());
  }
}
