// Everything that a gateway has running on decode workers: starts generations, keeps their leases, cancels attempts, notices workers that are
// gone or draining. The life of one request is generation.ts.
//
// Everything that waits is looked at by one timer for all requests, so that every wait has its bound in one place (Generation.check).
import { type Bus, BusError, type Clock, type FreshId, type Log, randomId } from "../lib/contracts/bus.ts";
import { decodeDeltas, type OutputPart } from "../lib/contracts/deltas.ts";
import { type PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import { ControlReply } from "../lib/contracts/messages.ts";
import type { Subjects } from "../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import { Generation, type GenerationRequest, type Routing } from "./generation.ts";

export interface DispatchClientOptions {
  bus: Bus;
  clock: Clock;
  subjects: Subjects;
  gatewayId: string;
  /** Decode cancels what no lease names for so long; also the longest outage of the bus that a request survives. */
  leaseMs: number;
  /** A request on which work was spent waits so long for a worker that can go on with it. */
  resumeWaitMs: number;
  log: Log;
  /** Decode has confirmed so long after an attempt was given up that nothing of it is left. */
  onCancelled?: (seconds: number) => void;
  freshId?: FreshId;
}

/** Between two looks at everything. */
const checkMs = 50;
/** Ends are acknowledged together, so long after the first: nobody waits for that. */
const ackMs = 20;
const cancelReplyMs = 1_000;
const cancelTries = 3;
/**
 * Nothing came from a worker's attempts for so long: is it still on the bus? The server answers at once where nobody listens any more, long
 * before heartbeats are missed. Not soon after an outage.
 */
const probeMs = 250;
const probeReplyMs = 1_000;
const afterOutageMs = 3_000;

export class DispatchClient {
  readonly options: DispatchClientOptions;
  private readonly live = new Set<Generation>();
  /** Where decode sends what these attempts sample. */
  readonly replySubject: string;
  private readonly attempts = new Map<string, Generation>();
  /** Ends that decode has not been told are here, by worker. */
  private readonly unacknowledged = new Map<string, string[]>();
  private stopAckTimer: (() => void) | null = null;
  /** Nothing begins any more. */
  private closedWith: PelagicError | null = null;
  private stopTimer: (() => void) | null = null;
  private leasedAtMs = Number.NEGATIVE_INFINITY;
  private cancelling = 0;
  /** Instances that drain: what they run is moved. */
  private draining = new Set<string>();
  /** When each worker was last probed. */
  private readonly probedAtMs = new Map<string, number>();
  private connectedSinceMs: number;

  constructor(options: DispatchClientOptions) {
    this.options = options;
    this.connectedSinceMs = Number.NEGATIVE_INFINITY;
    this.replySubject = options.subjects.deltas(options.gatewayId, (options.freshId ?? randomId)(12));
    options.bus.subscribe(this.replySubject, ({ data }) => {
      for (const part of decodeDeltas(data)) this.handOver(part);
    });
    options.bus.onReconnect(() => this.reconnected());
  }

  get running(): number {
    return this.live.size;
  }

  /** Attempts whose deltas would be taken. */
  get listening(): number {
    return this.attempts.size;
  }

  /** Requests that ended here and whose decode worker has not yet confirmed that it freed them. */
  get cancellationsPending(): number {
    return this.cancelling;
  }

  start(request: GenerationRequest, routing: Routing): Generation {
    const generation = new Generation(this, request, routing);
    this.live.add(generation);
    this.stopTimer ??= this.options.clock.setTimer(checkMs, () => this.check());
    if (this.closedWith === null) generation.begin();
    else generation.cancel(this.closedWith);
    return generation;
  }

  /** The instance will send no more: what it ran goes on elsewhere. */
  workerGone(instance: { workerId: string; instanceId: string }): void {
    this.draining.delete(instance.instanceId);
    for (const generation of [...this.live]) generation.workerGone(instance);
  }

  /** The instance takes no new work: what it runs moves, or ends there where that is sooner. */
  workerDraining({ instanceId }: { workerId: string; instanceId: string }): void {
    this.draining.add(instanceId);
    const now = this.options.clock.nowMs();
    for (const generation of [...this.live]) generation.check(now);
  }

  /** @internal */
  isDraining(instanceId: string | null): boolean {
    return instanceId !== null && this.draining.has(instanceId);
  }

  /** Ends everything that runs, and what is still to begin: a prompt may be on its way through the tokenizer. */
  cancelAll(error: PelagicError): void {
    this.closedWith = error;
    for (const generation of [...this.live]) generation.cancel(error);
  }

  /** Before the bus is closed: decode keeps an output until it is acknowledged, or its lease ends. */
  close(): void {
    this.sendAcks();
  }

  /** The others of its message are not to wait for one that fails. */
  private handOver(part: OutputPart): void {
    const generation = this.attempts.get(part.delta.attemptId);
    try {
      generation?.onDelta(part);
    } catch (error) {
      this.options.log.error({ attemptId: part.delta.attemptId, error: String(error) }, "a delta could not be taken");
      generation?.cancel(toPelagicError(error));
    }
  }

  /** @internal Lets decode forget an attempt of which all is here; where that is lost, its lease does. */
  acknowledge(workerId: string, attemptId: string): void {
    addTo(this.unacknowledged, workerId, attemptId);
    this.stopAckTimer ??= this.options.clock.setTimer(ackMs, () => this.sendAcks());
  }

  private sendAcks(): void {
    const { bus, subjects, log } = this.options;
    this.stopAckTimer?.();
    this.stopAckTimer = null;
    for (const [workerId, attemptIds] of this.unacknowledged) {
      try {
        bus.publish(subjects.control(workerId), encodeMessage({ kind: "ack", attemptIds }));
      } catch (error) {
        log.debug({ workerId, error: String(error) }, "ends not acknowledged");
      }
    }
    this.unacknowledged.clear();
  }

  /** @internal From now on the attempt's deltas are this generation's. */
  listen(attemptId: string, generation: Generation): void {
    this.attempts.set(attemptId, generation);
  }

  /** @internal */
  unlisten(attemptId: string): void {
    this.attempts.delete(attemptId);
  }

  /** @internal */
  ended(generation: Generation): void {
    this.live.delete(generation);
  }

  /** @internal Tells decode to free an attempt, a bounded number of times; if none arrives, its lease runs out. */
  async cancelAttempt(workerId: string, attemptId: string): Promise<void> {
    const { bus, subjects, clock, log, onCancelled } = this.options;
    const begunMs = clock.nowMs();
    this.cancelling++;
    try {
      for (let attempt = 1; attempt <= cancelTries; attempt++) {
        try {
          const answer = await bus.request(subjects.control(workerId), encodeMessage({ kind: "cancel", attemptId }), cancelReplyMs);
          decodeMessage(ControlReply, answer);
          onCancelled?.((clock.nowMs() - begunMs) / 1000);
          return;
        } catch (error) {
          // Nobody is there to free anything; after an outage perhaps not yet.
          if (error instanceof BusError && error.code === "no_responders" && !this.justReconnected) return;
          log.debug({ workerId, attempt, error: String(error) }, "cancel not confirmed");
          await new Promise<void>((resolve) => clock.setTimer(cancelReplyMs, resolve));
        }
      }
      log.warn({ workerId, attemptId }, "cancel never confirmed: the lease ends it");
    } finally {
      this.cancelling--;
    }
  }

  /** Workers come back one by one. */
  private get justReconnected(): boolean {
    return this.options.clock.nowMs() - this.connectedSinceMs < afterOutageMs;
  }

  private reconnected(): void {
    this.connectedSinceMs = this.options.clock.nowMs();
    this.renewLeases();
    for (const generation of [...this.live]) generation.reconnected();
  }

  private check(): void {
    this.stopTimer = null;
    const now = this.options.clock.nowMs();
    for (const generation of [...this.live]) generation.check(now);
    if (now - this.leasedAtMs >= this.options.leaseMs / 3) this.renewLeases();
    this.probeSilentWorkers(now);
    if (this.live.size > 0) this.stopTimer = this.options.clock.setTimer(checkMs, () => this.check());
  }

  private probeSilentWorkers(nowMs: number): void {
    const { bus } = this.options;
    if (!bus.connected || this.justReconnected) return;
    const silent = new Set<string>();
    for (const generation of this.live) if (generation.silentSince(nowMs - probeMs)) silent.add(generation.workerId as string);
    for (const workerId of this.probedAtMs.keys()) if (!silent.has(workerId)) this.probedAtMs.delete(workerId);
    for (const workerId of silent) {
      if (nowMs - (this.probedAtMs.get(workerId) ?? Number.NEGATIVE_INFINITY) < probeMs) continue;
      this.probedAtMs.set(workerId, nowMs);
      void this.probe(workerId);
    }
  }

  /** Renews the worker's leases; nobody answers that, so silence is a good sign. */
  private async probe(workerId: string): Promise<void> {
    const { bus, subjects } = this.options;
    const asked = [...this.live].filter((generation) => generation.workerId === workerId).map(({ attemptId }) => attemptId);
    try {
      await bus.request(subjects.control(workerId), this.leaseMessage(asked), probeReplyMs);
    } catch (error) {
      if (!(error instanceof BusError) || error.code !== "no_responders" || !bus.connected) return;
      for (const generation of [...this.live]) if (asked.includes(generation.attemptId)) generation.workerLeft();
    }
  }

  private leaseMessage(attemptIds: string[]): Uint8Array {
    const { gatewayId, leaseMs } = this.options;
    return encodeMessage({ kind: "lease", gatewayId, attemptIds, leaseMs });
  }

  private renewLeases(): void {
    const { bus, clock, subjects } = this.options;
    if (!bus.connected) return;
    this.leasedAtMs = clock.nowMs();
    const byWorker = new Map<string, string[]>();
    for (const { workerId, attemptId } of this.live) {
      if (workerId !== null) addTo(byWorker, workerId, attemptId);
    }
    for (const [workerId, attemptIds] of byWorker) {
      try {
        bus.publish(subjects.control(workerId), this.leaseMessage(attemptIds));
      } catch {
        // Disconnected just now: the reconnection renews.
        return;
      }
    }
  }
}

function addTo(byWorker: Map<string, string[]>, workerId: string, attemptId: string): void {
  const others = byWorker.get(workerId);
  if (others === undefined) byWorker.set(workerId, [attemptId]);
  else others.push(attemptId);
}
