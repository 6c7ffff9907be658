// Hears the whole bus of a stack: tells of each message that stands at a protocol point, with who takes part, and which workers are ready.
import { type Bus, silentLog } from "../../lib/contracts/bus.ts";
import { Dispatch, RowsRequest, WorkerState } from "../../lib/contracts/messages.ts";
import { decodeMessage } from "../../lib/contracts/wire.ts";
import { connectBus } from "../../lib/runtime/nats-bus.ts";
import { type ProtocolPoint, protocolPoint } from "../../lib/simulator/protocol-points.ts";
import type { Stack } from "../stack/stack.ts";
import type { Resumes } from "./tally.ts";

export interface Sighting {
  point: ProtocolPoint;
  /** Process names, as far as the message and earlier ones tell. */
  gateway?: string;
  decode?: string;
  /** Who sends a transfer's rows. */
  sender?: string;
  requestId?: string;
}

export interface SeenWorker {
  instanceId: string;
  state: WorkerState["state"];
  pid: number;
}

interface AttemptParties {
  decode: string;
  gateway: string;
  requestId: string;
}

/** Attempts and transfers whose parties are remembered, the newest. */
const remembered = 20_000;

export class BusObserver {
  /** What the workers said last. */
  readonly workers = new Map<string, SeenWorker>();
  /** Messages at each point so far. */
  readonly counts: Partial<Record<ProtocolPoint, number>> = {};
  onSighting: (sighting: Sighting) => void = () => {};
  /** A request goes on elsewhere: its worker was lost, or drains; then its blocks may arrive from there. */
  onResume: (requestId: string, how: keyof Resumes) => void = () => {};
  onDispatch: (requestId: string) => void = () => {};
  private readonly bus: Bus;
  private readonly attempts = new Map<string, AttemptParties>();
  private readonly transfers = new Map<string, { decode: string; sender: string; requestId: string }>();
  /** Of these, those from a worker that the request left. */
  private readonly moves = new Map<string, string>();

  static async connect(stack: Stack): Promise<BusObserver> {
    const { user, password } = stack.credentialsFor("observer");
    return new BusObserver(await connectBus({ servers: stack.natsUrl, user, password, name: "observer", log: silentLog }));
  }

  private constructor(bus: Bus) {
    this.bus = bus;
    bus.subscribe(">", ({ subject, data }) => this.onMessage(subject, data));
  }

  get connected(): boolean {
    return this.bus.connected;
  }

  close(): Promise<void> {
    return this.bus.close();
  }

  private onMessage(subject: string, data: Uint8Array): void {
    const seen = protocolPoint(subject, data);
    if (seen === null) return;
    const { point } = seen;
    this.counts[point] = (this.counts[point] ?? 0) + 1;
    const parties = this.parties(point, subject.split("."), data);
    this.onSighting({ point, ...parties });
  }

  private parties(point: ProtocolPoint, [, , kind, first = "", second = ""]: string[], data: Uint8Array): Omit<Sighting, "point"> {
    switch (kind) {
      case "dispatch": {
        const { body } = decodeMessage(Dispatch, data);
        const parties = { decode: first, gateway: body.gatewayId, requestId: body.requestId };
        // A dispatch is repeated until it is answered.
        if (!this.attempts.has(body.attemptId)) {
          if (point === "resume") this.onResume(body.requestId, body.heldBy === undefined ? "lost" : "moved");
          else this.onDispatch(body.requestId);
        }
        remember(this.attempts, body.attemptId, parties);
        return { ...parties, ...(body.prefillWorkerId === null ? {} : { sender: body.prefillWorkerId }) };
      }
      case "rows": {
        const { body } = decodeMessage(RowsRequest, data);
        const parties = { decode: body.decodeWorkerId, sender: first, requestId: body.requestId };
        remember(this.transfers, body.transferId, parties);
        if (body.onlyCached) remember(this.moves, body.transferId, body.requestId);
        return parties;
      }
      case "kv":
        return this.transfers.get(second) ?? { decode: first };
      case "credit":
        if (point === "complete" && this.moves.has(second)) this.onResume(this.moves.get(second) as string, "withBlocks");
        return this.transfers.get(second) ?? { sender: first };
      case "deltas":
        return this.attempts.get(second) ?? { gateway: first };
      case "control":
        return first.startsWith("decode") ? { decode: first } : { sender: first };
      case "state": {
        const { body } = decodeMessage(WorkerState, data);
        this.workers.set(body.workerId, { instanceId: body.instanceId, state: body.state, pid: body.pid });
        return body.role === "decode" ? { decode: body.workerId } : { sender: body.workerId };
      }
      default:
        return {};
    }
  }
}

function remember<T>(map: Map<string, T>, key: string, value: T): void {
  map.set(key, value);
  if (map.size > remembered) map.delete(map.keys().next().value as string);
}
