import { EventEmitter } from "node:events";
import type { ServerResponse } from "node:http";
import { describe, expect, it } from "vitest";
import { SseWriter, sseEvent } from "./sse.ts";

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
    const first = writer.write("1").then(() => (done = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    response.emit("drain");
    await first;
    const second = writer.write("2");
    response.destroy();
    await expect(second).rejects.toMatchObject({ code: "cancelled" });
    await expect(writer.write("3")).rejects.toMatchObject({ code: "cancelled" });
    expect(response.written).toEqual(["1", "2"]);
    expect(response.listenerCount("drain") + response.listenerCount("close")).toBe(0);
  });

  it("gives up a reader that stalls", async () => {
    const { response, writer } = start(20);
    await expect(writer.write("1")).rejects.toMatchObject({ code: "cancelled" });
    expect(response.destroyed).toBe(true);
  });
});
