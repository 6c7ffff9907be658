// A worker's account of itself on the bus: a heartbeat, and sooner when something changed. Block keys go out as numbered deltas; whoever
// saw a gap or has just started asks for a snapshot.
import type { Bus, Clock, Log } from "../contracts/bus.ts";
import type { WorkerState } from "../contracts/messages.ts";
import type { Subjects } from "../contracts/subjects.ts";
import { encodeMessage } from "../contracts/wire.ts";
import { shortKey } from "../contracts/block-key.ts";
import type { BlockManager } from "./block-manager.ts";

export const heartbeatMs = 500;
/** Changes within this time leave together. */
const gatherMs = 20;

/** A short key and its quotes and comma are 19 bytes; the rest of the message is small. */
function maxSnapshotKeys(maxPayloadBytes: number): number {
  return Math.floor((maxPayloadBytes - 16 * 1024) / 20);
}

/** All of a WorkerState but what this file adds. */
export type WorkerReport = Omit<WorkerState, "v" | "heartbeatMs" | "position" | "snapshot" | "stored" | "removed">;

export class StatePublisher {
  private readonly bus: Bus;
  private readonly subject: string;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly blocks: BlockManager;
  private readonly report: () => WorkerReport;
  private position = 0;
  private snapshotWanted = true;
  private cancelTimer: () => void = () => {};
  private timerDueMs = 0;
  private stopped = false;

  constructor(options: { bus: Bus; subjects: Subjects; clock: Clock; log: Log; blocks: BlockManager; report: () => WorkerReport }) {
    this.bus = options.bus;
    this.subject = options.subjects.state(options.report().workerId);
    this.clock = options.clock;
    this.log = options.log;
    this.blocks = options.blocks;
    this.report = options.report;
    options.bus.subscribe(options.subjects.stateRequest, () => this.sendSnapshot());
    options.bus.onReconnect(() => this.sendSnapshot());
    this.publish();
  }

  changed(): void {
    this.schedule(gatherMs);
  }

  /** The last message. */
  stop(): void {
    this.publish();
    this.stopped = true;
    this.cancelTimer();
  }

  private sendSnapshot(): void {
    this.snapshotWanted = true;
    this.schedule(gatherMs);
  }

  private schedule(delayMs: number): void {
    if (this.stopped) return;
    const dueMs = this.clock.nowMs() + delayMs;
    if (dueMs >= this.timerDueMs) return;
    this.cancelTimer();
    this.timerDueMs = dueMs;
    this.cancelTimer = this.clock.setTimer(delayMs, () => this.publish());
  }

  /** Now, whatever is due. */
  publish(): void {
    if (this.stopped) return;
    this.cancelTimer();
    this.timerDueMs = Number.POSITIVE_INFINITY;
    // Events stay in the block manager while nobody can hear them.
    if (this.bus.connected) {
      const events = this.blocks.takeEvents();
      this.position += events.stored.length + events.removed.length;
      const message: Omit<WorkerState, "v"> = {
        ...this.report(),
        heartbeatMs,
        position: this.position,
        // What does not fit in a message is left out: routing is a guess anyway, and correctness never depends on it.
        ...(this.snapshotWanted ? { snapshot: this.blocks.keys().slice(-maxSnapshotKeys(this.bus.maxPayloadBytes)).map(shortKey) } : {}),
        stored: events.stored.map(shortKey),
        removed: events.removed.map(shortKey),
      };
      try {
        this.bus.publish(this.subject, encodeMessage(message));
        this.snapshotWanted = false;
      } catch (error) {
        // The delta is gone: only a snapshot makes it good.
        this.snapshotWanted = true;
        this.log.warn({ error: String(error) }, "worker state not sent");
      }
    }
    this.schedule(heartbeatMs);
  }
}
