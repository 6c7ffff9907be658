// The Bus of contracts/bus.ts over one NATS connection. What nats.js would do quietly while disconnected (buffer, wait) is refused here.
import { connect, errors, type NatsConnection, type Msg } from "@nats-io/transport-node";
import { BusError, type Bus, type BusMessage, type BusSubscription, type Log } from "../contracts/bus.ts";
import { inboxPrefixOf } from "./nats-permissions.ts";

export interface BusOptions {
  /** host:port or nats:// addresses. */
  servers: string | string[];
  user?: string;
  password?: string;
  /** What the server's own logs call this connection. */
  name: string;
  /** Where answers to our requests arrive; default: the one that this user's permissions allow. */
  inboxPrefix?: string;
  log: Log;
  /** How long the first connection may take, reconnecting included. */
  timeoutMs?: number;
  /** A message could not be handled: it is malformed or damaged, and dropped. */
  onDropped?: () => void;
}

/** A server that hangs or is being restarted is waited for. */
const defaultConnectTimeoutMs = 30_000;
const handshakeTimeoutMs = 2_000;
const flushTimeoutMs = 10_000;
const drainTimeoutMs = 2_000;
const closeTimeoutMs = 1_000;
// A peer that vanished without closing its socket is noticed within two of these.
const pingIntervalMs = 5_000;

/** Small and spread, so that a restarted server is found soon and not by everyone at once. */
function reconnectWaitMs(): number {
  return 100 + Math.floor(Math.random() * 400);
}

/** Rejects when the bound is over, or at once when the server refuses the credentials. */
export async function connectBus(options: BusOptions): Promise<Bus> {
  const deadline = performance.now() + (options.timeoutMs ?? defaultConnectTimeoutMs);
  for (;;) {
    const remainingMs = deadline - performance.now();
    try {
      return new NatsBus(await connectOnce(options, Math.max(1, Math.min(remainingMs, handshakeTimeoutMs))), options);
    } catch (error) {
      if (error instanceof errors.AuthorizationError) {
        throw new BusError("disconnected", `NATS at ${String(options.servers)} refuses user ${options.user ?? "(none)"}`);
      }
      const waitMs = reconnectWaitMs();
      if (performance.now() + waitMs >= deadline) {
        throw new BusError("disconnected", `no NATS server at ${String(options.servers)}: ${messageOf(error)}`);
      }
      options.log.debug({ error: messageOf(error) }, "NATS not reached yet");
      await sleep(waitMs);
    }
  }
}

function connectOnce(options: BusOptions, timeoutMs: number): Promise<NatsConnection> {
  return connect({
    servers: options.servers,
    user: options.user,
    pass: options.password,
    name: options.name,
    inboxPrefix: options.inboxPrefix ?? (options.user === undefined ? undefined : inboxPrefixOf(options.user)),
    timeout: timeoutMs,
    maxReconnectAttempts: -1,
    reconnectDelayHandler: reconnectWaitMs,
    // Once connected we never give up: credentials may be rotated on the server before they are here.
    ignoreAuthErrorAbort: true,
    // The servers are those we were told of: addresses gossiped by a server may not be reachable from here.
    ignoreClusterUpdates: true,
    pingInterval: pingIntervalMs,
    maxPingOut: 2,
    // A stack for each request costs more than the request.
    noAsyncTraces: true,
  });
}

class NatsBus implements Bus {
  connected = true;
  private readonly connection: NatsConnection;
  private readonly log: Log;
  private readonly onDropped: () => void;
  private lastMaxPayloadBytes: number;
  private turn: Promise<void> | null = null;
  private readonly reconnectHandlers: (() => void)[] = [];
  /** Rejects the waits that a broken connection leaves without an answer. */
  private readonly waiting = new Set<(error: BusError) => void>();

  constructor(connection: NatsConnection, { log, onDropped = () => undefined }: BusOptions) {
    this.connection = connection;
    this.log = log;
    this.onDropped = onDropped;
    this.lastMaxPayloadBytes = connection.info?.max_payload ?? 1024 * 1024;
    void this.watchStatus();
    void connection.closed().then((error) => {
      if (error) this.log.error({ error: error.message }, "NATS connection closed for good");
      this.loseConnection();
    });
  }

  get maxPayloadBytes(): number {
    return this.lastMaxPayloadBytes;
  }

  publish(subject: string, data: Uint8Array): void {
    this.checkSendable(subject, data);
    this.connection.publish(subject, data);
  }

