import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { kvBlockTokens } from "../contracts/block-key.ts";
import { BlockManager } from "./block-manager.ts";
import {
  blocksForRows,
  type Plan,
  type RunningView,
  type SchedulerConfig,
  type Snapshot,
  schedule,
  type WaitingView,
  maxDecodeSteps,
  maxScoredRows,
} from "./scheduler.ts";
import { chunkWork, leastChunkRows, leastWork } from "./step-work.ts";

const config: SchedulerConfig = { tokenBudget: 256, maxSequences: 8, chunkTokens: 128, chunkAlignTokens: 64 };

function running(id: string, position: number, computedRows: number, targetRows: number, more: Partial<RunningView> = {}): RunningView {
  const heldBlocks = blocksForRows(targetRows);
  return { id, position, computedRows, targetRows, tokensLeft: 1, heldBlocks, unsharedBlocks: heldBlocks, ...more };
}

function waiting(id: string, position: number, targetRows: number, more: Partial<WaitingView> = {}): WaitingView {
  return { id, position, targetRows, hitRows: 0, hitBlocks: 0, idleHitBlocks: 0, ...more };
}

describe("blocksForRows", () => {
  it("rounds up", () => {
    expect([0, 1, 64, 65].map(blocksForRows)).toEqual([0, 1, 1, 2]);
  });
});

