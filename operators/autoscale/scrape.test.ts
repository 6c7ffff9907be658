import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseMetrics, type Series } from "./metrics-text.ts";
import { type AutoscaleState, planAutoscale } from "./plan.ts";
import { type Scrape, snapshotOf } from "./scrape.ts";

const pod = (name: string) => ({ name, state: "ready" as const, stateSeconds: 100, processes: [name] });

function scrape(atSeconds: number, texts: { gateways?: string[]; prefill?: string[]; decode?: string[] }): Scrape {
  const named = (group: string, list: string[] = []): Map<string, Series> =>
    new Map(list.map((text, i) => [`${group}-${i}`, parseMetrics(text)]));
  return {
    atSeconds,
    gateways: named("gateway", texts.gateways),
    prefill: named("prefill", texts.prefill),
    decode: named("decode", texts.decode),
  };
}

const between = (before: Scrape | null, now: Scrape) =>
  snapshotOf({
    modelName: "m",
    before,
    now,
    gateways: [],
    prefill: { wanted: 1, replicas: [pod("prefill-0")] },
    decode: { wanted: 1, replicas: [pod("decode-0")] },
  });

describe("Prometheus's text", () => {
  it("is read with labels, escapes, timestamps and infinities; what is none is left out", () => {
    const series = parseMetrics(
      [
        "# HELP a what",
        "# TYPE a counter",
        'a{x="1",y="a\\"b\\\\c\\nd, e}"} 2.5 1700000000000',
        "a 3e2",
        "b{} +Inf",
        "c NaN",
        "d{x=1} 5",
        "no number",
        "",
        "e 7\r",
      ].join("\n"),
    );
    expect(Object.fromEntries(series)).toEqual({
      a: [
        { labels: { x: "1", y: 'a"b\\c\nd, e}' }, value: 2.5 },
        { labels: {}, value: 300 },
      ],
      b: [{ labels: {}, value: Number.POSITIVE_INFINITY }],
      e: [{ labels: {}, value: 7 }],
    });
  });
});

describe("who is ready and is not heard", () => {
  const quiet = scrape(0, { gateways: ["a 1"], prefill: ["a 1"], decode: ["a 1"] });
  const later = (texts: Parameters<typeof scrape>[1], stateSeconds = 100) => {
    const ready = (name: string) => ({ ...pod(name), stateSeconds });
    return snapshotOf({
      ...{ modelName: "m", before: quiet, now: scrape(15, texts), gateways: ["gateway-0", "gateway-1"].map(ready) },
      prefill: { wanted: 1, replicas: [ready("prefill-0")] },
      decode: { wanted: 1, replicas: [{ ...ready("decode-0"), processes: ["decode-0", "decode-1"] }] },
    });
  };
  const one = ["a 1"];
  const two = ["a 1", "a 1"];

  it("is named: at the end of the interval, or at its beginning where it was ready then", () => {
    expect(later({ gateways: two, prefill: one, decode: two }).unheard).toEqual(["gateway-1", "decode-1"]);
    expect([later({ gateways: two }).gatewaysHeard, later({ gateways: [] }).gatewaysHeard]).toEqual([2, 0]);
    expect(later({ gateways: two, prefill: one, decode: two }, 5).unheard).toEqual([]);
    expect(later({ gateways: one, decode: two }, 5).unheard).toEqual(["gateway-1", "prefill-0"]);
  });

  it("has no sample, and neither has a replica of which one process is not heard", () => {
    expect(later({ gateways: two, prefill: one, decode: one }).decode.replicas.map(({ sample }) => sample)).toEqual([null]);
  });

  it("adds up the processes of one replica", () => {
    const decode = "pelagic_decode_step_seconds 0.05\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.5";
    const before = "pelagic_step_sequences_sum 0\npelagic_step_sequences_count 0";
    const after = "pelagic_step_sequences_sum 30\npelagic_step_sequences_count 10";
    const snapshot = snapshotOf({
      ...{ modelName: "m", gateways: [], prefill: { wanted: 0, replicas: [] } },
      before: scrape(0, { decode: [before, before] }),
      now: scrape(15, { decode: [`${after}\n${decode}`, `${after}\n${decode}`] }),
      decode: { wanted: 1, replicas: [{ ...pod("group"), processes: ["decode-0", "decode-1"] }] },
    });
    expect(snapshot.decode.replicas.map(({ sample }) => sample)).toEqual([{ batch: 6, stepSeconds: 0.05, cacheOfRequest: 0.125 }]);
  });
});

