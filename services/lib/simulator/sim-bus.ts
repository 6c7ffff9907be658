// A bus with NATS's promises and no others: at most once, in order from one connection to another, nothing kept while a connection is away, no
// responders said so. A fault decides over each message as it is published.
import { BusError, type Bus, type BusMessage, type BusSubscription } from "../contracts/bus.ts";
import { DamagedMessage } from "../contracts/wire.ts";
import type { Random } from "./random.ts";
import type { Node, World } from "./world.ts";

/** What becomes of one message; by default it arrives once. */
export interface Fate {
  /** Copies that arrive, each so much later than usual and perhaps damaged. */
  copies: { lateMs: number; damaged: boolean }[];
  /** All that this connection publishes from now on waits so long. */
  stallMs: number;
}

export const usualFate: Fate = { copies: [{ lateMs: 0, damaged: false }], stallMs: 0 };

interface Subscription {
  connection: SimBus;
  pattern: string[];
  handler: (message: BusMessage) => void;
}

const maxPayloadBytes = 1024 * 1024;
/** A client notices a dead connection after so long at most; what it publishes until then is lost. */
const noticeMs = 200;

export class Broker {
  readonly world: World;
  readonly random: Random;
  private readonly subscriptions = new Map<string, Set<Subscription>>();
  private readonly patterns = new Set<Subscription>();
  private readonly connections = new Set<SimBus>();
  private up = true;
  private inboxes = 0;
  onHandlerError: (node: Node, error: unknown) => void = () => {};
  /** Sees every message as it is published, and says what becomes of it. `sender` is the publishing node. */
  judge: (sender: Node, subject: string, data: Uint8Array) => Fate = () => usualFate;

  constructor(world: World, random: Random) {
    this.world = world;
    this.random = random;
  }

  connect(node: Node): SimBus {
    const bus = new SimBus(this, node);
    this.connections.add(bus);
    return bus;
  }

  subscriptionsOf(node: Node): number {
    let count = 0;
    for (const set of this.subscriptions.values()) for (const { connection } of set) if (connection.node === node) count++;
    for (const { connection } of this.patterns) if (connection.node === node) count++;
    return count;
  }

  /** The server goes away with all that is on its way, and comes back after so long. */
  restart(downMs: number): void {
    this.up = false;
    for (const connection of this.connections) connection.lose(0);
    this.world.after(downMs, () => {
      this.up = true;
      for (const connection of this.connections) this.comeBack(connection);
    });
  }

  /** The node's connections break, noticed a little later, and come back after so long. */
  part(node: Node, durationMs: number): void {
    for (const connection of this.connections) {
      if (connection.node !== node) continue;
      connection.lose(this.random.between(0, noticeMs));
      this.world.after(durationMs, () => this.comeBack(connection));
    }
  }

  /** The node died: its connections are closed at once, as the kernel does. */
  forget(node: Node): void {
    for (const connection of [...this.connections]) if (connection.node === node) this.drop(connection);
  }

  /** @internal */
  drop(connection: SimBus): void {
    this.connections.delete(connection);
    for (const set of [...this.subscriptions.values(), this.patterns]) {
      for (const subscription of set) if (subscription.connection === connection) set.delete(subscription);
    }
  }

  private comeBack(connection: SimBus): void {
    this.world.after(this.random.between(10, 400), () => {
      if (this.up && this.connections.has(connection)) connection.regain();
    });
  }

  /** @internal */
  add(subscription: Subscription): () => void {
    const subject = subscription.pattern.join(".");
    const wild = subscription.pattern.includes("*");
    const set = wild ? this.patterns : (this.subscriptions.get(subject) ?? new Set<Subscription>());
    if (!wild) this.subscriptions.set(subject, set);
    set.add(subscription);
    return () => {
      set.delete(subscription);
      if (!wild && set.size === 0) this.subscriptions.delete(subject);
    };
  }

  /** @internal */
  newInbox(node: Node): string {
    return `_INBOX_${node.id}.${this.inboxes++}`;
  }

  private listeners(subject: string): Subscription[] {
    const parts = subject.split(".");
    const matching = [...this.patterns].filter(
      ({ pattern }) => pattern.length === parts.length && pattern.every((part, i) => part === "*" || part === parts[i]),
    );
    return [...(this.subscriptions.get(subject) ?? []), ...matching];
  }

  /** @internal Between the client and the server, then between the server and who listens by then. */
  send(from: SimBus, subject: string, data: Uint8Array, reply: string | null, onNobody: () => void): void {
    const fate = this.judge(from.node, subject, data);
    if (!from.linked) return;
    from.readyMs = Math.max(from.readyMs, this.world.nowMs + fate.stallMs);
    for (const { lateMs, damaged } of fate.copies) {
      const bytes = data.slice();
      if (damaged) {
        const at = this.random.between(0, bytes.length - 1);
        bytes[at] = (bytes[at] as number) ^ this.random.between(1, 255);
      }
      const arrivesMs = this.inOrder(from, "readyMs", lateMs);
      const life = from.life;
      this.world.at(arrivesMs, () => {
        if (!this.up || from.life !== life) return;
        const listeners = this.listeners(subject);
        if (listeners.length === 0) onNobody();
        for (const subscription of listeners) this.hand(subscription, subject, bytes, reply);
      });
    }
  }

