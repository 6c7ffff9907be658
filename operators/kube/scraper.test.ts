// Who is asked may be anybody: real HTTP servers, some of which hang.
import { getEventListeners } from "node:events";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { Scraper } from "./scraper.ts";

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

async function endpoint(answer: (response: ServerResponse) => void): Promise<number> {
  const server = createServer((_, response) => answer(response));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

/** All that a signal holds on to: listeners, and what it keeps of signals that were made from it. */
function heldBy(signal: AbortSignal): number {
  const kept = signal as unknown as Record<symbol, { size?: number } | undefined>;
  const sizes = Object.getOwnPropertySymbols(signal).map((symbol) => kept[symbol]?.size ?? 0);
  return getEventListeners(signal, "abort").length + sizes.reduce((sum, size) => sum + size, 0);
}

describe("asking processes", () => {
  it("leaves nothing behind with a signal that lives as long as the process", async () => {
    const port = await endpoint((response) => response.end("a 1"));
    const { signal } = new AbortController();
    const before = heldBy(signal);
    const scraper = new Scraper({ scraped: () => {} });
    const targets = Array.from({ length: 100 }, (_, i) => ({ key: `pod-${i}`, host: "127.0.0.1", port }));
    for (let look = 0; look < 3; look++) expect((await scraper.ask(targets, "/", String, signal)).answers.size).toBe(100);
    // Connections close a moment after their answers.
    for (let tries = 0; heldBy(signal) > before && tries < 100; tries++) await new Promise((resolve) => setTimeout(resolve, 50));
    expect(heldBy(signal)).toBe(before);
  });

  it("says of who hangs, before an answer or in the middle of it, that none came in time", async () => {
    const ports = [await endpoint(() => {}), await endpoint((response) => response.write("a 1"))];
    const targets = ports.map((port, i) => ({ key: `pod-${i}`, host: "127.0.0.1", port }));
    const { answers, failures } = await new Scraper({ scraped: () => {} }).ask(targets, "/", String, new AbortController().signal);
    expect(answers.size).toBe(0);
    expect([...failures.values()]).toEqual(["no answer within 3 s", "no answer within 3 s"]);
  });
});