describe("schedule", () => {
  it("puts decode before prefill, and both before new requests", () => {
    const plan = schedule(config, {
      running: [running("prefill", 1, 64, 300), running("decode", 2, 99, 100)],
      waiting: [waiting("new", 3, 40)],
      availableBlocks: 10,
    });
    expect(plan).toEqual({
      work: [
        { id: "decode", firstRow: 99, rowCount: 1, growBlocks: 0 },
        { id: "prefill", firstRow: 64, rowCount: 128, growBlocks: 0 },
        { id: "new", firstRow: 0, rowCount: 40, growBlocks: 1 },
      ],
      steps: 1,
      admit: ["new"],
      preempt: [],
    });
  });

  it("makes several steps when all decode, as many as the first to end has tokens, over free blocks only", () => {
    const decoding = [running("second", 2, 63, 64, { tokensLeft: 9 }), running("first", 1, 99, 100, { tokensLeft: 500 })];
    const plan = (availableBlocks: number, others: Partial<Snapshot> = {}) =>
      schedule(config, { running: decoding, waiting: [], availableBlocks, ...others });
    expect(plan(1)).toEqual({
      work: [
        { id: "first", firstRow: 99, rowCount: 1, growBlocks: 0 },
        { id: "second", firstRow: 63, rowCount: 1, growBlocks: 1 },
      ],
      steps: 9,
      admit: [],
      preempt: [],
    });
    expect(plan(0).steps).toBe(1);
    expect(plan(1, { waiting: [waiting("new", 3, 640)] }).steps).toBe(9);
    expect(plan(9, { waiting: [waiting("new", 3, 40)] }).steps).toBe(1);
    expect(plan(9, { running: [...decoding, running("prefill", 3, 0, 64)] }).steps).toBe(1);
    expect(plan(9, { running: [running("only", 1, 99, 100, { tokensLeft: 500 })] }).steps).toBe(maxDecodeSteps);
    expect(schedule({ ...config, tokenBudget: 1 }, { running: decoding, waiting: [], availableBlocks: 9 }).steps).toBe(1);
  });

  it("cuts prefill to what its time allows: less where rows look far back, half of it where others wait, and nothing for crumbs", () => {
    const wide = { ...config, tokenBudget: 512, chunkTokens: 256 };
    const chunks = (work: number, pairWork: number, ...requests: RunningView[]) =>
      schedule(wide, { running: requests, waiting: [], availableBlocks: 9, bound: { work, pairWork } }).work.map(
        ({ rowCount }) => rowCount,
      );
    const at = (position: number, firstRow: number) => running(`at ${firstRow}`, position, firstRow, 4_000);
    expect(chunks(200, 0, at(1, 0))).toEqual([192]);
    expect(chunks(0, 0, at(1, 0))).toEqual([128]);
    expect(chunks(200, 0.003, at(1, 0), running("decode", 2, 99, 100))).toEqual([1, 128]);
    expect(chunks(200, 0.003, at(1, 1_024))).toEqual([32]);
    expect(chunks(200, 0.003, at(1, 1_056))).toEqual([32]);
    expect(chunks(100, 0.003, at(1, 1_024))).toEqual([22]);
    expect(chunks(200, 1, at(1, 3_008))).toEqual([22]);
    expect(chunks(200, 0, at(1, 0), at(2, 64), at(3, 128))).toEqual([64, 64, 64]);
    expect(chunks(140, 0, at(1, 0), at(2, 64), at(3, 128))).toEqual([64, 64]);
    expect(chunks(140, 0, at(1, 0), at(2, 64), running("short", 3, 0, 8))).toEqual([64, 64, 8]);
  });

  it("reserves all blocks of a new request that are not hit, and skips the rows that are", () => {
    const plan = schedule(config, {
      running: [],
      waiting: [waiting("new", 1, 500, { hitRows: 128, hitBlocks: 2, idleHitBlocks: 2 })],
      availableBlocks: 8,
    });
    expect(plan.work).toEqual([{ id: "new", firstRow: 128, rowCount: 128, growBlocks: 6 }]);
  });

  it("starts a request whose rows are all hit, with nothing to run", () => {
    const plan = schedule(config, {
      running: [],
      waiting: [waiting("hit", 1, 64, { hitRows: 64, hitBlocks: 1, idleHitBlocks: 1 })],
      availableBlocks: 1,
    });
    expect(plan).toEqual({ work: [{ id: "hit", firstRow: 64, rowCount: 0, growBlocks: 0 }], steps: 1, admit: ["hit"], preempt: [] });
  });

  it("ends chunks on block boundaries, except the last", () => {
    const rows = (firstRow: number, target: number, tokenBudget: number) =>
      schedule({ ...config, tokenBudget }, { running: [running("only", 1, firstRow, target)], waiting: [], availableBlocks: 0 }).work[0]
        ?.rowCount;
    expect(rows(0, 1000, 100)).toBe(64);
    expect(rows(70, 1000, 256)).toBe(122);
    expect(rows(0, 100, 256)).toBe(100);
    expect(rows(0, 1000, 40)).toBe(32);
    expect(rows(40, 1000, 40)).toBe(24);
  });

  it("lets nobody overtake the first that does not fit", () => {
    const snapshot = (availableBlocks: number): Snapshot => ({
      running: [running("old", 1, 9, 10)],
      waiting: [waiting("short", 3, 10), waiting("long", 2, 640)],
      availableBlocks,
    });
    expect(schedule(config, snapshot(11)).admit).toEqual([]);
    expect(schedule(config, snapshot(12)).admit).toEqual(["long"]);
    expect(schedule(config, snapshot(13)).admit).toEqual(["long"]);
    expect(schedule(config, snapshot(14)).admit).toEqual(["long", "short"]);
    expect(schedule({ ...config, maxSequences: 2 }, snapshot(14)).admit).toEqual(["long"]);
  });

  it("preempts the last in the queue for one before it that needs a block", () => {
    const one = { heldBlocks: 1, unsharedBlocks: 1 };
    const plan = schedule(config, {
      running: [running("second", 2, 10, 11, one), running("first", 1, 64, 65, one), running("third", 3, 20, 21, one)],
      waiting: [waiting("new", 4, 1)],
      availableBlocks: 0,
    });
    expect(plan.preempt).toEqual(["third"]);
    expect(plan.work.map(({ id, growBlocks }) => [id, growBlocks])).toEqual([
      ["first", 1],
      ["second", 0],
    ]);
    expect(plan.admit).toEqual([]);
  });

  it("preempts the needy one itself when it is the latest", () => {
    const one = { heldBlocks: 1, unsharedBlocks: 1 };
    const plan = schedule(config, {
      running: [running("first", 1, 10, 11, one), running("second", 2, 64, 65, one)],
      waiting: [],
      availableBlocks: 0,
    });
    expect([plan.preempt, plan.work.map(({ id }) => id)]).toEqual([["second"], ["first"]]);
  });

  it("takes back the decode row of a later request whose blocks an earlier prefill needs", () => {
    const one = { heldBlocks: 1, unsharedBlocks: 1 };
    const plan = schedule(
      { ...config, tokenBudget: 65 },
      {
        running: [running("prefill", 1, 64, 129, one), running("decode", 2, 64, 65, one)],
        waiting: [],
        availableBlocks: 1,
      },
    );
    expect(plan).toEqual({
      work: [{ id: "prefill", firstRow: 64, rowCount: 65, growBlocks: 2 }],
      steps: 1,
      admit: [],
      preempt: ["decode"],
    });
  });

  it("pauses the earliest, rather than give it up, when the preempted shared their blocks", () => {
    const shared = { heldBlocks: 1, unsharedBlocks: 0 };
    const plan = schedule(config, {
      running: [running("first", 1, 64, 65, { heldBlocks: 1 }), running("second", 2, 64, 65, shared), running("third", 3, 64, 65, shared)],
      waiting: [],
      availableBlocks: 0,
    });
    expect(plan).toEqual({ work: [], steps: 1, admit: [], preempt: ["third", "second"] });
  });
});

