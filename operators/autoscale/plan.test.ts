import { describe, expect, it } from "vitest";
import { ModelServiceSpec } from "../api/model-service.ts";
import { type AutoscaleConfig, autoscaleConfigOf, constants } from "./config.ts";
import { violation } from "./needs.ts";
import { type AutoscaleDecision, type AutoscaleState, planAutoscale } from "./plan.ts";
import type { DecodeSample, PoolSnapshot, PrefillSample, Replica, Snapshot } from "./snapshot.ts";

const config: AutoscaleConfig = {
  prefill: { minReplicas: 1, maxReplicas: 10 },
  decode: { minReplicas: 1, maxReplicas: 10 },
  ttftSeconds: 2,
  tpotSeconds: 0.05,
  stabilizationSeconds: 300,
  scaleToZeroAfterSeconds: null,
};

function ready<S>(count: number, sample: S, stateSeconds = 1000): Replica<S>[] {
  return Array.from({ length: count }, (_, i) => ({ name: `ready-${i}`, state: "ready", stateSeconds, sample }));
}
const others = (count: number, state: "starting" | "unschedulable", stateSeconds: number) =>
  Array.from({ length: count }, (_, i) => ({ name: `${state}-${i}`, state, stateSeconds, sample: null }));

const prefillPool = (count: number, queuedTokens = 0): PoolSnapshot<PrefillSample> => ({
  wanted: count,
  replicas: ready(count, { tokensPerSecond: 2000, queuedTokens }),
});
const decodePool = (count: number): PoolSnapshot<DecodeSample> => ({
  wanted: count,
  replicas: ready(count, { batch: 10, stepSeconds: 0.035, cacheOfRequest: 0.01 }),
});

/** Two requests a second of 1,000 and 100 tokens: about 1.3 replicas of prefill and 0.5 of decode. */
const usual: Snapshot = {
  atSeconds: 0,
  intervalSeconds: 15,
  requestsPerSecond: 2,
  answersPerSecond: 2,
  outputTokensPerSecond: 200,
  inputTokensPerSecond: 2000,
  runningRequests: 5,
  waitingRequests: 0,
  gatewaysHeard: 1,
  unheard: [],
  ttftSeconds: 1,
  tpotSeconds: 0.04,
  prefillQueueSeconds: 0.1,
  admissionSeconds: 0.01,
  prefill: prefillPool(2),
  decode: decodePool(1),
};
const silent: Partial<Snapshot> = {
  ...{ requestsPerSecond: 0, answersPerSecond: 0, outputTokensPerSecond: 0, inputTokensPerSecond: 0, runningRequests: 0 },
  ...{ ttftSeconds: null, tpotSeconds: null, prefillQueueSeconds: null, admissionSeconds: null },
};

/** One snapshot after another, 15 s apart, each as usual but for what is said of it. */
class Service {
  state: AutoscaleState | null = null;
  atSeconds = 0;
  constructor(readonly settings: Partial<AutoscaleConfig> = {}) {}

  see(changes: Partial<Snapshot> = {}, times = 1): AutoscaleDecision {
    let decision: AutoscaleDecision | null = null;
    for (let i = 0; i < times; i++) {
      this.atSeconds += 15;
      decision = planAutoscale({ ...usual, ...changes, atSeconds: this.atSeconds }, { ...config, ...this.settings }, this.state);
      this.state = decision.state;
    }
    return decision as AutoscaleDecision;
  }
}

