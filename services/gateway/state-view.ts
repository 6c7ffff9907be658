// What a gateway knows of the workers: their own messages, folded. No clock and no bus: times come in, so equal histories give equal views.
import type { WorkerRole, WorkerState } from "../lib/contracts/messages.ts";

/** No new work for a worker that missed so many heartbeats. */
const suspectHeartbeats = 3;
/** Taken for dead after so many: its requests fail or move. Later than suspicion, since a busy machine delays heartbeats too. */
const lostHeartbeats = 6;
/** A past instance's late messages are recognised this many instances back. */
const retiredInstances = 8;
/** Of so many workers, those that went last: by then nothing of the others is still on its way. */
const retiredWorkers = 1_024;

export interface WorkerView {
  workerId: string;
  instanceId: string;
  role: WorkerRole;
  state: WorkerState["state"] | "silent";
  reason: string | undefined;
  modelName: string;
  modelDigest: string;
  /** Of the model's small files; undefined: a worker that does not offer them. */
  filesDigest: string | undefined;
  numericsId: string;
  kvDtype: string;
  maxPositions: number;
  blocks: WorkerState["blocks"];
  requests: WorkerState["requests"];
  queuedPrefillTokens: number;
  rates: WorkerState["rates"];
  kvBytesPerToken: number;
  totals: WorkerState["totals"];
  metricsPort: number | undefined;
  pid: number;
  /** Block events seen; null until a snapshot came. */
  position: number | null;
  /** Short keys of the full blocks it holds. */
  blockKeys: ReadonlySet<string>;
  /** What this gateway sent there since the worker's last account of itself. */
  unreported: { requests: number; prefillTokens: number; blocks: number };
}

/** Workers in the order of their ids. Valid until the view changes. */
export interface RoutingSnapshot {
  workers: readonly WorkerView[];
}

export interface WorkerInstance {
  workerId: string;
  instanceId: string;
}

export interface Applied {
  /** The sender is the worker's instance of now, as far as is known. */
  current: boolean;
  /** Block events were missed: a snapshot is needed. */
  gap: boolean;
  /** The instance that this message's sender replaced, or the sender where it says that it stopped. */
  gone: WorkerInstance | null;
}

interface Entry {
  view: WorkerView;
  keys: Set<string>;
  lastSeenMs: number;
  heartbeatMs: number;
}

export class StateView {
  private readonly entries = new Map<string, Entry>();
  /** Past instances, the last one first, and whether they said themselves that they stopped. */
  private lastSnapshot: { nowMs: number; snapshot: RoutingSnapshot } | null = null;
  private readonly retired = new Map<string, { instanceId: string; stopped: boolean }[]>();

  apply(state: WorkerState, nowMs: number): Applied {
    this.lastSnapshot = null;
    const own = { workerId: state.workerId, instanceId: state.instanceId };
    const known = this.entries.get(state.workerId);
    const isCurrent = known?.view.instanceId === state.instanceId;
    const past = this.retired.get(state.workerId)?.find(({ instanceId }) => instanceId === state.instanceId);
    // Of two instances nobody can say which is the later: a message that was long on its way looks like a replacement. So an instance that
    // was only replaced is believed again once the other one is silent.
    if (past !== undefined && (past.stopped || (known !== undefined && !isCurrent))) {
      past.stopped ||= state.state === "stopped";
      return { current: false, gap: false, gone: null };
    }
    if (state.state === "stopped") {
      if (isCurrent) this.entries.delete(state.workerId);
      this.retire(own, true);
      return { current: false, gap: false, gone: own };
    }
    const replaced = known !== undefined && !isCurrent ? { workerId: state.workerId, instanceId: known.view.instanceId } : null;
    if (replaced !== null) this.retire(replaced, false);
    const previous = isCurrent ? known : undefined;
    const keys = previous?.keys ?? new Set<string>();
    const position = foldBlocks(keys, previous?.view.position ?? null, state);
    this.entries.set(state.workerId, {
      view: {
        workerId: state.workerId,
        instanceId: state.instanceId,
        role: state.role,
        state: state.state,
        reason: state.reason,
        modelName: state.modelName,
        modelDigest: state.modelDigest,
        filesDigest: state.filesDigest,
        numericsId: state.numericsId,
        kvDtype: state.kvDtype,
        maxPositions: state.maxPositions,
        blocks: state.blocks,
        requests: state.requests,
        queuedPrefillTokens: state.queuedPrefillTokens,
        rates: state.rates,
        kvBytesPerToken: state.kvBytesPerToken,
        totals: state.totals,
        metricsPort: state.metricsPort,
        pid: state.pid,
        position,
        blockKeys: keys,
        unreported: { requests: 0, prefillTokens: 0, blocks: 0 },
      },
      keys,
      lastSeenMs: nowMs,
      heartbeatMs: state.heartbeatMs,
    });
    return { current: true, gap: position === null, gone: replaced };
  }