const byPosition = (left: { position: number }, right: { position: number }) => left.position - right.position;

/** Most steps that a call may make: one unless nobody comes or goes and all who can run decode; never more than anyone's tokens or blocks. */
function bestSteps({ running, availableBlocks }: Snapshot, plan: Plan): number {
  const runnable = running.filter(({ computedRows, targetRows }) => computedRows < targetRows);
  const decoding = runnable.every(({ computedRows, targetRows }) => computedRows + 1 === targetRows);
  if (!decoding || plan.admit.length + plan.preempt.length > 0 || plan.work.length !== runnable.length || runnable.length === 0) return 1;
  let steps = 1;
  for (let more = 2; more <= maxDecodeSteps; more++) {
    const blocks = runnable.map(({ computedRows, heldBlocks }) => Math.max(0, blocksForRows(computedRows + more) - heldBlocks));
    const fits = blocks.reduce((sum, n) => sum + n, 0) <= availableBlocks;
    if (fits && runnable.every(({ tokensLeft }) => more <= tokensLeft)) steps = more;
  }
  return steps;
}

/** Prefill takes no more time than it may, but for one row that takes more; and where nothing else is in its way, it takes some. */
function checkBound(
  { bound, availableBlocks }: Snapshot,
  plan: Plan,
  views: ReadonlyMap<string, { firstRow: number; targetRows: number }>,
) {
  if (!bound) return;
  const isDecode = (id: string) => {
    const { firstRow, targetRows } = views.get(id) as { firstRow: number; targetRows: number };
    return targetRows - firstRow === 1 && !plan.admit.includes(id);
  };
  const workOf = (id: string, rows: number) => chunkWork(bound.pairWork, views.get(id)?.firstRow as number, rows);
  const allDecode = [...views.keys()].filter(isDecode).reduce((sum, id) => sum + workOf(id, 1), 0);
  const prefill = plan.work.filter(({ id, rowCount }) => rowCount > 0 && !isDecode(id));
  const taken = prefill.reduce((sum, { id, rowCount }) => sum + workOf(id, rowCount), 0);
  const least = prefill.length === 1 && (prefill[0]?.rowCount as number) <= leastChunkRows;
  if (!least) expect(taken).toBeLessThanOrEqual(Math.max(leastWork, bound.work - allDecode) * (1 + 1e-9));
  const decoded = plan.work.some(({ id }) => isDecode(id));
  const unfinished = [...views].some(([id, { firstRow, targetRows }]) => targetRows > firstRow && !isDecode(id));
  if (unfinished && !decoded && plan.preempt.length === 0 && availableBlocks > 0) expect(prefill.length).toBeGreaterThan(0);
}