describe("a decision", () => {
  it("is quiet while nothing changes, and says why", () => {
    const service = new Service();
    const first = service.see();
    expect(first.prefill).toMatchObject({ replicas: 2, kind: "Enough" });
    expect(service.see({}, 20).prefill).toBe(first.prefill);
  });

  it("names load and pace where it asks for more, and keeps those words while the number is right", () => {
    const service = new Service();
    service.see({}, 8);
    const { prefill } = service.see({ requestsPerSecond: 6, inputTokensPerSecond: 6000 }, 8);
    expect(prefill).toMatchObject({ kind: "More" });
    expect(prefill.reason).toMatch(/prompt tokens\/s arrive .* a replica computes 2,000 a second, planned to 75%/);
    const after = service.see({ requestsPerSecond: 6, inputTokensPerSecond: 6000, prefill: prefillPool(prefill.replicas) });
    expect(after.prefill.reason).toBe(prefill.reason);
  });

  it("takes nothing away before stabilizationSeconds, also right after a start of the operator", () => {
    const service = new Service();
    const many = { prefill: prefillPool(8) };
    for (let seconds = 15; seconds <= 300; seconds += 15) expect(service.see(many).prefill.replicas).toBe(8);
    expect(service.see(many).prefill).toMatchObject({ replicas: 6, kind: "Fewer" });
  });

  it("leaves the number alone where the gateways give no figures", () => {
    const service = new Service();
    service.see({}, 8);
    const { prefill, decode } = service.see({ requestsPerSecond: null, prefill: prefillPool(7), decode: decodePool(3) }, 100);
    expect(prefill).toMatchObject({ replicas: 7, kind: "NoFigures" });
    expect(decode).toMatchObject({ replicas: 3, kind: "NoFigures" });
  });

  it("is not blocked by a worker that gives no figures", () => {
    const service = new Service();
    const [first, ...rest] = ready<PrefillSample | null>(2, { tokensPerSecond: 2000, queuedTokens: 0 });
    const prefill = {
      wanted: 2,
      replicas: [{ ...(first as Replica<PrefillSample>), sample: null }, ...rest],
    } as PoolSnapshot<PrefillSample>;
    service.see({ prefill }, 8);
    expect(service.see({ prefill, requestsPerSecond: 8, inputTokensPerSecond: 8000 }, 4).prefill.kind).toBe("More");
  });

  it("asks for no more of one pool than the other can follow", () => {
    const service = new Service({ prefill: { minReplicas: 1, maxReplicas: 2 } });
    service.see({}, 8);
    const flood = { requestsPerSecond: 40, inputTokensPerSecond: 40_000, prefill: prefillPool(2) };
    const { prefill, decode } = service.see(flood, 20);
    expect(prefill).toMatchObject({ replicas: 2, kind: "AtMaximum" });
    expect(decode.replicas).toBeLessThanOrEqual(3);
    expect(new Service().see(flood).prefill.replicas).toBeGreaterThan(2);
  });
});

describe("violated SLOs", () => {
  it("speak of the pool in which the time went", () => {
    const late = { ...usual, ttftSeconds: 5 };
    expect(violation(usual, config)).toBeNull();
    expect(violation({ ...late, prefillQueueSeconds: 3 }, config)).toMatchObject({ pool: "prefill" });
    expect(violation({ ...late, admissionSeconds: 3 }, config)).toMatchObject({ pool: "decode" });
    expect(violation({ ...usual, tpotSeconds: 0.08 }, config)).toMatchObject({ pool: "decode" });
    // Long prompts: their computing alone takes longer.
    expect(violation(late, config)).toMatchObject({ pool: null, what: expect.stringContaining("more replicas would not help") });
  });

  it("make replicas less full, one lesson at a time, down to a floor", () => {
    const service = new Service();
    service.see({}, 8);
    const late = { ttftSeconds: 5, prefillQueueSeconds: 3 };
    service.see(late);
    expect(service.state?.planned.prefill).toBeCloseTo(0.75);
    service.see(late);
    expect(service.state?.planned.prefill).toBeCloseTo(0.75 * constants.utilisationCut, 2);
    service.see({ ...late, prefill: prefillPool(10) }, 200);
    expect(service.state?.planned.prefill).toBeGreaterThanOrEqual(constants.leastUtilisation);
    expect(service.state?.planned.decode).toBeCloseTo(constants.utilisation.decode);
  });

  it("teach nothing while somebody of the pool starts or became ready a moment ago", () => {
    for (const young of [others(1, "starting", 20), ready(1, { tokensPerSecond: 100, queuedTokens: 0 }, constants.warmupSeconds - 1)]) {
      const service = new Service();
      service.see({}, 8);
      const prefill = { wanted: 3, replicas: [...prefillPool(2).replicas, ...young] };
      service.see({ ttftSeconds: 5, prefillQueueSeconds: 3, prefill }, 10);
      expect(service.state?.planned.prefill).toBeCloseTo(0.75);
    }
  });

  it("soon after replicas were taken away make the next ones stay twice as long", () => {
    const service = new Service();
    service.see({ prefill: prefillPool(4) }, 21);
    expect(service.state?.prefill.fewerAtSeconds).not.toBeNull();
    service.see({ ttftSeconds: 5, prefillQueueSeconds: 3 });
    expect(service.state?.prefill).toMatchObject({ fewerAtSeconds: null, hold: 2 });
    expect(service.state?.decode.hold).toBe(1);
    service.see({ ttftSeconds: 5, prefillQueueSeconds: 3 }, 10);
    expect(service.state?.prefill.hold).toBeLessThanOrEqual(2);
  });

  it("that no number of replicas can meet do not ask for all there are", () => {
    const service = new Service({ tpotSeconds: 0.001 });
    const { decode } = service.see({ tpotSeconds: 0.035, decode: decodePool(2) }, 60);
    expect(decode.replicas).toBeLessThanOrEqual(3);
  });
});

