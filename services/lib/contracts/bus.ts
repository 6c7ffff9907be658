// What our code needs of the world around it: a message bus, time, chance, a log. services/lib/runtime/nats-bus.ts is the real one.
import { randomFillSync } from "node:crypto";

export interface BusMessage {
  subject: string;
  data: Uint8Array;
  /** Answers a request; absent where the sender does not wait for an answer. */
  respond?: (data: Uint8Array) => void;
}

export interface BusSubscription {
  unsubscribe(): void;
}

/**
 * At most once: what is published while disconnected is refused with a BusError, and what is in flight when a connection breaks may be
 * lost without one. Protocols over it are idempotent and ask again (docs/ARCHITECTURE.md, "Ownership and the bus").
 */
export interface Bus {
  readonly connected: boolean;
  /** The server's limit for one message, in bytes. */
  readonly maxPayloadBytes: number;
  /**
   * Throws BusError "disconnected" or "too_large". `data` belongs to the bus until a microtask that is queued after the call; then it has its
   * copy.
   */
  publish(subject: string, data: Uint8Array): void;
  /**
   * Rejects with BusError "timeout", "no_responders", "disconnected" or "too_large". `data` belongs to the bus until then. Requests keep their
   * order; what is published in the same turn of the loop may go out before them.
   */
  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array>;
  subscribe(subject: string, handler: (message: BusMessage) => void): BusSubscription;
  /** Resolves when everything published so far has reached the server. */
  flush(): Promise<void>;
  /** Called after each reconnection. */
  onReconnect(handler: () => void): void;
  close(): Promise<void>;
}

export type BusErrorCode = "disconnected" | "timeout" | "no_responders" | "too_large";

export class BusError extends Error {
  readonly code: BusErrorCode;

  constructor(code: BusErrorCode, message: string) {
    super(message);
    this.name = "BusError";
    this.code = code;
  }
}

/** Time for code that a simulator must be able to drive. Milliseconds, monotonic. */
export interface Clock {
  nowMs(): number;
  /** Runs once after delayMs; the returned function cancels it. */
  setTimer(delayMs: number, run: () => void): () => void;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  setTimer: (delayMs, run) => {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  },
};

/** Fresh ids of instances, attempts and transfers: so many random bytes as hex. A simulator gives its own, to replay a run exactly. */
export type FreshId = (bytes: number) => string;

export const randomId: FreshId = (bytes) => {
  if (drawn.length - used < bytes) {
    randomFillSync(drawn);
    used = 0;
  }
  used += bytes;
  return drawn.toString("hex", used - bytes, used);
};

/** Drawn ahead for many ids: each draw costs thirty times what an id of these does. */
const drawn = Buffer.allocUnsafeSlow(1536);
let used = drawn.length;

/** What code logs through; pino satisfies it. No prompt text, ever. */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} };
