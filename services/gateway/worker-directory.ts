// Keeps a StateView fed from the bus: listens, asks for snapshots at the start, after a gap and after an outage, and notices silence.
import type { Bus, BusSubscription, Clock, Log } from "../lib/contracts/bus.ts";
import { WorkerState } from "../lib/contracts/messages.ts";
import type { Subjects } from "../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import { type RoutingSnapshot, StateView, type WorkerInstance } from "./state-view.ts";

const checkMs = 250;
/**
 * A check that comes so late means that this process stood still, an answer to a probe that the bus did: what workers said meanwhile is
 * still to be read. A shorter pause and a heartbeat are not yet a silence.
 */
const pausedMs = 1_000;
const probePausedMs = 750;
/** Every gateway's request makes every worker send all its keys: not for each lost message anew. */
const snapshotRequestGapMs = 500;

export interface WorkerDirectoryOptions {
  bus: Bus;
  clock: Clock;
  subjects: Subjects;
  log: Log;
  /** The instance takes no more messages and sends none: it stopped, was replaced, or fell silent. */
  onGone(instance: WorkerInstance): void;
  /** The instance takes no new work. Called with each of its messages that say so. */
  onDraining?(instance: WorkerInstance): void;
}

export class WorkerDirectory {
  readonly view = new StateView();
  private readonly options: WorkerDirectoryOptions;
  private readonly subscription: BusSubscription;
  private stopTimer: () => void = () => {};
  private wasConnected = true;
  /** The bus was seen to work at this time: silence after it is nobody's. */
  private heardUntilMs: number;
  private probing = false;
  private snapshotWanted = true;
  private askedAtMs = Number.NEGATIVE_INFINITY;
  private checkedAtMs: number;

  constructor(options: WorkerDirectoryOptions) {
    this.options = options;
    this.checkedAtMs = options.clock.nowMs();
    this.heardUntilMs = this.checkedAtMs;
    this.subscription = options.bus.subscribe(options.subjects.allStates, (message) => this.onState(message.data));
    options.bus.onReconnect(() => this.reconnected());
    this.check();
  }

  /** During an outage of the bus, or while it stands still: as things stood before. */
  snapshot(): RoutingSnapshot {
    return this.view.snapshot(this.heardUntilMs);
  }

  close(): void {
    this.stopTimer();
    this.subscription.unsubscribe();
  }

  private onState(data: Uint8Array): void {
    const state = decodeMessage(WorkerState, data).body;
    const { current, gap, gone } = this.view.apply(state, this.options.clock.nowMs());
    if (gone !== null) this.options.onGone(gone);
    if (current && state.state === "draining") this.options.onDraining?.({ workerId: state.workerId, instanceId: state.instanceId });
    if (gap) {
      this.snapshotWanted = true;
      this.ask();
    }
  }

  private reconnected(): void {
    this.view.forgiveSilence(this.options.clock.nowMs());
    this.snapshotWanted = true;
    this.askedAtMs = Number.NEGATIVE_INFINITY;
    this.ask();
  }

  private check(): void {
    const { bus, clock, log, onGone } = this.options;
    if (clock.nowMs() - this.checkedAtMs > pausedMs) this.view.forgiveSilence(clock.nowMs());
    this.checkedAtMs = clock.nowMs();
    if (bus.connected) {
      if (!this.wasConnected) this.reconnected();
      if (!this.probing) void this.probe();
      for (const instance of this.view.expire(this.heardUntilMs)) {
        log.warn(instance, "worker fell silent");
        onGone(instance);
      }
      this.ask();
    }
    this.wasConnected = bus.connected;
    this.stopTimer = clock.setTimer(checkMs, () => this.check());
  }

  /** A server that hangs keeps its connections: only an answer shows that workers could be heard. */
  private async probe(): Promise<void> {
    const { bus, clock } = this.options;
    const askedMs = clock.nowMs();
    this.probing = true;
    try {
      await bus.flush();
      if (clock.nowMs() - askedMs > probePausedMs) this.view.forgiveSilence(clock.nowMs());
      this.heardUntilMs = askedMs;
    } catch {
      // An outage: the reconnection forgives.
    } finally {
      this.probing = false;
    }
  }

  private ask(): void {
    const { bus, clock, subjects } = this.options;
    if (!this.snapshotWanted || !bus.connected || clock.nowMs() - this.askedAtMs < snapshotRequestGapMs) return;
    this.askedAtMs = clock.nowMs();
    this.snapshotWanted = false;
    try {
      bus.publish(subjects.stateRequest, encodeMessage({}));
    } catch {
      this.snapshotWanted = true;
    }
  }
}
