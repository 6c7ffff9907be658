// Asks a Node process to collect its garbage, through the inspector that every one opens at SIGUSR1: what is left is held.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { get } from "node:http";
import type { Socket } from "node:net";
import type { StackProcess } from "../stack/stack.ts";
import { sleep } from "./sockets.ts";

/** For the processes' NODE_OPTIONS: several on one machine. */
export const anyInspectorPort = "--inspect-port=0";
const boundMs = 30_000;
const pollMs = 50;

/** Where it listens, as it says in its log. */
export async function openInspector(process: StackProcess): Promise<URL> {
  process.kill("SIGUSR1");
  for (const untilMs = performance.now() + boundMs; performance.now() < untilMs; await sleep(pollMs)) {
    const url = /Debugger listening on (ws:\S+)/.exec(readFileSync(process.logFile, "utf8"))?.[1];
    if (url !== undefined) return new URL(url);
  }
  throw new Error(`${process.name} opened no inspector within ${boundMs} ms`);
}

export async function collectGarbage(inspector: URL): Promise<void> {
  const socket = await upgraded(inspector);
  try {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no garbage was collected within ${boundMs} ms`)), boundMs);
      let received = "";
      socket.on("data", (data: Buffer) => {
        // One short answer, in one unmasked frame.
        received += data.toString("latin1");
        if (!received.includes('"id":1')) return;
        clearTimeout(timer);
        if (received.includes('"error"')) reject(new Error(received));
        else resolve();
      });
      socket.on("error", reject);
      socket.write(textFrame('{"id":1,"method":"HeapProfiler.collectGarbage"}'));
    });
  } finally {
    socket.destroy();
  }
}

function upgraded({ hostname, port, pathname }: URL): Promise<Socket> {
  const headers = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": randomBytes(16).toString("base64"),
  };
  return new Promise((resolve, reject) => {
    get({ hostname, port, path: pathname, headers, timeout: boundMs })
      .on("upgrade", (_response, socket: Socket) => resolve(socket))
      .on("response", (response) => reject(new Error(`the inspector answers ${response.statusCode}`)))
      .on("error", reject);
  });
}

/** RFC 6455: final, text, masked (with zeros, which change nothing); short enough for a length of one byte. */
function textFrame(text: string): Buffer {
  return Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);
}
