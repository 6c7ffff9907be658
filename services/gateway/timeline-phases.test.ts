import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { RequestTimings } from "../lib/contracts/messages.ts";
import type { TimelinePhase } from "../lib/contracts/timeline.ts";
import type { AttemptRecord } from "./attempt-record.ts";
import { timelinePhases } from "./timeline-phases.ts";

const attempt = (more: Partial<AttemptRecord>): AttemptRecord => ({
  ...{ workerId: "decode-0", prefillWorkerId: "prefill-0", context: undefined, sentMs: 10, firstMs: 110 },
  ...{ end: { ms: 300, outcome: "stop" }, timings: undefined },
  ...more,
});
const gateway = [
  { name: "tokenize", endMs: 10 },
  { name: "first token", endMs: 112 },
  { name: "stream", endMs: 310 },
];
const brief = (phases: TimelinePhase[]) =>
  phases.map(
    ({ name, process, workerId, startSeconds, seconds }) =>
      `${workerId ?? process} ${name} ${Math.round(startSeconds * 1e3)}+${Math.round(seconds * 1e3)}`,
  );

describe("a time line", () => {
  it("lays decode's account into the gateway's wait, and prefill's into decode's, half of what is left over on each side", () => {
    const timings: RequestTimings = {
      queueSeconds: 0.01,
      fetchSeconds: 0.06,
      firstTokenSeconds: 0.09,
      totalSeconds: 0.28,
      transfers: [
        {
          ...{ workerId: "prefill-0", startSeconds: 0.012, seconds: 0.05 },
          sender: { queueSeconds: 0.008, computeSeconds: 0.03, sendSeconds: 0.002 },
        },
      ],
    };
    expect(brief(timelinePhases(0, gateway, [attempt({ timings })], 310))).toEqual([
      "gateway tokenize 0+10",
      "gateway first token 10+102",
      "decode-0 queue 15+10",
      "decode-0 remote prefill 25+60",
      "prefill-0 queue 32+8",
      "prefill-0 compute 40+30",
      "prefill-0 send 70+2",
      "decode-0 first step 85+20",
      "decode-0 steps 105+190",
      "gateway stream 112+198",
    ]);
  });

  it("shows each worker that had the request, and one that said nothing as one bar", () => {
    const timings: RequestTimings = { queueSeconds: 0, firstTokenSeconds: 0.02, totalSeconds: 0.09 };
    const attempts = [
      attempt({ firstMs: null, end: { ms: 50, outcome: "lost" } }),
      attempt({ workerId: "decode-1", sentMs: 60, firstMs: 84, end: { ms: 156, outcome: "stop" }, timings }),
    ];
    expect(brief(timelinePhases(0, [{ name: "first token", endMs: 84 }], attempts, 160)).slice(1)).toEqual([
      "decode-0 lost 10+40",
      "decode-1 queue 62+0",
      "decode-1 prefill and first step 62+20",
      "decode-1 steps 82+70",
    ]);
  });

  const time = fc.double({ min: 0, max: 100, noNaN: true });
  const optional = fc.option(time, { nil: undefined });
  const timingsOf = fc
    .record({ queueSeconds: optional, fetchSeconds: optional, firstTokenSeconds: optional, totalSeconds: optional })
    .chain((base) =>
      fc
        .array(
          fc.record({
            workerId: fc.constantFrom("prefill-0", "decode-9"),
            startSeconds: time,
            seconds: time,
            sender: fc.option(fc.record({ queueSeconds: time, computeSeconds: time, sendSeconds: time }), { nil: undefined }),
          }),
          { maxLength: 3 },
        )
        .map((transfers) => JSON.parse(JSON.stringify({ ...base, transfers })) as RequestTimings),
    );

  it("keeps every phase of an attempt between its dispatch and its end, whatever its worker says", () => {
    fc.assert(
      fc.property(time, time, fc.option(time), timingsOf, (sentMs, ownMs, toFirstMs, timings) => {
        const endMs = sentMs + ownMs;
        const firstMs = toFirstMs === null ? null : Math.min(sentMs + toFirstMs, endMs);
        const record = attempt({ sentMs, firstMs, end: { ms: endMs, outcome: "stop" }, timings });
        const phases = timelinePhases(0, [], [record], endMs);
        expect(phases.length).toBeGreaterThan(0);
        for (const { startSeconds, seconds } of phases) {
          expect(seconds).toBeGreaterThanOrEqual(0);
          expect(startSeconds * 1000).toBeGreaterThanOrEqual(sentMs - 1e-6);
          expect((startSeconds + seconds) * 1000).toBeLessThanOrEqual(endMs + 1e-6);
        }
        expect(phases.map(({ startSeconds }) => startSeconds)).toEqual(
          phases.map(({ startSeconds }) => startSeconds).sort((a, b) => a - b),
        );
      }),
    );
  });

  it("the gateway's phases follow one another without a gap, and the way to the first token adds up over processes", () => {
    const length = fc.integer({ min: 0, max: 5_000 });
    fc.assert(
      fc.property(fc.tuple(length, length, length, length, length, length), ([before, there, queue, fetch, step, back]) => {
        const sentMs = before;
        const firstMs = sentMs + there + queue + fetch + step + back;
        const timings: RequestTimings = {
          queueSeconds: queue / 1000,
          fetchSeconds: fetch / 1000,
          firstTokenSeconds: (queue + fetch + step) / 1000,
          totalSeconds: (queue + fetch + step + 100) / 1000,
        };
        const own = [
          { name: "route", endMs: sentMs },
          { name: "first token", endMs: firstMs },
        ];
        const record = attempt({ sentMs, firstMs, end: { ms: firstMs + 200, outcome: "stop" }, timings });
        const phases = timelinePhases(0, own, [record], firstMs + 200);
        const total = (all: TimelinePhase[]) => all.reduce((sum, { seconds }) => sum + seconds * 1000, 0);
        expect(total(phases.filter(({ process }) => process === "gateway"))).toBeCloseTo(firstMs);
        const decode = phases.filter(({ process, name }) => process === "decode" && name !== "steps");
        expect(before + total(decode) + there + back).toBeCloseTo(firstMs);
      }),
    );
  });
});