describe("two scrapes", () => {
  const ended = (stop: number, refused: number, noWorkers: number, waiting: number) =>
    [
      `pelagic_gateway_requests_total{endpoint="chat",outcome="stop",model_name="m"} ${stop}`,
      `pelagic_gateway_requests_total{endpoint="chat",outcome="invalid_request",model_name="m"} ${refused}`,
      `pelagic_gateway_requests_total{endpoint="chat",outcome="rate_limit_exceeded",model_name="m"} ${refused}`,
      `pelagic_gateway_requests_total{endpoint="completions",outcome="no_workers",model_name="m"} ${noWorkers}`,
      `pelagic_gateway_requests_total{endpoint="chat",outcome="stop",model_name="other"} ${stop * 100}`,
      `pelagic_gateway_requests_waiting{model_name="m"} ${waiting}`,
      'pelagic_gateway_requests_waiting{model_name="other"} 99',
    ].join("\n");
  const running = (count: number) => `vllm:num_requests_running{model_name="m"} ${count}\nvllm:num_requests_waiting{model_name="m"} 1`;

  it("count what came: ended and not refused for itself, and more in the system than before", () => {
    const before = scrape(100, { gateways: [ended(10, 5, 0, 2)], decode: [running(4)] });
    const now = scrape(110, { gateways: [ended(30, 50, 3, 6)], decode: [running(7)] });
    const snapshot = between(before, now);
    // 20 answered, 3 without a worker, 4 more wait, 3 more run.
    expect(snapshot.requestsPerSecond).toBeCloseTo(3);
    expect(snapshot).toMatchObject({ intervalSeconds: 10, runningRequests: 7, waitingRequests: 7 });
  });

  it("take counters that began anew from zero, and processes that are new as unknown", () => {
    const tokens = (computed: number, queued: number) =>
      `pelagic_prefilled_tokens_total ${computed}\npelagic_queued_prefill_tokens ${queued}`;
    const again = between(scrape(0, { prefill: [tokens(5000, 100)] }), scrape(10, { prefill: [tokens(200, 300)] }));
    expect(again.inputTokensPerSecond).toBeCloseTo(40);
    const joined = between(scrape(0, { prefill: [tokens(500, 0)] }), scrape(10, { prefill: [tokens(700, 0), tokens(1e9, 0)] }));
    expect(joined.inputTokensPerSecond).toBeCloseTo(20);
  });

  it("say that nothing is known where nothing was said", () => {
    const first = between(null, scrape(10, { gateways: [ended(1, 1, 1, 4)], decode: [running(2)] }));
    expect(first).toMatchObject({ requestsPerSecond: null, ttftSeconds: null, tpotSeconds: null, waitingRequests: 5 });
    const silent = between(scrape(0, {}), scrape(15, {}));
    expect(silent).toMatchObject({ requestsPerSecond: null, prefillQueueSeconds: null, admissionSeconds: null });
    expect(silent.prefill.replicas).toEqual([{ name: "prefill-0", state: "ready", stateSeconds: 100, sample: null }]);
  });

  it("give each worker's own samples", () => {
    const worker = (sum: number, count: number) =>
      `pelagic_step_sequences_sum ${sum}\npelagic_step_sequences_count ${count}\npelagic_decode_step_seconds 0.02\nvllm:kv_cache_usage_perc{model_name="m"} 0.4\nvllm:num_requests_running{model_name="m"} 8`;
    const { decode } = between(scrape(0, { decode: [worker(100, 50)] }), scrape(15, { decode: [worker(700, 150)] }));
    expect(decode.replicas[0]?.sample).toEqual({ batch: 6, stepSeconds: 0.02, cacheOfRequest: 0.05 });
  });

  it("take from prefill's time what computing alone takes", () => {
    const worker = (count: number, tokens: number) =>
      [
        `pelagic_prefill_queue_seconds_sum ${count * 0.5}\npelagic_prefill_queue_seconds_count ${count}`,
        `pelagic_prefill_compute_seconds_sum ${count * 3}\npelagic_prefill_compute_seconds_count ${count}`,
        `pelagic_prefilled_tokens_total ${tokens}\npelagic_prefill_tokens_per_second 1000`,
      ].join("\n");
    // 3.5 s there, of which 2,000 tokens take 2.
    const snapshot = between(scrape(0, { prefill: [worker(0, 0)] }), scrape(15, { prefill: [worker(4, 8000)] }));
    expect(snapshot.prefillQueueSeconds).toBeCloseTo(1.5);
  });

  it("add the gateway's queue and decode's to the time before admission", () => {
    const gateway = (count: number) =>
      `pelagic_gateway_phase_seconds_sum{phase="queue",model_name="m"} ${count * 2}\npelagic_gateway_phase_seconds_count{phase="queue",model_name="m"} ${count}\npelagic_gateway_phase_seconds_sum{phase="stream",model_name="m"} 900`;
    const decode = (count: number) =>
      `vllm:request_queue_time_seconds_sum{model_name="m"} ${count / 2}\nvllm:request_queue_time_seconds_count{model_name="m"} ${count}`;
    const snapshot = between(
      scrape(0, { gateways: [gateway(0)], decode: [decode(0)] }),
      scrape(15, { gateways: [gateway(3)], decode: [decode(3)] }),
    );
    expect(snapshot.admissionSeconds).toBeCloseTo(2.5);
  });
});

