// The thin part of the election: who is told what the decisions come to.
import { describe, expect, it } from "vitest";
import type { ApiClient } from "./api-client.ts";
import { Elector } from "./elector.ts";

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

describe("the elector", () => {
  it("tells also of a moment without leading that ended before its timer ran: rounds that came then were dropped", async () => {
    const told: boolean[] = [];
    // As it was made.
    const [creationTimestamp, managedFields] = ["2020-01-01T00:00:00Z", [{ time: "2020-01-01T00:00:00Z" }]];
    const lease = { metadata: { name: "l", resourceVersion: "0", creationTimestamp, managedFields }, spec: {} };
    let renewals = 0;
    let goOn = () => {};
    const lapsed = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const client = {
      async call(method: string, _: string, { body }: { body?: typeof lease }) {
        if (method === "PUT") {
          Object.assign(lease, { metadata: { ...lease.metadata, resourceVersion: String(++renewals) }, spec: body?.spec });
          // Begun while it led, answered when it no longer did, and no timer ran between.
          if (renewals === 2) {
            while (elector.leads);
            setImmediate(goOn);
          }
        }
        return lease;
      },
    } as unknown as ApiClient;
    const times = { leaseMs: 60_000, renewDeadlineMs: 1_000, retryMs: 600 };
    const options = { namespace: "n", name: "l", identity: "me", log, times, onChange: (leads: boolean) => told.push(leads) };
    const elector = new Elector({ client, ...options });
    elector.start();
    await lapsed;
    expect(told).toEqual([true, false, true]);
    await elector.stop();
    expect(told.at(-1)).toBe(false);
  });
});
