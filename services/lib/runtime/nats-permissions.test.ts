import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { startNatsTestServer, type NatsTestServer } from "../../../tests/support/nats-test-server.ts";
import { silentLog, type Bus } from "../contracts/bus.ts";
import { subjects } from "../contracts/subjects.ts";
import { connectBus } from "./nats-bus.ts";
import { natsPermissions, natsUserName, type NatsRole, type NatsUser } from "./nats-permissions.ts";

const service = "test";
const named = subjects(service);
const transferId = "0123456789abcdef0123456789abcdef";
const payload = new Uint8Array([1]);

const users: NatsUser[] = (
  [
    ["gateway", "gateway-0"],
    ["gateway", "gateway-1"],
    ["prefill", "prefill-0"],
    ["decode", "decode-0"],
    ["decode", "decode-1"],
    ["cli", undefined],
    ["observer", undefined],
  ] as [NatsRole, string | undefined][]
).map(([role, id]) => ({ role, id, user: natsUserName(service, id ?? role), password: `password of ${id ?? role}` }));

let server: NatsTestServer;
const buses = new Map<string, Bus>();
/** Server errors seen by each process. */
const refusals = new Map<string, string[]>();

beforeAll(async () => {
  server = await startNatsTestServer({ users, service });
  for (const { id, role, user, password } of users) {
    const seen: string[] = [];
    const log = { ...silentLog, error: (fields: object) => seen.push(JSON.stringify(fields)) };
    refusals.set(id ?? role, seen);
    buses.set(id ?? role, await connectBus({ servers: server.url, user, password, name: id ?? role, log }));
  }
});

afterAll(async () => {
  await Promise.all([...buses.values()].map((bus) => bus.close()));
  await server.stop();
});

const bus = (name: string) => buses.get(name) as Bus;

/** Whether what one process publishes on the subject reaches the other. */
async function reaches(from: string, to: string, subject: string): Promise<boolean> {
  let arrived = false;
  const subscription = bus(to).subscribe(subject, () => {
    arrived = true;
  });
  await bus(to).flush();
  bus(from).publish(subject, payload);
  await bus(from).flush();
  await bus(to).flush();
  subscription.unsubscribe();
  return arrived;
}

describe("permissions on a real server", () => {
  it.each([
    ["gateway-0", "decode-0", named.control("decode-0")],
    ["gateway-0", "decode-0", named.stateRequest],
    ["cli", "prefill-0", named.control("prefill-0")],
    ["decode-0", "gateway-0", named.deltas("gateway-0", "a1")],
    ["decode-0", "gateway-0", named.state("decode-0")],
    ["prefill-0", "cli", named.state("prefill-0")],
    ["prefill-0", "decode-0", named.frames("decode-0", transferId)],
    ["prefill-0", "decode-0", named.notices("decode-0")],
    ["prefill-0", "decode-0", named.loads("prefill-0")],
    ["decode-0", "decode-1", named.loads("decode-0")],
    ["decode-0", "prefill-0", named.credit("prefill-0", transferId)],
    ["decode-0", "decode-1", named.rows("decode-1")],
    ["decode-0", "decode-1", named.frames("decode-1", transferId)],
    ["prefill-0", "observer", named.frames("decode-0", transferId)],
    ["gateway-0", "observer", named.control("decode-0")],
  ])("%s may speak to %s on %s", async (from, to, subject) => {
    expect(await reaches(from, to, subject)).toBe(true);
  });

  it.each([
    ["gateway-0", "decode-0", named.frames("decode-0", transferId)],
    ["prefill-0", "gateway-0", named.deltas("gateway-0", "a1")],
    ["decode-0", "gateway-0", named.state("prefill-0")],
    ["decode-0", "decode-1", named.control("decode-1")],
    ["cli", "decode-0", named.dispatch("decode-0")],
    ["gateway-0", "prefill-0", named.rows("prefill-0")],
    ["observer", "decode-0", named.control("decode-0")],
  ])("%s may not publish to %s on %s", async (from, to, subject) => {
    expect(await reaches(from, to, subject)).toBe(false);
    await vi.waitFor(() => expect(refusals.get(from)?.join()).toContain("Permissions Violation for Publish"));
  });

  it.each([
    ["prefill-0", named.deltas("gateway-0", "a1")],
    ["gateway-1", named.deltas("gateway-0", "a1")],
    ["decode-1", named.frames("decode-0", transferId)],
    ["decode-1", named.dispatch("decode-0")],
    ["gateway-0", `_INBOX_${natsUserName(service, "gateway-1")}.>`],
    ["cli", ">"],
  ])("%s may not listen on %s", async (name, subject) => {
    const before = refusals.get(name)?.length ?? 0;
    bus(name).subscribe(subject, () => undefined);
    await vi.waitFor(() => expect(refusals.get(name)?.slice(before).join()).toContain("Permissions Violation for Subscription"));
  });

  it("lets requests be answered, by those who were asked only", async () => {
    const subscription = bus("decode-0").subscribe(named.dispatch("decode-0"), (message) => message.respond?.(payload));
    await bus("decode-0").flush();
    expect(await bus("gateway-0").request(named.dispatch("decode-0"), payload, 2_000)).toEqual(payload);
    subscription.unsubscribe();
    await expect(bus("gateway-0").request(named.rows("prefill-0"), payload, 1_000)).rejects.toMatchObject({ code: "no_responders" });
  });

  it("refuses a wrong password at once", async () => {
    const begun = performance.now();
    const connecting = connectBus({ servers: server.url, user: users[0]?.user, password: "no", name: "x", log: silentLog });
    await expect(connecting).rejects.toThrow(/refuses user/);
    expect(performance.now() - begun).toBeLessThan(3_000);
  });
});

describe("permissions of a role without an id", () => {
  it("cover every process of the role", () => {
    const permissions = natsPermissions(service, { role: "decode", user: "decode" });
    expect(permissions.subscribe).toContain("pelagic.test.kv.*.*");
    expect(permissions.publish).toContain("pelagic.test.state.*");
  });
});