describe("pods that no node takes", () => {
  const flood = { requestsPerSecond: 8, inputTokensPerSecond: 8000 };
  const stuck = (seconds: number) => ({
    ...flood,
    prefill: { wanted: 6, replicas: [...prefillPool(2).replicas, ...others(4, "unschedulable", seconds)] },
  });

  it("are given up after a while, and asked for again after a back-off that doubles", () => {
    const service = new Service();
    service.see(flood, 12);
    expect(service.see(stuck(constants.unschedulableSeconds - 15)).prefill.replicas).toBeGreaterThanOrEqual(6);
    expect(service.see(stuck(constants.unschedulableSeconds)).prefill).toMatchObject({ replicas: 2, kind: "Unschedulable" });
    const began = service.atSeconds;
    while (service.see(flood).prefill.kind === "Unschedulable");
    expect(service.atSeconds - began).toBe(constants.backOffSeconds);
    service.see(stuck(constants.unschedulableSeconds));
    const again = service.atSeconds;
    while (service.see(flood).prefill.kind === "Unschedulable");
    expect(service.atSeconds - again).toBe(2 * constants.backOffSeconds);
  });

  it("no node for those either that were too new for anybody to know when the others were given up", () => {
    const service = new Service();
    const seconds = constants.unschedulableSeconds;
    const pods = (unknown: number) => ({
      requestsPerSecond: 6,
      inputTokensPerSecond: 6000,
      prefill: {
        wanted: 6,
        replicas: [...prefillPool(2).replicas, ...others(4 - unknown, "unschedulable", seconds), ...others(unknown, "starting", 0)],
      },
    });
    expect(service.see(pods(2)).prefill.replicas).toBe(4);
    expect(service.see(pods(0)).prefill).toMatchObject({ replicas: 2, kind: "Unschedulable" });
  });

  it("are forgiven once they find a node", () => {
    const service = new Service();
    service.see({}, 8);
    service.see(stuck(constants.unschedulableSeconds));
    service.see(flood, constants.backOffSeconds / 15);
    service.see({ ...flood, prefill: prefillPool(6) });
    expect(service.state?.prefill.refusal).toBeNull();
  });

  it("go at once when nobody needs them any more", () => {
    const service = new Service();
    service.see({}, 8);
    expect(service.see({ prefill: stuck(30).prefill }).prefill).toMatchObject({ replicas: 2, kind: "Cancelled" });
  });

  it("stay asked for up to minReplicas", () => {
    const service = new Service({ prefill: { minReplicas: 4, maxReplicas: 10 } });
    service.see({}, 8);
    expect(service.see(stuck(constants.unschedulableSeconds)).prefill.replicas).toBe(4);
  });
});

