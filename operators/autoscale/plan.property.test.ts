// The autoscaler beside a slow and obvious one, and what must hold whatever it is told.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AutoscaleConfig, constants } from "./config.ts";
import { type AutoscaleState, planAutoscale } from "./plan.ts";
import type { DecodeSample, PrefillSample, Replica, Snapshot } from "./snapshot.ts";

const config: AutoscaleConfig = {
  prefill: { minReplicas: 1, maxReplicas: 20 },
  decode: { minReplicas: 1, maxReplicas: 20 },
  ttftSeconds: 2,
  tpotSeconds: 0.05,
  stabilizationSeconds: 300,
  scaleToZeroAfterSeconds: null,
};
const intervalSeconds = 15;

function readyPods<S>(count: number, sample: S, stateSeconds = 1000): Replica<S>[] {
  return Array.from({ length: count }, (_, i) => ({ name: `pod-${i}`, state: "ready", stateSeconds, sample }));
}

interface Load {
  requests: number;
  inputTokens: number;
  outputTokens: number;
  queuedTokens: number;
  waiting: number;
}

/** A world in which everything wanted is ready at once, prefill does 2,000 tokens a second, and a step takes 25 ms and 1 ms a sequence. */
function snapshotOf(at: number, prefill: number, decode: number, load: Load): Snapshot {
  const rate = (load.requests * load.outputTokens) / Math.max(1, decode);
  const batch = Math.max(1, rate * 0.001 < 0.8 ? (rate * 0.025) / (1 - rate * 0.001) : 100);
  return {
    atSeconds: at,
    intervalSeconds,
    requestsPerSecond: load.requests,
    answersPerSecond: load.requests,
    outputTokensPerSecond: load.requests * load.outputTokens,
    inputTokensPerSecond: load.requests * load.inputTokens,
    runningRequests: batch * decode,
    waitingRequests: load.waiting,
    gatewaysHeard: 1,
    unheard: [],
    ttftSeconds: null,
    tpotSeconds: null,
    prefillQueueSeconds: null,
    admissionSeconds: null,
    prefill: {
      wanted: prefill,
      replicas: readyPods<PrefillSample>(prefill, { tokensPerSecond: 2000, queuedTokens: load.queuedTokens / Math.max(1, prefill) }),
    },
    decode: {
      wanted: decode,
      replicas: readyPods<DecodeSample>(decode, {
        batch: batch > 0 ? batch : null,
        stepSeconds: 0.025 + 0.001 * batch,
        cacheOfRequest: load.outputTokens / 1e5,
      }),
    },
  };
}

const loadArbitrary: fc.Arbitrary<Load> = fc.record({
  requests: fc.double({ min: 0.1, max: 20, noNaN: true }),
  inputTokens: fc.integer({ min: 10, max: 4000 }),
  outputTokens: fc.integer({ min: 1, max: 500 }),
  queuedTokens: fc.integer({ min: 0, max: 60_000 }),
  waiting: fc.integer({ min: 0, max: 50 }),
});

/** Runs it over loads; what it wants is there at the next snapshot. */
function follow(loads: readonly Load[], settings = config, from = { prefill: 1, decode: 1 }) {
  let state: AutoscaleState | null = null;
  let { prefill, decode } = from;
  return loads.map((load, i) => {
    const snapshot = snapshotOf(i * intervalSeconds, prefill, decode, load);
    const decision = planAutoscale(snapshot, settings, state);
    state = decision.state;
    prefill = decision.prefill.replicas;
    decode = decision.decode.replicas;
    return { snapshot, decision, state };
  });
}

