// What a step samples leaves when the step is over: in one message for each gateway, since a message costs its receiver more than a token.
import type { Bus, Log } from "../contracts/bus.ts";
import { encodeDeltas, type OutputPart } from "../contracts/deltas.ts";

/** An attempt's output as it grows. */
export interface DeltaSource {
  replySubject: string;
  /** Tokens. */
  readonly output: { readonly length: number };
  /** Of them so many went out at least once. */
  sent: number;
  /** Of the tokens [from, until). */
  part(from: number, until: number): OutputPart;
}

interface Range {
  source: DeltaSource;
  from: number;
  until: number;
}

export class DeltaSender {
  private readonly bus: Bus;
  private readonly log: Log;
  private marked = new Set<DeltaSource>();

  constructor(bus: Bus, log: Log) {
    this.bus = bus;
    this.log = log;
  }

  /** There is something new, tokens or an end: it leaves soon, together with what others have by then. */
  mark(source: DeltaSource): void {
    if (this.marked.size === 0) queueMicrotask(() => this.flush());
    this.marked.add(source);
  }

  /** Sends output [from, from + most) now. */
  send(source: DeltaSource, from: number, most = Number.POSITIVE_INFINITY): void {
    this.publish(source.replySubject, [{ source, from, until: Math.max(from, Math.min(source.output.length, from + most)) }]);
  }

  private flush(): void {
    const bySubject = new Map<string, Range[]>();
    for (const source of this.marked) {
      const range = { source, from: source.sent, until: source.output.length };
      const others = bySubject.get(source.replySubject);
      if (others === undefined) bySubject.set(source.replySubject, [range]);
      else others.push(range);
    }
    this.marked = new Set();
    for (const [subject, ranges] of bySubject) this.publish(subject, ranges);
  }

  /** In halves where one message cannot hold it all: a token with the most likely ones beside it takes half a kilobyte. */
  private publish(subject: string, ranges: Range[]): void {
    const message = encodeDeltas(ranges.map(({ source, from, until }) => source.part(from, until)));
    const halves = message.length > this.bus.maxPayloadBytes ? halve(ranges) : null;
    if (halves !== null) {
      for (const half of halves) this.publish(subject, half);
      return;
    }
    try {
      this.bus.publish(subject, message);
    } catch (error) {
      // While disconnected, say: the gateway asks again from its position.
      this.log.debug({ subject, error: String(error) }, "not sent");
      return;
    }
    for (const { source, until } of ranges) source.sent = Math.max(source.sent, until);
  }
}

function halve(ranges: Range[]): [Range[], Range[]] | null {
  const [first] = ranges;
  if (first === undefined) return null;
  if (ranges.length > 1) {
    const middle = ranges.length >> 1;
    return [ranges.slice(0, middle), ranges.slice(middle)];
  }
  const { source, from, until } = first;
  if (until - from < 2) return null;
  const middle = (from + until) >> 1;
  return [[{ source, from, until: middle }], [{ source, from: middle, until }]];
}