/** What must hold for the plan of any snapshot. */
function checkPlan(config: SchedulerConfig, snapshot: Snapshot, plan: Plan): void {
  const align = config.chunkAlignTokens;
  const workOf = new Map(plan.work.map((work) => [work.id, work]));
  expect(workOf.size).toBe(plan.work.length);

  const runningInOrder = snapshot.running.toSorted(byPosition);
  const kept = runningInOrder.slice(0, runningInOrder.length - plan.preempt.length);
  const preempted = runningInOrder.slice(kept.length);
  expect(plan.preempt).toEqual(preempted.map(({ id }) => id).toReversed());
  const waitingInOrder = snapshot.waiting.toSorted(byPosition);
  const admitted = waitingInOrder.slice(0, plan.admit.length);
  expect(plan.admit).toEqual(admitted.map(({ id }) => id));
  if (plan.preempt.length > 0) expect(plan.admit).toEqual([]);

  const views = new Map<string, { firstRow: number; targetRows: number; blocks: number; isScored: boolean }>();
  for (const { id, computedRows, targetRows, heldBlocks, scoredRows = 0 } of kept) {
    views.set(id, { firstRow: computedRows, targetRows, blocks: heldBlocks, isScored: computedRows < scoredRows });
  }
  for (const { id, hitRows, targetRows, hitBlocks, scoredRows = 0 } of admitted)
    views.set(id, { firstRow: hitRows, targetRows, blocks: hitBlocks, isScored: hitRows < scoredRows });
  let tokensLeft = config.tokenBudget;
  let scoresLeft = maxScoredRows;
  let blocksLeft = snapshot.availableBlocks;
  let blocksAhead = 0;
  for (const { unsharedBlocks } of preempted) blocksLeft += unsharedBlocks;
  for (const { idleHitBlocks } of admitted) blocksLeft -= idleHitBlocks;
  for (const { id, firstRow, rowCount, growBlocks } of plan.work) {
    const view = views.get(id);
    if (view === undefined) throw new Error(`work for ${id}, which does not run`);
    const end = firstRow + rowCount;
    expect(firstRow).toBe(view.firstRow);
    expect(rowCount).toBeGreaterThanOrEqual(plan.admit.includes(id) && firstRow === view.targetRows ? 0 : 1);
    expect(rowCount).toBeLessThanOrEqual(config.chunkTokens);
    expect(end).toBeLessThanOrEqual(view.targetRows);
    expect(end === view.targetRows || end % align === 0 || end - (end % align) <= firstRow).toBe(true);
    const reserved = plan.admit.includes(id) ? view.targetRows : end;
    const firstStepBlocks = Math.max(0, blocksForRows(reserved) - view.blocks);
    expect(growBlocks).toBe(Math.max(0, blocksForRows(reserved + plan.steps - 1) - view.blocks));
    tokensLeft -= rowCount;
    if (view.isScored) scoresLeft -= rowCount;
    blocksLeft -= firstStepBlocks;
    blocksAhead += growBlocks - firstStepBlocks;
  }
  expect(Math.min(tokensLeft, scoresLeft)).toBeGreaterThanOrEqual(0);
  expect(blocksLeft).toBeGreaterThanOrEqual(blocksAhead);
  expect(plan.steps).toBe(bestSteps(snapshot, plan));
  checkBound(snapshot, plan, views);
  if (admitted.length > 0) expect(views.size).toBeLessThanOrEqual(config.maxSequences);
  for (const { id } of admitted) expect(workOf.has(id)).toBe(true);

  // Nothing lies idle that could run.
  if (tokensLeft === 0) return;
  for (const { id, computedRows, targetRows, heldBlocks } of kept) {
    const isScored = views.get(id)?.isScored === true;
    if (computedRows === targetRows || (isScored && scoresLeft === 0)) continue;
    const work = workOf.get(id);
    // How much of it there is: checkBound.
    if (snapshot.bound && targetRows - computedRows > 1) continue;
    if (plan.preempt.length > 0) {
      if (work === undefined) expect(blocksLeft).toBe(0);
      continue;
    }
    if (work === undefined) throw new Error(`${id} could run`);
    const end = computedRows + work.rowCount;
    const rowsWithBlocks = (heldBlocks + work.growBlocks + blocksLeft) * kvBlockTokens;
    const possible = Math.min(
      ...[targetRows, computedRows + config.chunkTokens, end + tokensLeft, rowsWithBlocks],
      isScored ? end + scoresLeft : Number.POSITIVE_INFINITY,
    );
    expect(end).toBeGreaterThanOrEqual(possible === targetRows ? possible : possible - (possible % align));
  }
  const next = waitingInOrder[admitted.length];
  if (next === undefined || plan.preempt.length > 0 || snapshot.bound) return;
  if (next.hitRows < (next.scoredRows ?? 0) && scoresLeft === 0) return;
  const needed = blocksForRows(next.targetRows) - next.hitBlocks + next.idleHitBlocks;
  const reserve = views.size === 0 ? 0 : views.size + 1;
  expect(views.size >= config.maxSequences || needed + reserve > blocksLeft).toBe(true);
}