  /** Forgets workers that were silent too long, and says which. */
  expire(nowMs: number): WorkerInstance[] {
    this.lastSnapshot = null;
    const silent = [...this.entries.values()].filter((entry) => nowMs - entry.lastSeenMs > lostHeartbeats * entry.heartbeatMs);
    // Not retired: one that was only slow may come back.
    for (const entry of silent) this.entries.delete(entry.view.workerId);
    return silent.map(({ view }) => ({ workerId: view.workerId, instanceId: view.instanceId }));
  }

  /** Nobody could be heard until now: silence before it says nothing. */
  forgiveSilence(nowMs: number): void {
    this.lastSnapshot = null;
    for (const entry of this.entries.values()) entry.lastSeenMs = nowMs;
  }

  /** Counts work on its way to a worker, until the worker's next message includes it. */
  noteDispatched(workerId: string, work: { prefillTokens: number; blocks: number; requests: number }): void {
    const unreported = this.entries.get(workerId)?.view.unreported;
    if (unreported === undefined) return;
    unreported.requests += work.requests;
    unreported.prefillTokens += work.prefillTokens;
    unreported.blocks += work.blocks;
  }

  snapshot(nowMs: number): RoutingSnapshot {
    if (this.lastSnapshot?.nowMs === nowMs) return this.lastSnapshot.snapshot;
    const workers = [...this.entries.values()].map(
      ({ view, lastSeenMs, heartbeatMs }): WorkerView =>
        nowMs - lastSeenMs > suspectHeartbeats * heartbeatMs
          ? { ...view, state: "silent", reason: `no heartbeat for ${suspectHeartbeats * heartbeatMs} ms` }
          : view,
    );
    workers.sort((a, b) => (a.workerId < b.workerId ? -1 : 1));
    const snapshot = { workers };
    this.lastSnapshot = { nowMs, snapshot };
    return snapshot;
  }

  private retire({ workerId, instanceId }: WorkerInstance, stopped: boolean): void {
    const others = (this.retired.get(workerId) ?? []).filter((past) => past.instanceId !== instanceId);
    this.retired.delete(workerId);
    this.retired.set(workerId, [{ instanceId, stopped }, ...others].slice(0, retiredInstances));
    if (this.retired.size > retiredWorkers) this.retired.delete(this.retired.keys().next().value as string);
  }
}

/** Applies a message's block events; returns the position reached, or null where some were missed. */
function foldBlocks(keys: Set<string>, known: number | null, state: WorkerState): number | null {
  if (state.snapshot !== undefined) {
    if (known !== null && state.position < known) return known;
    keys.clear();
    for (const key of state.snapshot) keys.add(key);
    return state.position;
  }
  if (known === null) return null;
  if (state.position <= known) return known;
  if (state.position - state.stored.length - state.removed.length !== known) {
    keys.clear();
    return null;
  }
  for (const key of state.removed) keys.delete(key);
  for (const key of state.stored) keys.add(key);
  return state.position;
}
