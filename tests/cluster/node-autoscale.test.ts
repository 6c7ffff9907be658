// A served model on a real node that grows under load, shrinks after it and sleeps when nobody asks, by policy slo: real pods, the product's own load tool, and no request
// that notices. Needs root; the steps build on each other.
import { beforeAll, expect, it } from "vitest";
import type { LoadReport } from "../../loadtest/report.ts";
import { runCommand } from "../../services/cli/run-command.ts";
import { inTree } from "../../services/cli/tree.ts";
import { describeRelease } from "./node-release.ts";
import { askSum, stepMs } from "./real-node.ts";

/**
 * A decode worker has room for two or three such requests at once, on whatever machine: with ten that are always there, one is not enough. What the SLOs
 * are does not matter then.
 */
const load = { clients: 10, promptTokens: 128, outputTokens: 320 };
const spec = {
  pools: { decode: { cacheMemoryMib: 8, threads: 1, drainSeconds: 60 }, prefill: { threads: 1, drainSeconds: 60 } },
  slo: { ttftSeconds: 2, tpotSeconds: 1 },
  autoscaling: { policy: "slo", prefill: { maxReplicas: 2 }, decode: { maxReplicas: 3 }, stabilizationSeconds: 15 },
};

describeRelease("autoscaling on a node", "pelagic-scaled", (release) => {
  /** One run of the load tool: its figures may not be good for anything on a busy machine, what became of the requests is. */
  async function offer(...flags: string[]): Promise<LoadReport["summary"]> {
    const lengths = ["--prompt-tokens", String(load.promptTokens), "--output-tokens", String(load.outputTokens)];
    const to = ["--base-url", `http://${await release.address()}:8000/v1`, "--model", "plankton"];
    const cli = inTree("dist", "services", "cli", "main.js");
    const ran = await runCommand(process.execPath, [cli, "load", ...to, ...lengths, ...flags, "--json"], { timeoutMs: stepMs });
    expect(ran.stdout, ran.stderr).toContain('"summary"');
    const { summary } = JSON.parse(ran.stdout) as LoadReport;
    const { ok, ...others } = summary.byOutcome;
    expect(Object.entries(others).filter(([, count]) => count > 0)).toEqual([]);
    expect(ok).toBeGreaterThan(0);
    return summary;
  }

  async function decodeWorkers(): Promise<{ ready: number; desired: number; reason: string }> {
    const { ready, desired, reason } = JSON.parse(await release.kube("get", "modelservice", "plankton", "-o", "json")).status.pools.decode;
    return { ready, desired, reason: reason ?? "" };
  }

  /** Offers load again and again until so many are wanted and ready; gives the requests and seconds that it took. */
  async function offerUntil(holds: (workers: { ready: number; desired: number }) => boolean, ...flags: string[]) {
    const begun = performance.now();
    let requests = 0;
    for (let workers = await decodeWorkers(); !holds(workers); workers = await decodeWorkers()) {
      expect(performance.now() - begun, JSON.stringify(workers)).toBeLessThan(2 * stepMs);
      requests += (await offer(...flags)).byOutcome.ok;
    }
    return { requests, seconds: (performance.now() - begun) / 1000, ...(await decodeWorkers()) };
  }

  beforeAll(async () => {
    await release.helm("install", "--set-json", `modelService.spec=${JSON.stringify(spec)}`, "--wait");
    await release.kube("wait", "modelservice/plankton", "--for=condition=Progressing=False", "--timeout=120s");
    await release.answers();
  }, stepMs);

  it(
    "more workers come while the load is more than one can do, and say why",
    async () => {
      expect(await decodeWorkers()).toMatchObject({ ready: 1, desired: 1 });
      const clients = ["--clients", String(load.clients), "--requests", String(4 * load.clients)];
      const grown = await offerUntil(({ ready, desired }) => desired > 1 && ready === desired, ...clients);
      console.log(`1 to ${grown.desired} decode workers in ${grown.seconds.toFixed(0)} s, ${grown.requests} requests: ${grown.reason}`);
      expect(grown.reason).toMatch(/output tokens\/s are asked for|was .* \(SLO/);
      const events = await release.kube("get", "events", "-o", "jsonpath={.items[*].message}");
      expect(events).toMatch(/decode: 1 to [23] workers, as /);
      await offer(...clients);
    },
    3 * stepMs,
  );

  it(
    "and go when it has become little, without a request that notices",
    async () => {
      const shrunk = await offerUntil(({ ready, desired }) => desired === 1 && ready === 1, "--rate", "0.5", "--duration", "8");
      console.log(`back to 1 decode worker ${shrunk.seconds.toFixed(0)} s after the load, ${shrunk.requests} requests meanwhile`);
      const autoscaled = await release.kube(
        ...["get", "modelservice", "plankton", "-o", 'jsonpath={.status.conditions[?(@.type=="Autoscaled")].status}'],
      );
      expect(autoscaled).toBe("True");
      expect(await askSum(await release.address(), 60_000)).toMatch(/\b663\b/);
    },
    3 * stepMs,
  );

  it(
    "to zero when nobody asks, and back for a request that waits",
    async () => {
      const asleep = '{"spec":{"autoscaling":{"scaleToZeroAfterSeconds":60}}}';
      await release.kube("patch", "modelservice", "plankton", "--type=merge", "-p", asleep);
      for (const pool of ["prefill", "decode"])
        await release.kube("wait", "modelservice/plankton", `--for=jsonpath={.status.pools.${pool}.desired}=0`, "--timeout=200s");
      const workers = async () => [...(await release.podsOf("prefill")), ...(await release.podsOf("decode"))];
      for (let tries = 0; (await workers()).length > 0 && tries < 120; tries++) await new Promise((resolve) => setTimeout(resolve, 500));
      expect(await workers()).toEqual([]);
      const begun = performance.now();
      expect(await askSum(await release.address(), 120_000)).toMatch(/\b663\b/);
      console.log(`from zero to the answer: ${((performance.now() - begun) / 1000).toFixed(1)} s`);
    },
    2 * stepMs,
  );
});