describe("beside a slow and obvious planner, which keeps everything and searches", () => {
  /** Its whole memory: all snapshots, and what it recommended for each. */
  class Obvious {
    private readonly seen: Snapshot[] = [];
    private readonly recommended = { prefill: [] as [number, number][], decode: [] as [number, number][] };

    private average(timeConstant: number, value: (snapshot: Snapshot) => number | null): number {
      let sum = 0;
      let weight = 0;
      let factor = 1;
      for (const snapshot of [...this.seen].reverse()) {
        const known = value(snapshot);
        if (known === null) continue;
        sum += factor * known;
        weight += factor;
        factor *= Math.exp(-intervalSeconds / timeConstant);
      }
      return weight === 0 ? 0 : sum / weight;
    }

    plan(snapshot: Snapshot) {
      this.seen.push(snapshot);
      if (this.seen.length === 1)
        for (const pool of ["prefill", "decode"] as const) this.recommended[pool].push([snapshot.atSeconds, snapshot[pool].wanted]);
      const requests = this.average(60, (s) => s.requestsPerSecond);
      const long = (value: (s: Snapshot) => number | null) => this.average(240, value);
      const input = Math.max(
        this.average(60, (s) => s.inputTokensPerSecond),
        (requests * long((s) => s.inputTokensPerSecond)) / long((s) => s.requestsPerSecond),
      );
      const output = Math.max(
        this.average(60, (s) => s.outputTokensPerSecond),
        (requests * long((s) => s.outputTokensPerSecond)) / long((s) => s.answersPerSecond),
      );
      const eachInput = long((s) => s.inputTokensPerSecond) / long((s) => s.requestsPerSecond);
      const eachOutput = long((s) => s.outputTokensPerSecond) / long((s) => s.answersPerSecond);
      const queued =
        snapshot.prefill.replicas.reduce((sum, r) => sum + (r.sample?.queuedTokens ?? 0), 0) + snapshot.waitingRequests * eachInput;
      const [base, each] = this.line();
      const seconds = Math.max(0.045, 1.25 * base + each);
      const cacheEach = long((s) => ((s.decode.replicas[0] as Replica<DecodeSample>).sample as DecodeSample).cacheOfRequest);
      const batch = Math.max(1, Math.min((seconds - base) / each, cacheEach > 0 ? 0.85 / cacheEach : 1e9));
      const rate = batch / (base + each * batch);
      const overPrefill = Math.max(0, queued - 2000 * snapshot.prefill.wanted) / 30;
      const overDecode =
        (Math.max(0, snapshot.runningRequests + snapshot.waitingRequests - batch * snapshot.decode.wanted) * eachOutput) / 60;
      const enough = {
        prefill: (n: number, band: number, part: number) => n * 2000 * band >= (input / 0.75) * part + overPrefill - 1e-5,
        decode: (n: number, band: number, part: number) => n * rate * band >= (output / 0.85) * part + overDecode - 1e-5,
      };
      const share = {
        prefill: Math.min(1, (20 * 2000) / (input / 0.75 + overPrefill)),
        decode: Math.min(1, (20 * rate) / (output / 0.85 + overDecode)),
      };
      const decide = (pool: "prefill" | "decode", other: "prefill" | "decode") => {
        const search = (fits: (n: number) => boolean) => {
          for (let n = 1; n < 20; n++) if (fits(n)) return n;
          return 20;
        };
        const { wanted } = snapshot[pool];
        let number = wanted;
        const up = search((n) => enough[pool](n, 1, 1));
        if (up > wanted)
          number = Math.max(
            wanted,
            Math.min(
              up,
              search((n) => enough[pool](n, 1, share[other])),
            ),
          );
        else
          number = Math.min(
            wanted,
            search((n) => enough[pool](n, 0.85, 1)),
          );
        this.recommended[pool].push([snapshot.atSeconds, number]);
        if (number > wanted) return Math.min(number, Math.max(2 * wanted, wanted + 2));
        const within = this.recommended[pool].filter(([at]) => at > snapshot.atSeconds - 300).map(([, n]) => n);
        const most = Math.max(...within);
        return most < wanted ? wanted - Math.min(wanted - most, Math.max(1, Math.floor(wanted / 4))) : wanted;
      };
      return { prefill: decide("prefill", "decode"), decode: decide("decode", "prefill") };
    }

    /** Weighted least squares over all samples, with the belief that half of a mean step is its base. */
    private line(): [number, number] {
      const points = this.seen.flatMap((snapshot, i) =>
        snapshot.decode.replicas.flatMap(({ sample }) => {
          const factor = Math.exp((-(this.seen.length - 1 - i) * intervalSeconds) / 240);
          return sample?.batch && sample.stepSeconds ? [[factor, sample.batch, sample.stepSeconds] as const] : [];
        }),
      );
      const total = points.reduce((sum, [w]) => sum + w, 0);
      const b = points.reduce((sum, [w, x]) => sum + w * x, 0) / total;
      const s = points.reduce((sum, [w, , y]) => sum + w * y, 0) / total;
      const variance = points.reduce((sum, [w, x]) => sum + w * (x - b) ** 2, 0) / total;
      const covariance = points.reduce((sum, [w, x, y]) => sum + w * (x - b) * (y - s), 0) / total;
      const slope = (covariance + 0.05 * b * b * ((0.5 * s) / b)) / (variance + 0.05 * b * b);
      const each = Math.min(s / b, Math.max((0.05 * s) / b, slope));
      return [s - each * b, each];
    }
  }

  it("decides the same", () => {
    fc.assert(
      fc.property(fc.array(loadArbitrary, { minLength: 1, maxLength: 60 }), fc.integer({ min: 1, max: 20 }), (loads, from) => {
        const obvious = new Obvious();
        for (const { snapshot, decision } of follow(loads, config, { prefill: from, decode: from }))
          expect({ prefill: decision.prefill.replicas, decode: decision.decode.replicas }).toEqual(obvious.plan(snapshot));
      }),
      { numRuns: 100 },
    );
  });
});