  private hand(subscription: Subscription, subject: string, data: Uint8Array, reply: string | null): void {
    const { connection } = subscription;
    const { life } = connection;
    this.world.at(this.inOrder(connection, "heardMs", 0), () => {
      if (connection.life !== life) return;
      connection.node.deliver(() => {
        if (!connection.isOpen(subscription)) return;
        subscription.handler({
          subject,
          data,
          ...(reply === null
            ? {}
            : {
                respond: (answer: Uint8Array) => {
                  if (connection.connected) this.send(connection, reply, answer, null, () => undefined);
                },
              }),
        });
      });
    });
  }

  /** A late message does not hold up those after it: that is what makes it overtaken. */
  private inOrder(connection: SimBus, queue: "readyMs" | "heardMs", lateMs: number): number {
    const usualMs = Math.max(connection[queue], this.world.nowMs + 0.05 + this.random.real() * 0.5);
    connection[queue] = usualMs;
    return usualMs + lateMs;
  }
}

export class SimBus implements Bus {
  readonly node: Node;
  readonly maxPayloadBytes = maxPayloadBytes;
  /** As the client knows it. */
  connected = true;
  /** As it is: between the two, what is published is lost. */
  linked = true;
  /** Counts the times that the connection broke: what was sent in another life arrives nowhere. */
  life = 0;
  /** Nothing published arrives before, and nothing is heard before. */
  readyMs = 0;
  heardMs = 0;
  private lostAtMs: number | null = null;
  private pastOutageMs = 0;
  private readonly broker: Broker;
  private readonly open = new Map<Subscription, () => void>();
  private readonly waiting = new Set<(error: BusError) => void>();
  private readonly reconnectHandlers: (() => void)[] = [];

  constructor(broker: Broker, node: Node) {
    this.broker = broker;
    this.node = node;
  }

  publish(subject: string, data: Uint8Array): void {
    this.check(subject, data);
    this.broker.send(this, subject, data, null, () => undefined);
  }

  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const inbox = this.broker.newInbox(this.node);
      const end = () => {
        cancelTimer();
        subscription.unsubscribe();
        this.waiting.delete(fail);
      };
      const fail = (error: BusError) => {
        end();
        reject(error);
      };
      const subscription = this.subscribe(inbox, (message) => {
        end();
        resolve(message.data);
      });
      const cancelTimer = this.node.setTimer(timeoutMs, () => fail(new BusError("timeout", subject)));
      this.waiting.add(fail);
      try {
        this.check(subject, data);
        const nobody = () => this.node.deliver(() => this.waiting.has(fail) && fail(new BusError("no_responders", subject)));
        this.broker.send(this, subject, data, inbox, nobody);
      } catch (error) {
        fail(error as BusError);
      }
    });
  }

  subscribe(subject: string, handler: (message: BusMessage) => void): BusSubscription {
    // As nats-bus.ts does: a handler's error is logged, and ends nothing.
    const guarded = (message: BusMessage) => {
      try {
        handler(message);
      } catch (error) {
        if (!(error instanceof DamagedMessage)) this.broker.onHandlerError(this.node, error);
      }
    };
    const subscription: Subscription = { connection: this, pattern: subject.split("."), handler: guarded };
    this.open.set(subscription, this.linked ? this.broker.add(subscription) : () => undefined);
    return {
      unsubscribe: () => {
        this.open.get(subscription)?.();
        this.open.delete(subscription);
      },
    };
  }

  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!this.connected) return reject(new BusError("disconnected", "not connected"));
      this.waiting.add(reject);
      this.broker.world.at(Math.max(this.readyMs, this.broker.world.nowMs + 0.5), () =>
        this.node.deliver(() => {
          if (this.waiting.delete(reject)) resolve();
        }),
      );
    });
  }

  onReconnect(handler: () => void): void {
    this.reconnectHandlers.push(handler);
  }

  async close(): Promise<void> {
    this.lose(0);
    this.open.clear();
    this.broker.drop(this);
  }

  /** The longest time that it was cut off, this one included. */
  get longestOutageMs(): number {
    return Math.max(this.pastOutageMs, this.lostAtMs === null ? 0 : this.broker.world.nowMs - this.lostAtMs);
  }

  /** @internal */
  isOpen(subscription: Subscription): boolean {
    return this.open.has(subscription);
  }

  /** @internal What is on its way is lost; the client knows it a little later. */
  lose(noticedAfterMs: number): void {
    this.life++;
    this.linked = false;
    this.lostAtMs ??= this.broker.world.nowMs;
    const { life } = this;
    for (const [subscription, remove] of this.open) {
      remove();
      this.open.set(subscription, () => undefined);
    }
    const notice = () => {
      if (this.life !== life) return;
      this.connected = false;
      for (const fail of [...this.waiting]) fail(new BusError("disconnected", "the connection broke"));
      this.waiting.clear();
    };
    if (noticedAfterMs === 0) notice();
    else this.broker.world.after(noticedAfterMs, () => this.node.deliver(notice));
  }

  /** @internal */
  regain(): void {
    this.pastOutageMs = this.longestOutageMs;
    this.lostAtMs = null;
    this.life++;
    this.linked = true;
    for (const subscription of this.open.keys()) this.open.set(subscription, this.broker.add(subscription));
    this.node.deliver(() => {
      if (!this.connected) for (const fail of [...this.waiting]) fail(new BusError("disconnected", "the connection broke"));
      this.connected = true;
      for (const handler of this.reconnectHandlers) handler();
    });
  }

  private check(subject: string, data: Uint8Array): void {
    if (!this.connected) throw new BusError("disconnected", "not connected");
    if (data.length > maxPayloadBytes) throw new BusError("too_large", subject);
  }
}