/** Schedules twice, the second time from the same snapshot in another order, and checks the plan. */
function scheduleAndCheck(config: SchedulerConfig, snapshot: Snapshot): Plan {
  const before = structuredClone(snapshot);
  const plan = schedule(config, snapshot);
  expect(snapshot).toEqual(before);
  const shuffled = { ...snapshot, running: snapshot.running.toReversed(), waiting: snapshot.waiting.toReversed() };
  expect(schedule(config, shuffled)).toEqual(plan);
  checkPlan(config, snapshot, plan);
  return plan;
}

const anyConfig: fc.Arbitrary<SchedulerConfig> = fc.record({
  tokenBudget: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 400 })),
  maxSequences: fc.integer({ min: 1, max: 6 }),
  chunkTokens: fc.integer({ min: 1, max: 256 }),
  chunkAlignTokens: fc.constantFrom(1 as const, 64 as const),
});

const anyBound = fc.option(
  fc.record({
    work: fc.oneof(fc.double({ min: 0, max: 600, noNaN: true }), fc.constant(Number.POSITIVE_INFINITY)),
    pairWork: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 0.05, noNaN: true }), fc.constant(1)),
  }),
  { nil: undefined },
);

describe("schedule on any snapshot", () => {
  const anyRunning = fc
    .record({
      computed: fc.nat(300),
      left: fc.oneof({ weight: 4, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.nat(200) }),
      tokensLeft: fc.integer({ min: 1, max: 40 }),
      spare: fc.nat(2),
      unshared: fc.nat(4),
      isScored: fc.boolean(),
    })
    .map(({ computed, left, tokensLeft, spare, unshared, isScored }) => {
      const heldBlocks = blocksForRows(computed) + spare;
      return {
        computedRows: computed,
        targetRows: computed + left,
        tokensLeft,
        heldBlocks,
        unsharedBlocks: Math.min(unshared, heldBlocks),
        // The last row's next token is not known.
        ...(isScored && { scoredRows: computed + left - 1 }),
      };
    });
  const anyWaiting = fc
    .record({ hit: fc.nat(3), left: fc.nat(300), idle: fc.nat(3), isScored: fc.boolean() })
    .map(({ hit, left, idle, isScored }) => ({
      ...(isScored && { scoredRows: Math.max(1, hit * kvBlockTokens + left) - 1 }),
      targetRows: Math.max(1, hit * kvBlockTokens + left),
      hitRows: hit * kvBlockTokens,
      hitBlocks: hit,
      idleHitBlocks: Math.min(idle, hit),
    }));

  it("keeps every rule and leaves nothing idle that could run", () => {
    fc.assert(
      fc.property(
        anyConfig,
        fc.array(anyRunning, { maxLength: 7 }),
        fc.array(anyWaiting, { maxLength: 5 }),
        fc.nat(12),
        fc.uniqueArray(fc.nat(), { minLength: 12, maxLength: 12 }),
        anyBound,
        (config, runningParts, waitingParts, availableBlocks, positions, bound) => {
          const running = runningParts.map((part, index) => ({ id: `r${index}`, position: positions[index] as number, ...part }));
          const waiting = waitingParts.map((part, index) => ({ id: `w${index}`, position: positions[7 + index] as number, ...part }));
          const plan = scheduleAndCheck(config, { running, waiting, availableBlocks, ...(bound && { bound }) });
          const runnable = running.some(({ computedRows, targetRows }) => computedRows < targetRows);
          if (runnable) expect(plan.work.length + plan.preempt.length).toBeGreaterThan(0);
        },
      ),
      { numRuns: 3000 },
    );
  });
});

