// What would make a gateway hold memory for nobody: readers that do not read, uploads that stop, fields that no answer needs.
import type { Socket } from "node:net";
import { type Attack, checkingMs, post, posted } from "./attack.ts";
import { exchange, openSocket, sleep } from "./sockets.ts";

const mebibyte = 1024 * 1024;
/** Until an answer has filled what lies between gateway and reader, on a slow machine. */
const generatingMs = 240_000;

/** Several answers with twenty alternatives to each token: more than sockets hold. */
function unread(name: string, more: { stream: boolean; n: number; max_tokens: number }): Attack {
  return {
    name,
    async run(target) {
      const cancelled = async () => (await target.outcomes()).get("cancelled") ?? 0;
      const before = await cancelled();
      const messages = [{ role: "user", content: "a" }];
      const body = { model: target.model, messages, ignore_eos: true, logprobs: true, top_logprobs: 20, ...more };
      const socket = openSocket(target.port, posted("/v1/chat/completions", body)).pause();
      const untilMs = performance.now() + generatingMs + target.stallMs;
      let lost = 0;
      while (lost === 0 && performance.now() < untilMs) {
        await sleep(500);
        lost = (await cancelled()) - before;
      }
      socket.destroy();
      return lost > 0 ? null : "still has its answer";
    },
  };
}

/** Together they would be more than the gateway may grow by while they run. */
const fat = { streams: 8, fieldBytes: 12 * mebibyte, mostGrowth: 32 * mebibyte };

const fatStreams: Attack = {
  name: "streams that run, asked for with fields of 12 MB that nobody needs",
  async run(target) {
    const before = await target.heldBytes();
    const more = { stream: true, ignore_eos: true, max_tokens: 6_000, metadata: { note: "x".repeat(fat.fieldBytes) } };
    const body = posted("/v1/completions", { model: target.model, prompt: "a", ...more });
    const sockets: Socket[] = [];
    const running = new Set<Socket>();
    try {
      // One after the other: that they are many at once is tried elsewhere.
      for (let n = 0; n < fat.streams; n++) {
        const socket = openSocket(target.port, body);
        sockets.push(socket);
        const first = await firstBytes(socket);
        if (!first.startsWith("HTTP/1.1 200")) return `not begun: ${JSON.stringify(first.slice(0, 200))}`;
        running.add(socket);
        socket.on("data", (bytes: Buffer) => bytes.includes("[DONE]") && running.delete(socket));
        socket.on("close", () => running.delete(socket));
      }
      const grown = (await target.heldBytes()) - before;
      if (running.size <= fat.streams / 2) return `only ${running.size} streams still ran when memory was looked at`;
      return grown <= fat.mostGrowth ? null : `${running.size} streams hold ${Math.round(grown / mebibyte)} MiB`;
    } finally {
      for (const socket of sockets) socket.destroy();
    }
  },
};

/** As many as fill what the gateway keeps for bodies. */
const uploads = { connections: 9, bytes: 16 * mebibyte, held: 16 * mebibyte - 1 };

const stalledUploads: Attack = {
  name: "uploads that stop a byte before their ends, and others' small requests meanwhile",
  async run(target) {
    const head = `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${uploads.bytes}\r\n\r\n`;
    const begunMs = performance.now();
    const sockets = Array.from({ length: uploads.connections }, () => openSocket(target.port, head).resume());
    try {
      const open = new Set(sockets);
      for (const socket of sockets) {
        socket.on("close", () => open.delete(socket));
        socket.write(Buffer.alloc(uploads.held, 32));
      }
      while (sockets.some((socket) => open.has(socket) && socket.writableLength > 0) && performance.now() - begunMs < target.requestMs / 2)
        await sleep(20);
      const small = post(JSON.stringify({ model: target.model, prompt: "a", max_tokens: 2 }));
      const untilMs = begunMs + target.requestMs + checkingMs + 2_000;
      do {
        const { statuses, text } = await exchange({ port: target.port, writes: [small], boundMs: 20_000, answers: 1 });
        if (statuses[0] !== 200) return `a small request: ${statuses[0] ?? "no answer"}: ${JSON.stringify(text.slice(0, 300))}`;
        await sleep(100);
      } while (open.size > 0 && performance.now() < untilMs);
      return open.size === 0 ? null : `${open.size} uploads are still open`;
    } finally {
      for (const socket of sockets) socket.destroy();
    }
  },
};

/** One after the other, because of what they count. */
export const memoryAttacks: Attack[] = [
  unread("a reader that does not read its stream", { stream: true, n: 8, max_tokens: 3_000 }),
  unread("a reader that does not read its whole answer", { stream: false, n: 4, max_tokens: 2_000 }),
  fatStreams,
  stalledUploads,
];

function firstBytes(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve("nothing came"), generatingMs);
    const done = (text: string) => {
      clearTimeout(timer);
      resolve(text);
    };
    socket.once("data", (bytes: Buffer) => done(bytes.toString("latin1")));
    socket.once("close", () => done("closed"));
  });
}
