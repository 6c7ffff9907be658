import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { startNatsTestServer, type NatsTestServer } from "../../../tests/support/nats-test-server.ts";
import { BusError, silentLog, type Bus } from "../contracts/bus.ts";
import { connectBus } from "./nats-bus.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

let server: NatsTestServer;
let buses: Bus[] = [];

async function connectTo(url: string, log = silentLog): Promise<Bus> {
  const bus = await connectBus({ servers: url, name: "test", log });
  buses.push(bus);
  return bus;
}

beforeEach(async () => {
  server = await startNatsTestServer();
});

afterEach(async () => {
  await Promise.all(buses.map((bus) => bus.close()));
  buses = [];
  await server.stop();
});

describe("a bus over NATS", () => {
  it("carries what is published to whoever subscribed", async () => {
    const [a, b] = [await connectTo(server.url), await connectTo(server.url)];
    const got: string[] = [];
    const subscription = b.subscribe("x.*", (message) => got.push(`${message.subject}=${text(message.data)}`));
    await b.flush();
    a.publish("x.1", bytes("one"));
    a.publish("x.2", bytes("two"));
    await vi.waitFor(() => expect(got).toEqual(["x.1=one", "x.2=two"]));
    subscription.unsubscribe();
    await b.flush();
    a.publish("x.3", bytes("three"));
    await a.flush();
    await b.flush();
    expect(got).toHaveLength(2);
  });

  it("answers requests, and gives no respond to who does not ask", async () => {
    const [a, b] = [await connectTo(server.url), await connectTo(server.url)];
    const asked: boolean[] = [];
    b.subscribe("q", (message) => {
      asked.push(message.respond !== undefined);
      message.respond?.(bytes(`re: ${text(message.data)}`));
    });
    await b.flush();
    expect(text(await a.request("q", bytes("hello"), 2_000))).toBe("re: hello");
    a.publish("q", bytes("just so"));
    await vi.waitFor(() => expect(asked).toEqual([true, false]));
  });

  it("names why a request got no answer", async () => {
    const bus = await connectTo(server.url);
    await expect(bus.request("nobody", bytes(""), 2_000)).rejects.toMatchObject({ name: "BusError", code: "no_responders" });
    bus.subscribe("mute", () => undefined);
    await expect(bus.request("mute", bytes(""), 50)).rejects.toMatchObject({ name: "BusError", code: "timeout" });
  });

  it("refuses what the server would not take, before sending it", async () => {
    const bus = await connectTo(server.url);
    expect(bus.maxPayloadBytes).toBe(1024 * 1024);
    const large = new Uint8Array(bus.maxPayloadBytes + 1);
    expect(() => bus.publish("x", large)).toThrowError(expect.objectContaining({ code: "too_large" }));
    await expect(bus.request("x", large, 1_000)).rejects.toMatchObject({ code: "too_large" });
    bus.publish("x", new Uint8Array(bus.maxPayloadBytes));
    await bus.flush();
  });

  it.each([4, 40_000, 600_000])("has copied %i bytes by a microtask queued after they were published", async (size) => {
    const bus = await connectTo(server.url);
    const got: Uint8Array[] = [];
    bus.subscribe("x", ({ data }) => got.push(data));
    await bus.flush();
    const buffer = new Uint8Array(size);
    for (let i = 1; i <= 40; i++) {
      bus.publish("x", buffer.fill(i));
      await Promise.resolve();
    }
    await vi.waitFor(() => expect(got.length).toBe(40));
    for (const [i, data] of got.entries()) expect([data.length, data.every((byte) => byte === i + 1)]).toEqual([size, true]);
  });

  it("outlives a handler that throws", async () => {
    const errors: string[] = [];
    const bus = await connectTo(server.url, { ...silentLog, error: (_fields, message) => errors.push(message) });
    const got: string[] = [];
    bus.subscribe("x", (message) => {
      got.push(text(message.data));
      throw new Error("handler");
    });
    bus.publish("x", bytes("1"));
    bus.publish("x", bytes("2"));
    await vi.waitFor(() => expect(got).toEqual(["1", "2"]));
    expect(errors).toEqual(["message handler failed", "message handler failed"]);
    expect(bus.connected).toBe(true);
  });

  it("refuses to publish while disconnected, ends requests in flight, and works again after a restart on the same port", async () => {
    const bus = await connectTo(server.url);
    const got: string[] = [];
    let reconnects = 0;
    bus.subscribe("x", (message) => got.push(text(message.data)));
    bus.subscribe("mute", () => undefined);
    bus.onReconnect(() => reconnects++);
    await bus.flush();
    const inFlight = bus.request("mute", bytes(""), 60_000).catch((error: unknown) => error);

    await server.kill();
    await vi.waitFor(() => expect(bus.connected).toBe(false));
    expect(await inFlight).toMatchObject({ name: "BusError", code: "disconnected" });
    expect(() => bus.publish("x", bytes("lost"))).toThrowError(BusError);
    await expect(bus.request("x", bytes(""), 1_000)).rejects.toMatchObject({ code: "disconnected" });
    await expect(bus.flush()).rejects.toMatchObject({ code: "disconnected" });
    const late = bus.subscribe("y", (message) => got.push(text(message.data)));

    await server.start();
    await vi.waitFor(() => expect(bus.connected).toBe(true), { timeout: 10_000 });
    expect(reconnects).toBe(1);
    bus.publish("x", bytes("after"));
    bus.publish("y", bytes("new"));
    await vi.waitFor(() => expect(got).toEqual(["after", "new"]));
    late.unsubscribe();
  });

  it("waits for a server that is not up yet, and gives up at its bound", async () => {
    await server.kill();
    const begun = performance.now();
    await expect(connectBus({ servers: server.url, name: "test", log: silentLog, timeoutMs: 800 })).rejects.toMatchObject({
      code: "disconnected",
    });
    expect(performance.now() - begun).toBeLessThan(2_000);
    const connecting = connectTo(server.url);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await server.start();
    expect((await connecting).connected).toBe(true);
  });

  it("closes within a bound, connected or not", async () => {
    const bus = await connectTo(server.url);
    await bus.close();
    expect(bus.connected).toBe(false);
    expect(() => bus.publish("x", bytes(""))).toThrowError(BusError);
    const other = await connectTo(server.url);
    await server.kill();
    await vi.waitFor(() => expect(other.connected).toBe(false));
    const begun = performance.now();
    await other.close();
    expect(performance.now() - begun).toBeLessThan(4_000);
  });
});
