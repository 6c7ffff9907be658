// The job before an uninstall, which may wait for minutes: an API server that is away for a moment meanwhile does not end it.
import { type ChildProcess, spawn } from "node:child_process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { type Fault, type FaultProxy, startFaultProxy } from "./fault-proxy.ts";
import { gone, installCrds, objectWhere, service, servicesPath } from "./service-objects.ts";

const missing = apiServerMissing();
let server: TestApiServer;
let proxy: FaultProxy;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  proxy = await startFaultProxy(server);
});
afterAll(async () => {
  await proxy?.stop();
  await server?.stop();
});

describe.skipIf(missing !== undefined)(`the job that deletes a release's models${missing ? ` (${missing})` : ""}`, () => {
  it.each<[string, Fault]>([
    ["500", { status: 500 }],
    ["429", { status: 429 }],
    ["cut connections", "drop"],
  ])("waits through %s", async (_, fault) => {
    const annotations = { "meta.helm.sh/release-name": "r", "meta.helm.sh/release-namespace": "default" };
    const metadata = { name: "drains", annotations, finalizers: ["example.com/drains"] };
    expect((await server.call("POST", servicesPath, { body: { ...service("drains"), metadata } })).status).toBe(201);
    const { child, text } = startJob(proxy.kubeconfig);
    const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
    await objectWhere(server, `${servicesPath}/drains`, (each) => each.metadata.deletionTimestamp !== undefined);
    const from = proxy.seen.length;
    proxy.fault(() => fault);
    await server.until("two more looks, or its end", async () =>
      proxy.seen.length > from + 1 || child.exitCode !== null ? true : undefined,
    );
    proxy.fault();
    await server.call("PATCH", `${servicesPath}/drains`, {
      body: { metadata: { finalizers: [] } },
      contentType: "application/merge-patch+json",
    });
    expect(await ended, text()).toBe(0);
    // For who finds an uninstall that waits for an operator which is not there.
    expect(text()).toContain('  kubectl -n default patch modelservice drains --type=merge -p \'{"metadata":{"finalizers":null}}\'\n');
    await gone(server, `${servicesPath}/drains`);
  });

  it("refuses in lines that a person can paste where there is a ModelService of somebody else", async () => {
    expect((await server.call("POST", servicesPath, { body: service("of-somebody-else") })).status).toBe(201);
    const { child, text } = startJob(server.kubeconfig);
    // Its streams, too, have ended then.
    expect(await new Promise((resolve) => child.once("close", resolve))).toBe(1);
    expect(text().split("\n")).toContain("  kubectl -n default delete modelservice of-somebody-else");
    expect(text()).not.toContain("    at ");
    await server.call("DELETE", `${servicesPath}/of-somebody-else`);
    await gone(server, `${servicesPath}/of-somebody-else`);
  });
});

function startJob(kubeconfig: string): { child: ChildProcess; text: () => string } {
  const flags = ["--kubeconfig", kubeconfig, "--release-name", "r", "--release-namespace", "default", "--namespace", "default"];
  const child = spawn(process.execPath, [inTree("dist", "operators", "jobs", "delete-models.js"), ...flags], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  child.stderr.on("data", (chunk: Buffer) => {
    text += chunk.toString("utf8");
  });
  return { child, text: () => text };
}
