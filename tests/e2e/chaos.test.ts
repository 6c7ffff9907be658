// Short runs of ./pelagic chaos: real processes struck at protocol points under load, with exactly the undisturbed answers.
import { expect, test } from "vitest";
import { chaosDefaults, runChaos, type ChaosOptions } from "../../services/cli/chaos/run.ts";

async function chaos(options: Partial<ChaosOptions>) {
  const report = await runChaos({ ...chaosDefaults, minutes: 3, stormAnswerBoundMs: 30_000, onProgress: () => {}, ...options });
  expect(report.violations).toEqual([]);
  expect(report.leakChecks.quietSeconds.length).toBeGreaterThan(0);
  return report;
}

test("workers, gateways and NATS killed, stopped and restarted while clients leave, in caches that are too small; then a storm of aborts", async () => {
  const report = await chaos({ seed: 11, kills: 8, disconnects: 40, requests: 24, kvBlocks: 24, stayers: 8 });
  expect(report.strikes.workerKills).toBeGreaterThanOrEqual(8);
  expect(report.disconnects).toBeGreaterThanOrEqual(40);
  expect(report.storm?.violations).toEqual([]);
}, 300_000);

test("NATS restarted again and again, for less than the lease: no request fails, not even to be tried again", async () => {
  const report = await chaos({ seed: 12, only: "nats", kills: 4, requests: 16, stayers: 6 });
  expect(report.strikes.total).toBeGreaterThanOrEqual(4);
  expect(report.requests.retries).toEqual({});
}, 300_000);
