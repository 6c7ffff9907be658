// What an ExpertPlacement tells of real ranks: the operator against a real API server, under its own rights, and decode processes that share experts, of
// which one is killed. Pods are objects here that say where these processes are; node-experts.test.ts has real ones.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ExpertPlacementStatus } from "../../operators/api/expert-placement.ts";
import { poolLabel, serviceLabel } from "../../operators/planner/names.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { promptRestarts, stream } from "../e2e/support.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { makePod } from "./metrics-endpoints.ts";
import { operatorAccount } from "./operator-account.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, condition, gone, installCrds, objectWhere, placementsPath, servicesPath } from "./service-objects.ts";

const missing = apiServerMissing();
const ranks = 3;
const setsPath = "/apis/apps/v1/namespaces/default/statefulsets";
const path = `${placementsPath}/spread`;

let server: TestApiServer;
let operator: OperatorProcess;
let stack: Stack | undefined;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  operator = await startOperator(await operatorAccount(server), ["--scrape-ms", "250"]);
}, 120_000);
afterAll(async () => {
  await operator?.end();
  await stack?.stop();
  await server?.stop();
}, 60_000);

// biome-ignore lint/suspicious/noExplicitAny: any object's fields
const placementWhere = async (holds: (object: any) => boolean) =>
  ExpertPlacementStatus.parse((await objectWhere(server, path, holds)).status);

describe.skipIf(missing !== undefined)(`shared experts in an API server${missing === undefined ? "" : ` (${missing})`}`, () => {
  it("makes a StatefulSet and an ExpertPlacement that waits for its pods", async () => {
    await applyService(server, "spread", { experts: { ranks, redundancy: 32 } });
    const [set] = (await objectWhere(server, setsPath, ({ items }) => items.length === 1)).items;
    expect(set.spec.replicas).toBe(ranks);
    const status = await placementWhere((each) => condition(each, "Serving") !== undefined);
    expect(status).toMatchObject({ ranks: { present: "0/3", members: [], lost: [] }, losses: 0 });
    expect(condition({ status }, "Serving")).toMatchObject({ status: "Unknown", reason: "NotHeard" });
    expect(operator.log()).not.toMatch(/forbidden/i);
  }, 60_000);

  it("tells of the group, of a rank that is killed, and that it is back", async () => {
    const group: string = (await server.call("GET", setsPath)).body.items[0].metadata.name;
    const env = { PELAGIC_RANK_GROUP: `default/${group}` };
    stack = await startStack({ prefill: 1, decodeRanks: ranks, redundantExperts: 32, restartPolicy: promptRestarts, env });
    for (let rank = 0; rank < ranks; rank++) {
      const port = stack.processes.find(({ name }) => name === `decode-${rank}`)?.metricsPort as number;
      await makePod(server, `${group}-${rank}`, { [serviceLabel]: "spread", [poolLabel]: "decode" }, { port });
    }
    const whole = await placementWhere((each) => condition(each, "Complete")?.status === "True");
    expect(whole).toMatchObject({
      ranks: { present: "3/3", lost: [], indispensable: [] },
      losses: 0,
      plan: { digest: expect.any(String) },
    });
    expect(condition({ status: whole }, "Redundant")?.status).toBe("True");
    await Promise.all([1, 2, 3, 4].map((seed) => stream(stack as Stack, seed, { maxTokens: 400 })));
    expect((await placementWhere(({ status }) => status.balancedness > 0)).balancedness).toBeLessThanOrEqual(1);
    stack.processes.find(({ name }) => name === "decode-1")?.kill("SIGKILL");
    const back = await placementWhere((each) => each.status.losses === 1 && condition(each, "Complete")?.status === "True");
    expect(back.changes?.slice(0, 2).map(({ message }) => message)).toEqual([
      "rank 1 back; all 3 share the experts",
      expect.stringMatching(new RegExp(`^rank 1 lost: pod ${group}-1 \\(rank 1 .*\\); ranks 0 and 2 hold every expert and go on$`)),
    ]);
    const table = await server.call("GET", path, { accept: "application/json;as=Table;g=meta.k8s.io;v=v1" });
    expect(table.body.rows[0].cells.slice(0, 5)).toEqual(["spread", "3/3", "[]", 1, 1]);
    const notes = await server.until("events", async () => {
      const { items } = (await server.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")).body;
      const lost = items.filter(({ reason }: { reason: string }) => reason === "RankLost");
      return lost.length > 0 ? lost : undefined;
    });
    expect(notes[0]).toMatchObject({ type: "Warning", note: expect.stringContaining("rank 1 lost") });
  }, 180_000);

  it("tells of a rank that is stopped, which is no loss and no warning", async () => {
    stack?.processes.find(({ name }) => name === "decode-2")?.kill("SIGTERM");
    const stopped = await placementWhere(({ status }) => status.changes[0].kind === "Stopped" || status.changes[1]?.kind === "Stopped");
    expect(stopped.losses).toBe(1);
    expect(stopped.changes?.find(({ kind }) => kind === "Stopped")?.message).toMatch(
      /^rank 2 stopped: pod .*-2; ranks 0 and 1 hold every expert/,
    );
    const back = await placementWhere((each) => each.status.changes[0].kind === "Met" && condition(each, "Complete")?.status === "True");
    expect(back).toMatchObject({ losses: 1, ranks: { present: "3/3", lost: [] } });
    const { items } = (await server.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")).body;
    expect(items.filter(({ reason }: { reason: string }) => reason === "RankStopped")).toMatchObject([{ type: "Normal" }]);
  }, 60_000);

  it("writes nothing while nothing happens, and goes with what it is about", async () => {
    const before = (await server.call("GET", path)).body.metadata.resourceVersion;
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    expect((await server.call("GET", path)).body.metadata.resourceVersion).toBe(before);
    const plain = { experts: null };
    await server.call("PATCH", `${servicesPath}/spread`, { body: { spec: plain }, contentType: "application/merge-patch+json" });
    await gone(server, path);
  }, 60_000);
});
