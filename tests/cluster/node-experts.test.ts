// A decode pool of four pods that share one model's experts, on a real node: a pod deleted under load, one killed, another form of the whole group, experts
// that move by their load, and no request that notices; the ExpertPlacement says what it was. Needs root; the steps build on each other.
import { beforeAll, expect, it } from "vitest";
import { ExpertPlacementStatus } from "../../operators/api/expert-placement.ts";
import { complete, underLoad } from "./node-load.ts";
import { describeRelease } from "./node-release.ts";
import { stepMs } from "./real-node.ts";

const ranks = 4;
/** Two copies of each of 32 experts, on two ranks: any one may be lost. */
const redundancy = 32;
const spec = {
  experts: { ranks, redundancy },
  pools: { decode: { cacheMemoryMib: 16, threads: 1, drainSeconds: 30 }, prefill: { threads: 1, drainSeconds: 30 } },
};

const condition = ({ conditions }: ExpertPlacementStatus, type: string) => conditions?.find((each) => each.type === type);
const isWhole = (status: ExpertPlacementStatus) => condition(status, "Complete")?.status === "True";

describeRelease("shared experts on a node", "pelagic-experts", (release) => {
  async function placement(): Promise<ExpertPlacementStatus> {
    const { status } = JSON.parse(await release.kube("get", "expertplacement", "plankton", "-o", "json"));
    return ExpertPlacementStatus.parse(status ?? {});
  }

  async function placementWhere(what: string, holds: (status: ExpertPlacementStatus) => boolean): Promise<ExpertPlacementStatus> {
    const begun = performance.now();
    for (let status = await placement(); ; status = await placement()) {
      if (holds(status)) return status;
      expect(performance.now() - begun, `${what}: ${JSON.stringify(status)}`).toBeLessThan(stepMs / 2);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  }

  /** As a person asks. */
  const shown = async () => (await release.kube("get", "expertplacement")).trim();

  async function groupOf(): Promise<string> {
    const pods = await release.podsOf("decode");
    return (pods[0] as string).replace(/-\d+$/, "");
  }

  beforeAll(async () => {
    await release.helm("install", "--set-json", `modelService.spec=${JSON.stringify(spec)}`, "--wait");
  }, stepMs);

  it(
    "four pods become one group that serves, and any one of them may be lost",
    async () => {
      await release.kube("wait", "modelservice/plankton", "--for=condition=Ready", "--timeout=240s");
      const status = await placementWhere("all ranks", (each) => isWhole(each) && each.ranks?.members.length === ranks);
      expect(status).toMatchObject({
        ranks: { present: "4/4", lost: [], indispensable: [] },
        losses: 0,
        plan: { digest: expect.stringMatching(/^[0-9a-f]{16}$/) },
      });
      expect(condition(status, "Redundant")).toMatchObject({ status: "True" });
      for (let tries = 0; /^(503|404)/.test(await complete(release, 0, 4)) && tries < 60; tries++)
        await new Promise((resolve) => setTimeout(resolve, 500));
      expect(await complete(release, 1, 8)).not.toMatch(/^\d{3}: /);
      console.log(await shown());
    },
    stepMs,
  );

  it.each([
    ["deleted", 2, []],
    ["killed", 1, ["--grace-period=0", "--force"]],
  ])(
    "a pod that is %s under load: no request notices, and kubectl get expertplacement tells it",
    async (_, rank, flags) => {
      const pod = `${await groupOf()}-${rank}`;
      // One that has nothing left to do when it is ended has stopped in time, however short that is.
      const isTold = ({ message }: { message: string }) =>
        [`rank ${rank} lost: pod ${pod}`, `rank ${rank} stopped: pod ${pod}`].some((start) => message.startsWith(start));
      const told = ({ changes }: ExpertPlacementStatus) => changes?.some(isTold) ?? false;
      const { answers, wrong } = await underLoad(release, async () => {
        await release.kube("delete", "pod", pod, ...flags);
        const lost = await placementWhere("that it is gone", told);
        console.log(`${condition(lost, "Complete")?.message}\n${await shown()}`);
        await placementWhere("the rank again", (each) => isWhole(each) && told(each));
        // How even the load is.
        await placementWhere("a balance", (each) => (each.balancedness ?? 0) > 0);
      });
      const status = await placement();
      const table = await shown();
      console.log(`${answers} answers meanwhile\n${table}\n${JSON.stringify(status.changes, null, 1)}`);
      expect(wrong).toEqual([]);
      expect(answers).toBeGreaterThan(4);
      expect(table).toMatch(/plankton +4\/4 +\[\]/);
      expect(status.changes?.some(({ message }) => message === `rank ${rank} back; all 4 share the experts`)).toBe(true);
      expect(condition(status, "Serving")).toMatchObject({ status: "True" });
      const events = await release.kube("get", "events", "-o", "jsonpath={.items[*].message}");
      expect(events).toMatch(new RegExp(`rank ${rank} (lost|stopped): pod ${pod}`));
    },
    stepMs,
  );

  it(
    "another redundancy makes another group beside the first, which then goes, and no request notices",
    async () => {
      const before = await groupOf();
      const { losses } = await placement();
      const next = { redundancy: 40, rebalanceSeconds: 5 };
      const { answers, wrong } = await underLoad(release, async () => {
        await release.kube("patch", "modelservice", "plankton", "--type=merge", "-p", JSON.stringify({ spec: { experts: next } }));
        await release.kube("wait", "modelservice/plankton", "--for=condition=Progressing=True", "--timeout=60s");
        await release.kube("wait", "modelservice/plankton", "--for=condition=Progressing=False", "--timeout=240s");
        await placementWhere("the new group", (each) => isWhole(each) && each.changes?.[0]?.group !== before);
      });
      const status = await placement();
      console.log(`${answers} answers while the group was replaced\n${await shown()}`);
      expect(wrong).toEqual([]);
      expect((await release.podsOf("decode")).filter((name) => name.startsWith(before))).toEqual([]);
      expect(status.changes?.some(({ message }) => message.includes("all 4 ranks have met"))).toBe(true);
      // Ranks that went with their group were not lost.
      expect(status.losses).toBe(losses);
    },
    stepMs,
  );

  it(
    "experts move by their load while the ranks serve, and kubectl get expertplacement tells it",
    async () => {
      const { losses } = await placement();
      const { wrong } = await underLoad(release, async () => {
        await placementWhere("another plan", ({ plan, moved }) => (plan?.version ?? 0) > 1 && (moved?.experts ?? 0) > 0);
      });
      const status = await placement();
      console.log(`${JSON.stringify(status.moved)}\n${await shown()}`);
      expect(wrong).toEqual([]);
      expect(status.changes?.some(({ message }) => /^plan \d+ in force/.test(message))).toBe(true);
      expect(isWhole(status)).toBe(true);
      expect(status.losses).toBe(losses);
    },
    stepMs,
  );
});