/** One request of a simulated history. */
interface Script {
  arrivesAtStep: number;
  promptRows: number;
  answerRows: number;
  /** Requests of one family have the same prompt, as far as both go. */
  family: number;
  /** Its rows come from elsewhere until then: it holds its blocks and has nothing to compute. */
  pausedUntilStep: number;
}

interface Simulated extends Script {
  id: string;
  position: number;
  /** Rows whose token ids are known: the prompt and the answer so far. */
  knownRows: number;
  computedRows: number;
}

/** Runs the scripts to their end on a real block manager; every step must keep the rules. */
function simulate(
  config: SchedulerConfig,
  blockCount: number,
  scripts: Script[],
  bound?: Snapshot["bound"],
): { preemptions: number; aheadSteps: number } {
  const blocks = new BlockManager(blockCount);
  const requests = scripts
    .toSorted((left, right) => left.arrivesAtStep - right.arrivesAtStep)
    .map((script, index): Simulated => ({ ...script, id: `q${index}`, position: index, knownRows: script.promptRows, computedRows: 0 }));
  const byId = new Map(requests.map((request) => [request.id, request]));
  const keysOf = ({ id, family, promptRows, knownRows }: Simulated) =>
    Array.from({ length: Math.floor(knownRows / kvBlockTokens) }, (_, index) =>
      (index + 1) * kvBlockTokens <= promptRows ? `family ${family} block ${index}` : `${id} block ${index}`,
    );
  // A request without an answer is done when its rows are there, so all of them may be hit; else the last row is computed.
  const reusableKeys = (request: Simulated) =>
    keysOf(request).slice(0, Math.floor((request.knownRows - (request.answerRows === 0 ? 0 : 1)) / kvBlockTokens));
  let waiting: Simulated[] = [];
  let running: Simulated[] = [];
  let unarrived = requests;
  let preemptions = 0;
  let aheadSteps = 0;
  let admittedLastStep = false;

  for (let step = 0; ; step++) {
    if (step > 20_000) throw new Error("the requests do not finish");
    waiting.push(...unarrived.filter(({ arrivesAtStep }) => arrivesAtStep <= step));
    unarrived = unarrived.filter(({ arrivesAtStep }) => arrivesAtStep > step);
    if (waiting.length + running.length + unarrived.length === 0) {
      expect(blocks.owners()).toEqual([]);
      expect(blocks.available).toBe(blockCount);
      return { preemptions, aheadSteps };
    }
    const snapshot: Snapshot = {
      running: running.map((request) => ({
        id: request.id,
        position: request.position,
        computedRows: request.computedRows,
        targetRows: step < request.pausedUntilStep ? request.computedRows : request.knownRows,
        tokensLeft: Math.max(1, request.promptRows + request.answerRows - request.knownRows),
        heldBlocks: blocks.table(request.id).length,
        unsharedBlocks: blocks.unshared(request.id),
      })),
      waiting: waiting.map((request) => {
        const hit = blocks.lookup(reusableKeys(request));
        return {
          id: request.id,
          position: request.position,
          targetRows: request.knownRows,
          hitRows: hit.hitBlocks * kvBlockTokens,
          ...hit,
        };
      }),
      availableBlocks: blocks.available,
      ...(bound && { bound }),
    };
    const plan = scheduleAndCheck(config, snapshot);

    const earliest = running.toSorted(byPosition)[0];
    if (earliest !== undefined) expect(plan.preempt).not.toContain(earliest.id);
    if (admittedLastStep) expect(plan.preempt).toEqual([]);
    const runnable = snapshot.running.some(({ computedRows, targetRows }) => computedRows < targetRows);
    if (runnable || (running.length === 0 && waiting.length > 0)) {
      expect(plan.work.length + plan.preempt.length).toBeGreaterThan(0);
    }
    admittedLastStep = plan.admit.length > 0;
    preemptions += plan.preempt.length;

    for (const id of plan.preempt) {
      const request = byId.get(id) as Simulated;
      blocks.close(id);
      request.computedRows = 0;
      running = running.filter((other) => other !== request);
      waiting.push(request);
    }
    for (const id of plan.admit) {
      const request = byId.get(id) as Simulated;
      const hitBlocks = blocks.open(id, reusableKeys(request));
      expect(hitBlocks).toBe(snapshot.waiting.find((view) => view.id === id)?.hitBlocks);
      request.computedRows = hitBlocks * kvBlockTokens;
      waiting = waiting.filter((other) => other !== request);
      running.push(request);
    }
    for (const { id, growBlocks } of plan.work) expect(blocks.grow(id, growBlocks)).toBe(true);
    // A runner may stop early, after a slow step for one.
    const made = 1 + (step % plan.steps);
    aheadSteps += made - 1;
    for (let ahead = 0; ahead < made; ahead++) {
      for (const { id, firstRow, rowCount } of plan.work) {
        const request = byId.get(id) as Simulated;
        expect(firstRow + ahead).toBe(request.computedRows);
        request.computedRows += rowCount;
        expect(blocks.table(id).length * kvBlockTokens).toBeGreaterThanOrEqual(request.computedRows);
        const fullBlocks = Math.floor(request.computedRows / kvBlockTokens);
        for (const [index, key] of keysOf(request).slice(0, fullBlocks).entries()) blocks.register(id, index, key);
        if (request.computedRows < request.knownRows) continue;
        if (request.knownRows < request.promptRows + request.answerRows - 1) {
          request.knownRows++;
        } else {
          expect(ahead).toBe(made - 1);
          blocks.close(id);
          running = running.filter((other) => other !== request);
        }
      }
    }
    blocks.check();
  }
}