describe("quantiles", () => {
  const bounds = [0.01, 0.05, 0.1, 0.5, 1, 5];
  const histogram = (values: number[], endpoint: string) =>
    [...bounds, Number.POSITIVE_INFINITY]
      .map((bound) => {
        const le = Number.isFinite(bound) ? String(bound) : "+Inf";
        const below = values.filter((value) => value <= bound).length;
        return `gen_ai_server_time_to_first_token_seconds_bucket{le="${le}",endpoint="${endpoint}",model_name="m"} ${below}`;
      })
      .join("\n");
  const times = fc.array(fc.double({ min: 0.001, max: 20, noNaN: true }), { maxLength: 60 });

  it("lie in the bucket of the true one, over all gateways and endpoints, of this interval alone", () => {
    fc.assert(
      fc.property(times, times, times, times, (old, chat, completions, second) => {
        const before = scrape(0, { gateways: [`${histogram(old, "chat")}\n${histogram([], "completions")}`, histogram([], "chat")] });
        const now = scrape(15, {
          gateways: [`${histogram([...old, ...chat], "chat")}\n${histogram(completions, "completions")}`, histogram(second, "chat")],
        });
        const { ttftSeconds } = between(before, now);
        const all = [...chat, ...completions, ...second].sort((a, b) => a - b);
        if (all.length === 0) {
          expect(ttftSeconds).toBeNull();
          return;
        }
        const truth = all[Math.ceil(0.9 * all.length - 1e-9) - 1] as number;
        const upper = bounds.find((bound) => truth <= bound) ?? 5;
        const lower = truth > 5 ? 5 : (bounds[bounds.indexOf(upper) - 1] ?? 0);
        expect(ttftSeconds).toBeGreaterThanOrEqual(lower - 1e-9);
        expect(ttftSeconds).toBeLessThanOrEqual(upper + 1e-9);
      }),
    );
  });
});

describe("whatever figures processes give", () => {
  const names = [
    ...["pelagic_gateway_requests_waiting", "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"],
    ...[
      "pelagic_queued_prefill_tokens",
      "pelagic_prefill_tokens_per_second",
      "pelagic_decode_step_seconds",
      "pelagic_gateway_requests_total",
    ],
    ...[
      "pelagic_prefilled_tokens_total",
      "vllm:e2e_request_latency_seconds_count",
      "pelagic_step_sequences_sum",
      "pelagic_step_sequences_count",
    ],
  ];
  const value = fc.oneof(
    fc.constantFrom("NaN", "+Inf", "-Inf", "-1", "0", "3", "1e15", "1e18", "1.7e308", "1e-300", "5e-324"),
    fc.double({ min: 0, max: 1000, noNaN: true }).map(String),
  );
  const process = fc
    .tuple(...names.map(() => value))
    .map((values) =>
      [
        ...names.map((name, i) => `${name}{model_name="m"} ${values[i]}`),
        `pelagic_gateway_tokens_total{model_name="m",kind="completion"} ${values[0]}`,
      ].join("\n"),
    );
  const look = fc.record({ seconds: fc.integer({ min: 1, max: 3600 }), texts: fc.array(process, { minLength: 5, maxLength: 5 }) });
  const range = { minReplicas: 1, maxReplicas: 5 };
  const settings = {
    prefill: range,
    decode: range,
    ttftSeconds: 2,
    tpotSeconds: 0.05,
    stabilizationSeconds: 0,
    scaleToZeroAfterSeconds: 60,
  };

  it("wants whole numbers within bounds, and says no figure that is none", () => {
    fc.assert(
      fc.property(fc.array(look, { minLength: 2, maxLength: 5 }), (looks) => {
        let state: AutoscaleState | null = null;
        let before: Scrape | null = null;
        let [prefill, decode, at] = [1, 1, 0];
        for (const { seconds, texts } of looks) {
          at += seconds;
          const now = scrape(at, { gateways: texts.slice(0, 1), prefill: texts.slice(1, 3), decode: texts.slice(3) });
          const pool = (name: string, wanted: number) => ({ wanted, replicas: [pod(`${name}-0`), pod(`${name}-1`)] });
          const pools = { prefill: pool("prefill", prefill), decode: pool("decode", decode) };
          const made = planAutoscale(snapshotOf({ modelName: "m", before, now, gateways: [pod("gateway-0")], ...pools }), settings, state);
          before = now;
          state = made.state;
          for (const { replicas, reason } of [made.prefill, made.decode]) {
            expect([0, 1, 2, 3, 4, 5]).toContain(replicas);
            expect(reason).not.toMatch(/NaN|undefined|∞/);
          }
          [prefill, decode] = [made.prefill.replicas, made.decode.replicas];
        }
      }),
      { numRuns: 1000 },
    );
  });
});
