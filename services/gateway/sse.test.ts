import { EventEmitter, once } from "node:events";
import { Agent, createServer, get, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { describe, expect, it } from "vitest";
import { doneEvent, SseWriter, sseEvent } from "./sse.ts";

/** A response whose buffer is full after each write until it drains or closes. */
class FullResponse extends EventEmitter {
  headersSent = false;
  destroyed = false;
  written: string[] = [];
  writeHead(): void {
    this.headersSent = true;
  }
  write(text: string): boolean {
    this.written.push(text);
    return false;
  }
  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }
}

describe("SSE writer", () => {
  const start = (stallMs = 5_000) => {
    const response = new FullResponse();
    return { response, writer: new SseWriter(response as unknown as ServerResponse, stallMs) };
  };

  it("keeps an event on one line", () => {
    expect(sseEvent({ text: "a\nb\r\u2028" })).toBe('data: {"text":"a\\nb\\r\u2028"}\n\n');
  });

  it("waits for the reader, and for its leaving, and leaves no listeners", async () => {
    const { response, writer } = start();
    let done = false;
    const first = writer.write("1")?.then(() => (done = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    response.emit("drain");
    await first;
    const second = writer.write("2");
    response.destroy();
    await expect(second).rejects.toMatchObject({ code: "cancelled" });
    expect(() => writer.write("3")).toThrow("the reader is gone");
    expect(response.written).toEqual(["1", "2"]);
    expect(response.listenerCount("drain") + response.listenerCount("close")).toBe(0);
  });

  it("gives up a reader that stalls", async () => {
    const { response, writer } = start(20);
    await expect(writer.write("1")).rejects.toMatchObject({ code: "cancelled" });
    expect(response.destroyed).toBe(true);
  });
});

describe("on a real connection", () => {
  const events = ["data: ä€😀\n\n", "", "data: 2\n\n", doneEvent];
  async function serve<T>(use: (port: number) => Promise<T>): Promise<T> {
    const server = createServer(async (_request, response) => {
      const writer = new SseWriter(response, 5_000);
      for (const text of events) {
        await writer.write(text);
        await new Promise((resolve) => setImmediate(resolve));
      }
      writer.end();
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    try {
      return await use((server.address() as AddressInfo).port);
    } finally {
      server.close();
    }
  }

  it("frames HTTP/1.1's chunks, and the connection goes on after them", async () => {
    await serve(async (port) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const ask = async () => {
        const [response] = (await once(get({ port, host: "127.0.0.1", agent }), "response")) as [IncomingMessage];
        const from = response.socket.localPort;
        const chunks: Buffer[] = [];
        for await (const chunk of response) chunks.push(chunk as Buffer);
        return { text: Buffer.concat(chunks).toString(), from, encoding: response.headers["transfer-encoding"] };
      };
      const [first, second] = [await ask(), await ask()];
      expect([first.text, second.text]).toEqual([events.join(""), events.join("")]);
      expect([first.encoding, second.from]).toEqual(["chunked", first.from]);
      agent.destroy();
    });
  });

  it("frames nothing for HTTP/1.0", async () => {
    await serve(async (port) => {
      const socket = connect(port, "127.0.0.1");
      socket.write("GET / HTTP/1.0\r\n\r\n");
      const chunks: Buffer[] = [];
      for await (const chunk of socket) chunks.push(chunk as Buffer);
      const [head, body] = Buffer.concat(chunks)
        .toString()
        .split(/\r\n\r\n(.*)/s);
      expect(head).not.toMatch(/transfer-encoding/i);
      expect(body).toBe(events.join(""));
    });
  });
});
