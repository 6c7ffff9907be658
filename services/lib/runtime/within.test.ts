import { getEventListeners } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { within } from "./within.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
/** Takes connections and never answers. */
const silent = createServer(() => {});
let url = "";

beforeEach(async () => {
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}/`;
});
afterEach(() => {
  silent.closeAllConnections();
  silent.close();
});

describe("work within a bound", () => {
  it("ends there, whatever is collected meanwhile", async () => {
    const { signal } = new AbortController();
    const collecting = setInterval(collect, 20);
    try {
      await expect(within(300, signal, (bounded) => fetch(url, { signal: bounded }))).rejects.toMatchObject({ name: "TimeoutError" });
    } finally {
      clearInterval(collecting);
    }
    expect(getEventListeners(signal, "abort")).toEqual([]);
  });

  it("ends with the signal beside it, also where that was aborted before", async () => {
    const stopper = new AbortController();
    const asked = within(60_000, stopper.signal, (bounded) => fetch(url, { signal: bounded }));
    stopper.abort(new Error("stopped"));
    await expect(asked).rejects.toThrow("stopped");
    await expect(within(60_000, stopper.signal, (bounded) => fetch(url, { signal: bounded }))).rejects.toThrow("stopped");
  });

  it("gives what the work gives", async () => {
    expect(await within(60_000, new AbortController().signal, async () => 7)).toBe(7);
  });
});