describe("no requests", () => {
  const asleep = { ...silent, prefill: prefillPool(0), decode: decodePool(0) };

  it("mean zero after scaleToZeroAfterSeconds, for both pools, and one that waits brings them back", () => {
    const service = new Service({ scaleToZeroAfterSeconds: 120, decode: { minReplicas: 2, maxReplicas: 10 } });
    service.see({}, 8);
    const busyAt = service.atSeconds;
    let decision = service.see(silent);
    while (decision.prefill.replicas > 0) decision = service.see(silent);
    expect(service.atSeconds - busyAt).toBe(120);
    expect(decision.decode).toMatchObject({ replicas: 0, kind: "Idle" });
    expect(service.see(asleep, 50).decode.replicas).toBe(0);
    const woken = service.see({ ...asleep, waitingRequests: 1 });
    expect(woken.prefill).toMatchObject({ replicas: 1, kind: "Woken" });
    expect(woken.decode).toMatchObject({ replicas: 2, kind: "Woken" });
  });

  it("keep a sleeping service asleep over a start of the operator, which knows no rates yet", () => {
    const service = new Service({ scaleToZeroAfterSeconds: 120 });
    expect(service.see({ ...asleep, requestsPerSecond: null }).prefill.replicas).toBe(0);
    expect(service.see({ ...asleep, requestsPerSecond: 0.1 }).prefill.replicas).toBe(1);
  });

  it("are not known of a sleeping service whose gateways do not all answer: it sleeps on, and that is said", () => {
    const service = new Service({ scaleToZeroAfterSeconds: 120 });
    for (const unknown of [{ gatewaysHeard: 0, requestsPerSecond: null }, { unheard: ["gateway-1"] }]) {
      expect(service.see({ ...asleep, ...unknown }).prefill).toMatchObject({ replicas: 0, kind: "NoFigures" });
      expect(service.see(asleep).prefill).toMatchObject({ replicas: 0, kind: "Idle" });
    }
    expect(service.see({ ...asleep, unheard: ["gateway-1"], waitingRequests: 1 }).prefill.kind).toBe("Woken");
    // One that has just begun says what waits; only rates need two scrapes.
    expect(service.see({ ...asleep, requestsPerSecond: null }).prefill.kind).toBe("Idle");
  });

  it("mean minReplicas where zero was not asked for", () => {
    const service = new Service();
    service.see({}, 8);
    expect(service.see({ ...silent, prefill: prefillPool(1) }, 100).prefill.replicas).toBe(1);
    expect(service.see(asleep).prefill).toMatchObject({ replicas: 1, kind: "AtMinimum" });
  });

  it("are not what is unknown", () => {
    const service = new Service({ scaleToZeroAfterSeconds: 60 });
    service.see({}, 8);
    expect(service.see({ ...silent, requestsPerSecond: null }, 100).prefill.replicas).toBe(2);
  });
});

describe("a ModelService", () => {
  const spec = (rest: object) => ModelServiceSpec.parse({ model: { embedded: {} }, ...rest });
  const slo = { ttftSeconds: 2, tpotSeconds: 0.05 };
  const range = { prefill: { maxReplicas: 4 }, decode: { minReplicas: 2, maxReplicas: 8 } };

  it("becomes the configuration where it has policy and SLOs", () => {
    expect(autoscaleConfigOf(spec({ slo, autoscaling: { policy: "slo", ...range, scaleToZeroAfterSeconds: 900 } }))).toEqual({
      prefill: { minReplicas: 1, maxReplicas: 4 },
      decode: { minReplicas: 2, maxReplicas: 8 },
      ...slo,
      stabilizationSeconds: 300,
      scaleToZeroAfterSeconds: 900,
    });
    expect(autoscaleConfigOf(spec({ slo, autoscaling: { policy: "external", ...range } }))?.scaleToZeroAfterSeconds).toBeNull();
    expect(autoscaleConfigOf(spec({ slo }))).toBeNull();
    expect(autoscaleConfigOf(spec({ autoscaling: { policy: "external", ...range } }))).toBeNull();
  });
});
