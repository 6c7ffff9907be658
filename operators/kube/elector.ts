// Takes part in the election (election.ts): asks the API server for the Lease, waits, and says who leads.
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../../services/lib/contracts/bus.ts";
import { type ApiClient, ApiError } from "./api-client.ts";
import { Election, type ElectionAnswer, type ElectionRequest, type ElectionTimes, electionTimes, type LeaseRecord } from "./election.ts";
import { collectionPath, leaseApi, objectPath } from "./resources.ts";

export interface ElectorOptions {
  client: ApiClient;
  namespace: string;
  name: string;
  /** Of this process and no other, ever. */
  identity: string;
  /** Called when this one begins to lead and when it no longer does. */
  onChange: (leads: boolean) => void;
  log: Log;
  times?: ElectionTimes;
}

interface Lease {
  metadata: { name: string; resourceVersion: string; creationTimestamp?: string; managedFields?: { time?: string }[] };
  spec?: {
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    leaseTransitions?: number;
    acquireTime?: string;
    renewTime?: string;
  };
}

/** Several tries fit into the time that a leader has to renew. */
const callTimeoutMs = 2_500;

export class Elector {
  private readonly election: Election;
  private readonly stopper = new AbortController();
  private running: Promise<void> | undefined;
  private led = false;
  /** The Lease says since when one holds it. */
  private acquired = "";
  private expiry: NodeJS.Timeout | undefined;

  constructor(private readonly options: ElectorOptions) {
    this.election = new Election(options.identity, options.times ?? electionTimes);
  }

  start(): void {
    this.running = this.run();
  }

  /** To be asked before each write: for how long this one may act. */
  leftMs(): number {
    return this.election.leftMs(performance.now());
  }

  get leads(): boolean {
    return this.leftMs() > 0;
  }

  get holder(): string | undefined {
    return this.election.holder;
  }

  /** Gives the Lease back, so that the next one need not wait. What writes must have ended. */
  async stop(): Promise<void> {
    this.stopper.abort();
    await this.running;
    clearTimeout(this.expiry);
    const request = this.election.release(performance.now());
    this.tell();
    if (request === undefined) return;
    const { kind } = await this.ask(request);
    this.options.log.info({ answer: kind }, "the Lease was released");
  }

  private async run(): Promise<void> {
    const { signal } = this.stopper;
    while (!signal.aborted) {
      const step = this.election.next(performance.now());
      if (step.kind === "wait") {
        await sleep(Math.max(1, step.untilMs - performance.now()), undefined, { signal }).catch(() => undefined);
        continue;
      }
      const begunMs = performance.now();
      const answer = await this.ask(step);
      // It may have led no longer meanwhile, and timers be late: who was refused a write then waits to be called again.
      this.tell();
      this.election.answered(step, answer, begunMs, performance.now());
      this.tell();
    }
  }

  /** Says when that changes; a leader that can no longer renew is told of, too. */
  private tell(): void {
    clearTimeout(this.expiry);
    const leftMs = this.leftMs();
    if (leftMs > 0 && !this.stopper.signal.aborted) this.expiry = setTimeout(() => this.tell(), leftMs + 1);
    if (this.led === leftMs > 0) return;
    this.led = !this.led;
    this.options.log.info({ holder: this.holder, identity: this.options.identity }, this.led ? "leads now" : "leads no longer");
    this.options.onChange(this.led);
  }

  private async ask(request: ElectionRequest): Promise<ElectionAnswer> {
    const { client, namespace, name, log } = this.options;
    const call = { resource: "leases", timeoutMs: callTimeoutMs, paced: true };
    const path = objectPath({ ...leaseApi, namespace, name });
    try {
      let lease: Lease;
      if (request.kind === "get") lease = await client.call("GET", path, call);
      else if (request.kind === "create")
        lease = await client.call("POST", collectionPath(leaseApi, namespace), { ...call, body: this.leaseOf(request) });
      else lease = await client.call("PUT", path, { ...call, body: this.leaseOf(request) });
      return { kind: "lease", record: recordOf(lease) };
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      if (status === 404 && request.kind !== "create") return { kind: request.kind === "get" ? "absent" : "conflict" };
      if (status === 409) return { kind: "conflict" };
      log.warn(
        { doing: request.kind, status, error: error instanceof Error ? error.message : String(error) },
        "the Lease could not be had",
      );
      return { kind: "failed" };
    }
  }

  private leaseOf(request: Exclude<ElectionRequest, { kind: "get" }>) {
    const { namespace, name } = this.options;
    const { holder, leaseMs, transitions } = request.record;
    const now = new Date().toISOString().replace("Z", "000Z");
    if (request.kind === "create" || request.taken || this.acquired === "") this.acquired = now;
    return {
      ...leaseApi,
      metadata: { namespace, name, ...(request.kind === "update" && { resourceVersion: request.version }) },
      spec: {
        holderIdentity: holder,
        leaseDurationSeconds: Math.ceil(leaseMs / 1000),
        leaseTransitions: transitions,
        acquireTime: this.acquired,
        renewTime: now,
      },
    };
  }
}

function recordOf({ metadata, spec }: Lease): LeaseRecord {
  const holder = spec?.holderIdentity ?? "";
  const leaseMs = (spec?.leaseDurationSeconds ?? 0) * 1000;
  // Both times are the API server's.
  const { creationTimestamp, managedFields = [] } = metadata;
  const asMade = managedFields.length > 0 && managedFields.every(({ time }) => time === creationTimestamp);
  return {
    version: metadata.resourceVersion,
    holder,
    leaseMs,
    transitions: spec?.leaseTransitions ?? 0,
    wiped: holder === "" && leaseMs === 0 && !asMade,
  };
}