describe("whatever it is told", () => {
  const anyNumber = fc.oneof(fc.double({ min: 0, max: 1e6, noNaN: true }), fc.constantFrom(0, 1e-12, 1e12));
  const perhaps = fc.option(anyNumber, { nil: null });
  const pods = <S>(sample: fc.Arbitrary<S>) =>
    fc.record({
      wanted: fc.integer({ min: 0, max: 30 }),
      replicas: fc.array(
        fc.record({
          name: fc.string({ maxLength: 4 }),
          state: fc.constantFrom("ready" as const, "starting" as const, "unschedulable" as const),
          stateSeconds: fc.integer({ min: 0, max: 1000 }),
          sample: fc.option(sample, { nil: null }),
        }),
        { maxLength: 30 },
      ),
    });
  const wild: fc.Arbitrary<Omit<Snapshot, "atSeconds">> = fc.record({
    intervalSeconds: fc.constantFrom(0, 1, 15, 600),
    requestsPerSecond: perhaps,
    answersPerSecond: anyNumber,
    outputTokensPerSecond: anyNumber,
    inputTokensPerSecond: fc.double({ min: -1e6, max: 1e6, noNaN: true }),
    runningRequests: anyNumber,
    waitingRequests: anyNumber,
    gatewaysHeard: fc.nat(2),
    unheard: fc.oneof(fc.constant([]), fc.constant(["pod-0"])),
    ttftSeconds: perhaps,
    tpotSeconds: perhaps,
    prefillQueueSeconds: perhaps,
    admissionSeconds: perhaps,
    prefill: pods(fc.record({ tokensPerSecond: perhaps, queuedTokens: anyNumber })),
    decode: pods(fc.record({ batch: perhaps, stepSeconds: perhaps, cacheOfRequest: perhaps })),
  });
  const range = fc
    .tuple(fc.integer({ min: 1, max: 10 }), fc.integer({ min: 0, max: 10 }))
    .map(([min, more]) => ({ minReplicas: min, maxReplicas: min + more }));
  const anyConfig: fc.Arbitrary<AutoscaleConfig> = fc.record({
    prefill: range,
    decode: range,
    ttftSeconds: fc.double({ min: 0.001, max: 100, noNaN: true }),
    tpotSeconds: fc.double({ min: 0.0001, max: 10, noNaN: true }),
    stabilizationSeconds: fc.integer({ min: 0, max: 600 }),
    scaleToZeroAfterSeconds: fc.option(fc.integer({ min: 60, max: 600 }), { nil: null }),
  });

  it("stays within bounds, takes bounded steps, gives a reason, and remembers no more than a window", () => {
    fc.assert(
      fc.property(anyConfig, fc.array(wild, { maxLength: 40 }), (settings, snapshots) => {
        let state: AutoscaleState | null = null;
        let atSeconds = 0;
        for (const given of snapshots) {
          atSeconds += given.intervalSeconds;
          const decision = planAutoscale({ ...given, atSeconds }, settings, state);
          state = decision.state;
          for (const pool of ["prefill", "decode"] as const) {
            const { replicas, reason } = decision[pool];
            const { minReplicas, maxReplicas } = settings[pool];
            const { wanted } = given[pool];
            expect(Number.isInteger(replicas)).toBe(true);
            expect(reason).not.toMatch(/^$|NaN|undefined|Infinity|null/);
            if (replicas === 0) expect(settings.scaleToZeroAfterSeconds).not.toBeNull();
            else expect(replicas >= minReplicas && replicas <= maxReplicas).toBe(true);
            expect(replicas).toBeLessThanOrEqual(Math.max(minReplicas, wanted * 2, wanted + 2));
            const { recommended } = state[pool];
            expect(recommended.every((entry, i) => i === 0 || entry.replicas < (recommended[i - 1]?.replicas ?? 0))).toBe(true);
          }
          expect((decision.prefill.replicas === 0) === (decision.decode.replicas === 0)).toBe(true);
        }
      }),
      { numRuns: 150 },
    );
  });

  it("takes nothing away, and puts nothing to sleep, while some that are ready give no figures", () => {
    fc.assert(
      fc.property(anyConfig, fc.array(wild, { minLength: 1, maxLength: 30 }), (settings, snapshots) => {
        let state: AutoscaleState | null = null;
        let atSeconds = 0;
        for (const given of snapshots) {
          atSeconds += given.intervalSeconds;
          const decision = planAutoscale({ ...given, atSeconds }, settings, state);
          state = decision.state;
          if (given.requestsPerSecond !== null && given.unheard.length === 0) continue;
          for (const pool of ["prefill", "decode"] as const) {
            const { wanted, replicas } = given[pool];
            const placed = replicas.filter((replica) => replica.state !== "unschedulable").length;
            if (wanted > 0) expect(decision[pool].replicas).toBeGreaterThanOrEqual(Math.min(wanted, placed, settings[pool].maxReplicas));
          }
        }
      }),
      { numRuns: 150 },
    );
  });

  it("does not look at what workers say that became ready a moment ago", () => {
    fc.assert(
      fc.property(wild, fc.integer({ min: 0, max: constants.warmupSeconds - 1 }), perhaps, perhaps, (given, stateSeconds, a, b) => {
        const [{ state } = { state: null }] = follow([{ requests: 5, inputTokens: 900, outputTokens: 100, queuedTokens: 0, waiting: 0 }]);
        const with_ = (tokensPerSecond: number | null, stepSeconds: number | null): Snapshot => ({
          ...given,
          atSeconds: intervalSeconds,
          prefill: { wanted: 3, replicas: readyPods(3, { tokensPerSecond, queuedTokens: 500 }, stateSeconds) },
          decode: { wanted: 3, replicas: readyPods(3, { batch: 9, stepSeconds, cacheOfRequest: stepSeconds }, stateSeconds) },
        });
        expect(planAutoscale(with_(a, b), config, state)).toEqual(planAutoscale(with_(null, null), config, state));
      }),
    );
  });
});

