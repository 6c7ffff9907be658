// Where one attempt's time went at its decode worker: for metrics, the gateway's time line, and spans.
import type { RequestTimings } from "../contracts/messages.ts";
import { reportPhases, type Tracer } from "../contracts/trace.ts";
import { addChunk, type Chunk, reportChunks, type ReceivedTransfer } from "./transfer-times.ts";

export class AttemptTimes {
  readonly receivedMs: number;
  private readonly transfers: ReceivedTransfer[] = [];
  private readonly chunks: Chunk[] = [];
  private reservedMs: number | undefined;
  private fetches = false;
  private fetchedMs: number | undefined;
  private firstTokenMs: number | undefined;
  private endedMs: number | undefined;
  private readonly tracer: Tracer | undefined;
  private readonly parent: string | undefined;
  /** The attempt's own span, and those of its wait for rows and of its first step. */
  private readonly context: string | undefined;
  private readonly fetchContext: string | undefined;

  /** `parent`: the gateway's span; absent: not traced. */
  constructor(nowMs: number, tracer: Tracer | undefined, parent: string | undefined) {
    this.receivedMs = nowMs;
    if (tracer === undefined || parent === undefined) return;
    this.tracer = tracer;
    this.parent = parent;
    this.context = tracer.child(parent);
    this.fetchContext = tracer.child(this.context);
  }

  /** False: it had blocks before (a preempted request takes them again). */
  reserved(nowMs: number, fetches: boolean): boolean {
    if (this.reservedMs !== undefined) return false;
    this.reservedMs = nowMs;
    this.fetches = fetches;
    return true;
  }

  /** Rows are asked for; whoever asks writes down what comes of it. */
  asked(workerId: string, nowMs: number): ReceivedTransfer {
    const { tracer, fetchContext } = this;
    const transfer: ReceivedTransfer = {
      workerId,
      context: fetchContext && tracer?.child(fetchContext),
      startMs: nowMs,
      endMs: undefined,
      rows: 0,
      bytes: 0,
      failed: undefined,
      sender: undefined,
    };
    this.transfers.push(transfer);
    return transfer;
  }

  fetched(nowMs: number): void {
    this.fetchedMs = nowMs;
  }

  computed(nowMs: number, firstRow: number, rowCount: number): void {
    if (this.tracer !== undefined && this.firstTokenMs === undefined) addChunk(this.chunks, { firstRow, rowCount, endMs: nowMs });
  }

  token(nowMs: number): void {
    this.firstTokenMs ??= nowMs;
  }

  ended(nowMs: number): void {
    this.endedMs = nowMs;
  }

  get timings(): RequestTimings {
    const { reservedMs, fetchedMs, firstTokenMs, endedMs, receivedMs, transfers } = this;
    const since = (ms: number, fromMs = receivedMs) => (ms - fromMs) / 1000;
    return {
      ...(reservedMs !== undefined && { queueSeconds: since(reservedMs) }),
      ...(reservedMs !== undefined && fetchedMs !== undefined && { fetchSeconds: since(fetchedMs, reservedMs) }),
      ...(firstTokenMs !== undefined && { firstTokenSeconds: since(firstTokenMs) }),
      ...(endedMs !== undefined && { totalSeconds: since(endedMs) }),
      ...(transfers.length > 0 && {
        transfers: transfers.flatMap(({ workerId, startMs, endMs, sender }) =>
          endMs === undefined
            ? []
            : [{ workerId, startSeconds: since(startMs), seconds: since(endMs, startMs), ...(sender && { sender }) }],
        ),
      }),
    };
  }

  /** Once, behind `ended`. */
  report(attributes: Record<string, string | number>, failed: string | undefined): void {
    const { tracer, context, parent, fetchContext, receivedMs, reservedMs, firstTokenMs, endedMs } = this;
    if (tracer === undefined || context === undefined || parent === undefined || endedMs === undefined) return;
    const fetchedMs = this.fetches ? (this.fetchedMs ?? endedMs) : undefined;
    const first = tracer.child(context);
    reportPhases(tracer, context, receivedMs, [
      ["decode.queue", reservedMs ?? endedMs],
      ["decode.remote_prefill", fetchedMs, fetchContext],
      [this.fetches ? "decode.first_step" : "decode.prefill_and_first_step", firstTokenMs, first],
      ["decode.steps", firstTokenMs === undefined ? undefined : endedMs],
    ]);
    for (const transfer of this.transfers) {
      if (transfer.context === undefined || fetchContext === undefined) continue;
      tracer.report({
        context: transfer.context,
        parent: fetchContext,
        name: "decode.fetch",
        kind: "client",
        startMs: transfer.startMs,
        endMs: transfer.endMs ?? endedMs,
        attributes: { "pelagic.sender": transfer.workerId, "pelagic.rows": transfer.rows, "pelagic.received_bytes": transfer.bytes },
        ...(transfer.failed !== undefined && { failed: transfer.failed }),
      });
    }
    const computingSinceMs = fetchedMs ?? reservedMs;
    if (firstTokenMs !== undefined && computingSinceMs !== undefined) reportChunks(tracer, first, computingSinceMs, this.chunks);
    tracer.report({
      ...{ context, parent, name: "decode", kind: "server", startMs: receivedMs, endMs: endedMs, attributes },
      ...(failed !== undefined && { failed }),
    });
  }
}