  async request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    this.checkSendable(subject, data);
    await this.endOfTurn();
    this.checkSendable(subject, data);
    const reply = await this.orDisconnect(this.connection.request(subject, data, { timeout: Math.max(1, Math.ceil(timeoutMs)) }), (error) =>
      requestError(error, subject, timeoutMs),
    );
    return plainBytes(reply.data);
  }

  subscribe(subject: string, handler: (message: BusMessage) => void): BusSubscription {
    const answer = this.answer.bind(this);
    const subscription = this.connection.subscribe(subject, {
      callback: (error, message) => {
        if (error) {
          this.log.error({ subject, error: error.message }, "NATS subscription ended");
          return;
        }
        try {
          handler(new NatsMessage(message, answer));
        } catch (thrown) {
          // Let through, it would end nats.js's read loop and with it the connection.
          this.log.error({ subject, error: messageOf(thrown) }, "message handler failed");
          this.onDropped();
        }
      },
    });
    return {
      unsubscribe: () => {
        if (!subscription.isClosed()) subscription.unsubscribe();
      },
    };
  }

  /** Requests made in one turn of the loop go out in one write: under load, writing each by itself costs a gateway a tenth of its time. */
  private endOfTurn(): Promise<void> {
    this.turn ??= new Promise((resolve) => {
      setImmediate(() => {
        this.turn = null;
        resolve();
      });
    });
    return this.turn;
  }

  async flush(): Promise<void> {
    if (!this.connected) throw new BusError("disconnected", "not connected to NATS");
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new BusError("timeout", `NATS did not confirm within ${flushTimeoutMs} ms`)), flushTimeoutMs);
    });
    try {
      await this.orDisconnect(Promise.race([this.connection.flush(), timeout]), (error) =>
        error instanceof BusError ? error : new BusError("disconnected", messageOf(error)),
      );
    } finally {
      clearTimeout(timer);
    }
  }

  onReconnect(handler: () => void): void {
    this.reconnectHandlers.push(handler);
  }

  async close(): Promise<void> {
    if (this.connection.isClosed()) return;
    if (this.connected) await bounded(this.connection.drain(), drainTimeoutMs);
    if (!this.connection.isClosed()) await bounded(this.connection.close(), closeTimeoutMs);
    this.loseConnection();
  }

  /** An answer that cannot be sent is a lost message, which the other side's time-out covers. */
  private answer(subject: string, reply: string, answer: Uint8Array): void {
    try {
      this.publish(reply, answer);
    } catch (error) {
      this.log.warn({ subject, error: messageOf(error) }, "answer not sent");
    }
  }

  private checkSendable(subject: string, data: Uint8Array): void {
    if (!this.connected || this.connection.isClosed()) throw new BusError("disconnected", "not connected to NATS");
    if (data.length > this.maxPayloadBytes) {
      throw new BusError("too_large", `${data.length} bytes to ${subject}, the server takes ${this.maxPayloadBytes}`);
    }
  }

  /** nats.js leaves a request that was in flight when the connection broke waiting for its time-out; we end it at once. */
  private orDisconnect<T>(promise: Promise<T>, toBusError: (error: unknown) => BusError): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.waiting.add(reject);
      promise.then(
        (value) => {
          this.waiting.delete(reject);
          resolve(value);
        },
        (error: unknown) => {
          this.waiting.delete(reject);
          reject(toBusError(error));
        },
      );
    });
  }

  private async watchStatus(): Promise<void> {
    for await (const status of this.connection.status()) {
      if (status.type === "disconnect") {
        this.log.warn({ server: status.server }, "NATS disconnected");
        this.loseConnection();
      } else if (status.type === "reconnect") {
        this.connected = true;
        this.lastMaxPayloadBytes = this.connection.info?.max_payload ?? this.lastMaxPayloadBytes;
        this.log.info({ server: status.server }, "NATS reconnected");
        for (const handler of this.reconnectHandlers) this.callSafely(handler);
      } else if (status.type === "error") {
        this.log.error({ error: status.error.message }, "NATS server error");
      }
    }
  }

  private loseConnection(): void {
    this.connected = false;
    const waiting = [...this.waiting];
    this.waiting.clear();
    for (const reject of waiting) reject(new BusError("disconnected", "the connection to NATS broke"));
  }

  private callSafely(handler: () => void): void {
    try {
      handler();
    } catch (error) {
      this.log.error({ error: messageOf(error) }, "reconnect handler failed");
    }
  }
}

/** What most handlers never ask is not decoded: a frame's subject says nothing that its header does not. */
class NatsMessage implements BusMessage {
  readonly data: Uint8Array;
  private readonly message: Msg;
  private readonly answer: (subject: string, reply: string, data: Uint8Array) => void;

  constructor(message: Msg, answer: (subject: string, reply: string, data: Uint8Array) => void) {
    this.data = plainBytes(message.data);
    this.message = message;
    this.answer = answer;
  }

  get subject(): string {
    return this.message.subject;
  }

  get respond(): ((data: Uint8Array) => void) | undefined {
    const { subject, reply } = this.message;
    return reply ? (data) => this.answer(subject, reply, data) : undefined;
  }
}

function requestError(error: unknown, subject: string, timeoutMs: number): BusError {
  const cause = error instanceof errors.RequestError && error.cause !== undefined ? error.cause : error;
  if (cause instanceof errors.TimeoutError) return new BusError("timeout", `no answer on ${subject} within ${Math.ceil(timeoutMs)} ms`);
  if (cause instanceof errors.NoRespondersError) return new BusError("no_responders", `nobody listens on ${subject}`);
  // To the one who asks, a subject that it may not use is one where nobody answers.
  if (cause instanceof errors.PermissionViolationError) return new BusError("no_responders", messageOf(cause));
  return new BusError("disconnected", messageOf(cause));
}

/** The same bytes as a real Uint8Array: nats.js hands out Buffers, whose slice() does not copy. */
function plainBytes(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits for the promise, its failure included, no longer than the bound. */
async function bounded(promise: Promise<unknown>, boundMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, boundMs);
  });
  await Promise.race([promise.catch(() => undefined), timeout]);
  clearTimeout(timer);
}