describe("more load", () => {
  it("never gets fewer replicas, nor a deeper queue", () => {
    fc.assert(
      fc.property(
        fc.array(loadArbitrary, { minLength: 1, maxLength: 30 }),
        loadArbitrary,
        fc.double({ min: 1, max: 5, noNaN: true }),
        fc.integer({ min: 0, max: 50_000 }),
        (loads, load, factor, deeper) => {
          const past = follow(loads).at(-1);
          const at = loads.length * intervalSeconds;
          const { prefill, decode } = past?.decision ?? { prefill: { replicas: 1 }, decode: { replicas: 1 } };
          const now = snapshotOf(at, prefill.replicas, decode.replicas, load);
          const scaled: Snapshot = {
            ...now,
            requestsPerSecond: (now.requestsPerSecond as number) * factor,
            answersPerSecond: now.answersPerSecond * factor,
            inputTokensPerSecond: now.inputTokensPerSecond * factor,
            outputTokensPerSecond: now.outputTokensPerSecond * factor,
          };
          const queued: Snapshot = {
            ...now,
            prefill: {
              ...now.prefill,
              replicas: now.prefill.replicas.map((pod) => ({
                ...pod,
                sample: { ...(pod.sample as PrefillSample), queuedTokens: (pod.sample?.queuedTokens ?? 0) + deeper },
              })),
            },
          };
          const state = past?.state ?? null;
          const less = planAutoscale(now, config, state);
          const more = planAutoscale(queued, config, state);
          expect(more.prefill.replicas).toBeGreaterThanOrEqual(less.prefill.replicas);
          // What requests are like changes with the mix of old and new: the same snapshot scaled may not.
          const first = planAutoscale(now, config, null);
          const firstScaled = planAutoscale(scaled, config, null);
          expect(firstScaled.prefill.replicas).toBeGreaterThanOrEqual(first.prefill.replicas);
          expect(firstScaled.decode.replicas).toBeGreaterThanOrEqual(first.decode.replicas);
        },
      ),
    );
  });

  it("gets more of both pools in the same decision, before the answers that decode will have to give are seen", () => {
    const calm = { requests: 4, inputTokens: 1000, outputTokens: 200, queuedTokens: 0, waiting: 0 };
    const past = follow(Array.from({ length: 60 }, () => calm)).at(-1);
    if (past === undefined) throw new Error("nothing happened");
    const { prefill, decode } = past.decision;
    const burst = snapshotOf(60 * intervalSeconds, prefill.replicas, decode.replicas, calm);
    const decision = planAutoscale({ ...burst, requestsPerSecond: 20, inputTokensPerSecond: 20_000 }, config, past.state);
    expect(decision.prefill.replicas).toBeGreaterThan(prefill.replicas);
    expect(decision.decode.replicas).toBeGreaterThan(decode.replicas);
  });
});

