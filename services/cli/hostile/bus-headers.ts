// Messages with headers that are none, which no library writes: the server passes them on as they are.
import { connect } from "node:net";
import { once } from "node:events";
import type { NatsRole } from "../../lib/runtime/nats-permissions.ts";
import type { Random } from "../../lib/simulator/random.ts";
import type { Stack } from "../stack/stack.ts";

const boundMs = 10_000;
const mostPayloadBytes = 300;

const heads: ((random: Random) => Buffer)[] = [
  () => Buffer.from("NATS/1.0\r\n\r\n"),
  () => Buffer.from("NATS/1.0 503\r\n\r\n"),
  () => Buffer.from("NATS/1.0 503 No Responders\r\n\r\n"),
  () => Buffer.from("NATS/1.0 -1e9 \u0000\r\n\r\n"),
  () => Buffer.from("HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
  () => Buffer.from("NATS/1.0\r\nno colon\r\n: no name\r\n\r\n"),
  () => Buffer.from("NATS/1.0\r\n__proto__: a\r\nconstructor: b\r\n\r\n"),
  () => Buffer.from(`NATS/1.0\r\n${"a: b\r\n".repeat(5_000)}\r\n`),
  () => Buffer.from(`NATS/1.0\r\na: ${"x".repeat(60_000)}\r\n\r\n`),
  () => Buffer.from("NATS/1.0"),
  (random) => noise(random, 200),
];

/** One message to each subject; resolves with their number when the server has them all. */
export async function publishHeaders(stack: Stack, role: NatsRole, subjects: readonly string[], random: Random): Promise<number> {
  const { user, password } = stack.credentialsFor(role);
  const [host, port] = stack.natsUrl.split(":");
  const socket = connect({ host, port: Number(port) });
  socket.setTimeout(boundMs, () => socket.destroy(new Error(`the server says nothing within ${boundMs} ms`)));
  let heard = "";
  const answered = new Promise<void>((resolve, reject) => {
    socket.on("data", (chunk: Buffer) => {
      heard = (heard + chunk.toString("latin1")).slice(-200);
      if (heard.includes("PONG\r\n")) resolve();
    });
    socket.on("error", reject);
    socket.on("close", () => reject(new Error(`the server closed the connection: ${heard}`)));
  });
  try {
    await Promise.race([once(socket, "connect"), answered]);
    socket.write(
      `CONNECT ${JSON.stringify({ user, pass: password, headers: true, verbose: false, pedantic: false, lang: "none", version: "0" })}\r\n`,
    );
    for (const subject of subjects) {
      const head = random.pick(heads)(random);
      const payload = noise(random, mostPayloadBytes);
      socket.write(
        Buffer.concat([
          Buffer.from(`HPUB ${subject} ${head.length} ${head.length + payload.length}\r\n`),
          head,
          payload,
          Buffer.from("\r\n"),
        ]),
      );
    }
    socket.write("PING\r\n");
    await answered;
    return subjects.length;
  } finally {
    socket.destroy();
  }
}

function noise(random: Random, most: number): Buffer {
  return Buffer.from(Array.from({ length: random.between(1, most) }, () => random.between(0, 255)));
}
