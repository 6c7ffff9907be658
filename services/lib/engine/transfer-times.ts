// Where the time of one transfer of rows went, as each of its sides knows it: for metrics, time lines and spans.
import type { SenderTimings } from "../contracts/messages.ts";
import { reportPhases, type Tracer } from "../contracts/trace.ts";

/** The receiver's side. */
export interface ReceivedTransfer {
  workerId: string;
  /** Its span, which the sender's is a part of. */
  context: string | undefined;
  startMs: number;
  endMs: number | undefined;
  rows: number;
  bytes: number;
  /** Why it ended before its last row. */
  failed: string | undefined;
  /** What the sender said of itself; it may come after the last frame. */
  sender: SenderTimings | undefined;
}

export interface Chunk {
  firstRow: number;
  rowCount: number;
  endMs: number;
}

/** Spans of one request's chunks at most: a longer prompt's last ones are not told apart. */
const maxChunks = 64;

export function addChunk(chunks: Chunk[], chunk: Chunk): void {
  if (chunks.length < maxChunks) chunks.push(chunk);
}

export function reportChunks(tracer: Tracer, parent: string, startMs: number, chunks: readonly Chunk[]): void {
  let from = startMs;
  for (const { firstRow, rowCount, endMs } of chunks) {
    const attributes = { "pelagic.first_row": firstRow, "pelagic.end_row": firstRow + rowCount };
    tracer.report({ context: tracer.child(parent), parent, name: "chunk", kind: "internal", startMs: from, endMs, attributes });
    from = endMs;
  }
}

/** The sender's side. */
export class SentTransfer {
  private readonly startedMs: number;
  private readonly chunks: Chunk[] = [];
  private reservedMs: number | undefined;
  private computedMs: number | undefined;
  private sentMs: number | undefined;

  constructor(nowMs: number) {
    this.startedMs = nowMs;
  }

  reserved(nowMs: number): void {
    this.reservedMs ??= nowMs;
  }

  /** Some layer of these rows is computed; `whole`: the last one. */
  computed(nowMs: number, firstRow: number, rowCount: number, whole: boolean): void {
    this.computedMs = nowMs;
    if (whole) addChunk(this.chunks, { firstRow, rowCount, endMs: nowMs });
  }

  sent(nowMs: number): void {
    this.sentMs ??= nowMs;
  }

  /** undefined: not all frames have left. */
  get timings(): SenderTimings | undefined {
    const { startedMs, reservedMs, sentMs } = this;
    if (reservedMs === undefined || sentMs === undefined) return undefined;
    const computedMs = this.computedMs ?? reservedMs;
    return {
      queueSeconds: (reservedMs - startedMs) / 1000,
      computeSeconds: (computedMs - reservedMs) / 1000,
      sendSeconds: (sentMs - computedMs) / 1000,
    };
  }

  report(tracer: Tracer, parent: string, nowMs: number, attributes: Record<string, string | number>, failed: string | undefined): void {
    const { startedMs, reservedMs, computedMs } = this;
    // The receiver's word that it has all came after its own span had ended.
    const endMs = this.sentMs ?? nowMs;
    const context = tracer.child(parent);
    const compute = tracer.child(context);
    reportPhases(tracer, context, startedMs, [
      ["prefill.queue", reservedMs],
      ["prefill.compute", computedMs, compute],
      ["prefill.send", reservedMs === undefined ? undefined : endMs],
    ]);
    if (reservedMs !== undefined) reportChunks(tracer, compute, reservedMs, this.chunks);
    tracer.report({
      ...{ context, parent, name: "prefill", kind: "server", startMs: startedMs, endMs, attributes },
      ...(failed !== undefined && { failed }),
    });
  }
}