describe("constant load with noise", () => {
  it("ends at a number that stays", () => {
    fc.assert(
      fc.property(
        fc.record({
          requests: fc.double({ min: 1, max: 15, noNaN: true }),
          inputTokens: fc.integer({ min: 100, max: 2000 }),
          outputTokens: fc.integer({ min: 5, max: 250 }),
        }),
        fc.array(fc.double({ min: 0.85, max: 1.15, noNaN: true }), { minLength: 240, maxLength: 240 }),
        fc.integer({ min: 1, max: 20 }),
        (constant, noise, from) => {
          // Long enough for the way down: what more a replica could do shows only as each of those before it goes.
          const factors = Array.from({ length: 1000 }, (_, i) => noise[i % noise.length] as number);
          const loads = factors.map((factor) => ({ ...constant, requests: constant.requests * factor, queuedTokens: 0, waiting: 0 }));
          const run = follow(loads, config, { prefill: from, decode: from });
          for (const pool of ["prefill", "decode"] as const) {
            const turns = run
              .map(({ snapshot, decision }) => Math.sign(decision[pool].replicas - snapshot[pool].wanted))
              .filter((sign) => sign !== 0);
            // Down to what is needed or up to it; then at most one more, where noise was low at first.
            const reversals = turns.filter((sign, i) => i > 0 && sign !== turns[i - 1]).length;
            expect(reversals).toBeLessThanOrEqual(1);
            const late = new Set(run.slice(-40).map(({ decision }) => decision[pool].replicas));
            expect(late.size).toBeLessThanOrEqual(2);
          }
        },
      ),
      { numRuns: 60 },
    );
  });
});