describe("schedule over simulated histories", () => {
  const anyScript: fc.Arbitrary<Script> = fc.record({
    arrivesAtStep: fc.nat(40),
    promptRows: fc.integer({ min: 1, max: 300 }),
    answerRows: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 150 })),
    family: fc.nat(2),
    pausedUntilStep: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(60) }),
  });

  it("finishes every request that fits the cache alone, within every rule in each step", () => {
    fc.assert(
      fc.property(anyConfig, fc.array(anyScript, { minLength: 1, maxLength: 8 }), fc.nat(6), anyBound, (config, scripts, spare, bound) => {
        const largest = Math.max(...scripts.map(({ promptRows, answerRows }) => blocksForRows(promptRows + Math.max(0, answerRows - 1))));
        simulate(config, largest + spare, scripts, bound);
      }),
      { numRuns: 80 },
    );
  });

  it("finishes a crowd that has to be preempted", () => {
    const scripts = Array.from({ length: 6 }, (_, family) => ({
      arrivesAtStep: family,
      promptRows: 60,
      answerRows: 200,
      family,
      pausedUntilStep: 0,
    }));
    const { preemptions, aheadSteps } = simulate(config, 8, scripts);
    expect(preemptions).toBeGreaterThan(0);
    expect(aheadSteps).toBeGreaterThan(0);
  });
});
