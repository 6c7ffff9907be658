// Bytes to a port and what comes back, without an HTTP client that would know better.
import { connect, type Socket } from "node:net";

export interface Exchange {
  /** Of each answer, in order; 100 Continue is none. */
  statuses: number[];
  text: string;
  /** The other side closed the connection. */
  closed: boolean;
  seconds: number;
}

export interface ExchangeOptions {
  port: number;
  /** Written in this order; a number is a pause in ms. */
  writes: Iterable<string | Uint8Array | number>;
  /** So long at most, from the first byte. */
  boundMs: number;
  /** Ends once so many answers have begun and been quiet for a moment; else with the connection. */
  answers?: number;
  /** Our side of the connection ends behind the last byte. */
  halfClose?: boolean;
  /** Nothing is read before everything is written. */
  readLate?: boolean;
}

const quietMs = 150;

/** Never rejects: a connection that breaks is an outcome like others. */
export async function exchange(options: ExchangeOptions): Promise<Exchange> {
  const begunMs = performance.now();
  const socket = connect({ host: "127.0.0.1", port: options.port, allowHalfOpen: true });
  const chunks: Buffer[] = [];
  let closed = false;
  let lastByteMs = performance.now();
  socket.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    lastByteMs = performance.now();
  });
  socket.on("end", () => {
    closed = true;
  });
  socket.on("error", () => {
    closed = true;
  });
  if (options.readLate) socket.pause();
  const expired = () => performance.now() - begunMs > options.boundMs;
  for (const write of options.writes) {
    if (closed || expired()) break;
    if (typeof write === "number") await sleep(write);
    else await written(socket, write, () => closed || expired());
  }
  if (options.readLate) socket.resume();
  if (options.halfClose && !closed) socket.end();
  const text = () => Buffer.concat(chunks).toString("latin1");
  for (;;) {
    if (closed || expired()) break;
    if (options.answers !== undefined && performance.now() - lastByteMs > quietMs && statusesOf(text()).length >= options.answers) break;
    await sleep(10);
  }
  socket.destroy();
  return { statuses: statusesOf(text()), text: text(), closed, seconds: Math.round(performance.now() - begunMs) / 1000 };
}

async function written(socket: Socket, data: string | Uint8Array, over: () => boolean): Promise<void> {
  if (socket.write(data)) return;
  let drained = false;
  socket.once("drain", () => {
    drained = true;
  });
  while (!drained && !over()) await sleep(5);
}

function statusesOf(text: string): number[] {
  return [...text.matchAll(/(?:^|[\r\n}\]])HTTP\/1\.1 (\d{3})[ \r]/g)].map((match) => Number(match[1])).filter((status) => status !== 100);
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A connection that asked for something and is left to the caller. */
export function openSocket(port: number, data: string): Socket {
  const socket = connect({ host: "127.0.0.1", port });
  socket.on("error", () => undefined);
  socket.write(data);
  return socket;
}
