// What the next call runs: a pure function of a snapshot. It counts tokens and blocks and touches neither; the engine applies
// the plan to the block manager and hands the work to the model runner.
//
// The policy:
//   - Requests that run go first, in the order of the queue: decode (one row left) before prefill, so that a long prompt delays
//     no answer by more than one chunk.
//   - Then waiting requests start, strictly in the order of the queue: the first that does not fit stops admission, so a long
//     prompt is not overtaken for ever by short ones.
//   - A request that starts gets all blocks of its known rows at once; later it needs one block per 64 tokens of answer.
//     When none is left, the last in the queue gives its blocks up. The first therefore always advances, and so all finish.
//   - Prefill gets so much in a step as takes a bounded time (step-work.ts), and each step gives some.
//   - Where a call could only be followed by the same requests' next tokens, it makes several steps of decode (decodeSteps): small models
//     take less time for one than the way to the runner and back.
import { kvBlockTokens } from "../contracts/block-key.ts";
import { chunkWork, leastChunkRows, leastWork, rowsOfWork } from "./step-work.ts";

export interface SchedulerConfig {
  /** Rows in one step, over all requests. */
  tokenBudget: number;
  /** Requests that run at the same time. */
  maxSequences: number;
  /** Rows of one request in one step. */
  chunkTokens: number;
  /** A chunk that does not reach its request's target ends on a multiple of this position, or a part of the way there. */
  chunkAlignTokens: 1 | 64;
}

/** Rows of a prompt in one step, over all requests, whose tokens are scored: their logits, the whole vocabulary for each row, are in memory at once. */
export const maxScoredRows = 64;

/** Steps of decode in one call at most. */
export const maxDecodeSteps = 16;
/** A call of several steps begins none after so long: what a newcomer waits beside one step. So a slow model makes one step a call. */
export const decodeCallMs = 8;

/** A request that holds blocks. All of them count as running and may be preempted, also those with nothing to compute now. */
export interface RunningView {
  id: string;
  computedRows: number;
  /** Rows whose token ids are known and that are wanted; for a decoding request computedRows + 1. */
  targetRows: number;
  /** Tokens it may sample from here on, at least 1; 1 for one that samples none. */
  tokensLeft: number;
  heldBlocks: number;
  /** Those of heldBlocks that no other request holds: what preempting this one surely gives back. */
  unsharedBlocks: number;
  /** Rows before this one are scored, from where it is on; absent: none. */
  scoredRows?: number;
  /** Place in the queue (fair-queue/): of two requests that were once served it changes only where one has waited long since. Distinct. */
  position: number;
}

/** A request without blocks. One whose targetRows can exceed the whole cache must be refused before it gets here. */
export interface WaitingView {
  id: string;
  targetRows: number;
  /** What opening it now would hit: rows to skip, blocks, and how many of these blocks have no owner yet. */
  hitRows: number;
  hitBlocks: number;
  idleHitBlocks: number;
  scoredRows?: number;
  position: number;
}

export interface Snapshot {
  running: readonly RunningView[];
  waiting: readonly WaitingView[];
  availableBlocks: number;
  /** The step's work at most, decode included; prefill has at least leastWork of it. Absent: any. */
  bound?: { work: number; pairWork: number };
}

export interface Work {
  id: string;
  firstRow: number;
  /** In the first step. 0 only for a request that starts with every row hit: it takes its blocks and has nothing to run. */
  rowCount: number;
  /** For the rows of all steps. */
  growBlocks: number;
}

/**
 * To be applied in this order, or the blocks do not add up: close every preempted request, open every admitted one (before any
 * growth can evict what it hits), then grow each request of `work`.
 */
export interface Plan {
  work: Work[];
  /** Steps to make in this call at most; more than 1 only where all of `work` decodes, and none of it has fewer tokens left. */
  steps: number;
  /** Waiting requests that start now; each is also in `work`. */
  admit: string[];
  /** Running requests that go back to waiting; none of them is in `work`. */
  preempt: string[];
}

/** Blocks that hold this many rows. */
export function blocksForRows(rows: number): number {
  return Math.ceil(rows / kvBlockTokens);
}

export function schedule(config: SchedulerConfig, snapshot: Snapshot): Plan {
  const work = new Map<string, Work>();
  const admit: string[] = [];
  const preempt = new Set<string>();
  let tokensLeft = config.tokenBudget;
  let scoresLeft = maxScoredRows;
  let blocksLeft = snapshot.availableBlocks;
  /** Rows that a request may have in this step. */
  const limitOf = (firstRow: number, scoredRows = 0) => (firstRow < scoredRows ? Math.min(tokensLeft, scoresLeft) : tokensLeft);
  const spend = (rowCount: number, firstRow: number, scoredRows = 0) => {
    tokensLeft -= rowCount;
    if (firstRow < scoredRows) scoresLeft -= rowCount;
  };

  /** Running requests not preempted, earliest first: the last one is the next victim. */
  const kept = snapshot.running.toSorted(byPosition);
  const decoding = kept.filter((request) => request.targetRows - request.computedRows === 1);
  const prefilling = kept.filter((request) => request.targetRows - request.computedRows > 1);

  const prefill = new PrefillBound(snapshot, decoding, prefilling);

  for (const request of [...decoding, ...prefilling]) {
    const { id, computedRows: firstRow, targetRows, heldBlocks, scoredRows } = request;
    const prefills = targetRows - firstRow > 1;
    const rowsInTime = prefills ? prefill.rowsOf(firstRow, targetRows) : 1;
    if (rowsInTime === 0) break;
    while (limitOf(firstRow, scoredRows) > 0 && !preempt.has(id)) {
      const rowsWithBlocks = (heldBlocks + blocksLeft) * kvBlockTokens - firstRow;
      const rowCount = chunkRows(config, firstRow, targetRows, Math.min(limitOf(firstRow, scoredRows), rowsWithBlocks, rowsInTime));
      if (rowCount > 0) {
        const growBlocks = Math.max(0, blocksForRows(firstRow + rowCount) - heldBlocks);
        work.set(id, { id, firstRow, rowCount, growBlocks });
        spend(rowCount, firstRow, scoredRows);
        blocksLeft -= growBlocks;
        if (prefills) prefill.take(firstRow, rowCount);
        break;
      }
      const victim = kept.at(-1) as RunningView;
      // Blocks that two victims share come back too, but are in neither's count. So nobody gives itself up in a step that
      // preempted others: it pauses, and the next snapshot tells what there is.
      if (victim === request && preempt.size > 0) break;
      kept.pop();
      preempt.add(victim.id);
      blocksLeft += victim.unsharedBlocks;
      // A prefill request may take the blocks of a later one whose decode row is planned already.
      const planned = work.get(victim.id);
      if (planned !== undefined) {
        work.delete(victim.id);
        spend(-planned.rowCount, planned.firstRow, victim.scoredRows);
        blocksLeft += planned.growBlocks;
      }
    }
  }

  // A step that preempts admits nobody: what it freed is for those that run, and the preempted come before those behind them.
  // (Their blocks are also cached from now on, so the snapshot's hits no longer tell which of them are idle.)
  if (preempt.size > 0) return { work: [...work.values()], steps: 1, admit, preempt: [...preempt] };

  for (const request of snapshot.waiting.toSorted(byPosition)) {
    const { id, hitRows: firstRow, targetRows, hitBlocks, idleHitBlocks, scoredRows } = request;
    const running = kept.length + admit.length;
    if (running >= config.maxSequences) break;
    // One block stays for each request that runs, this one included, so that the next step preempts nobody. A request that
    // runs alone needs no such reserve: what it does not hold is its own to take.
    const reserveBlocks = running === 0 ? 0 : running + 1;
    const growBlocks = Math.max(0, blocksForRows(targetRows) - hitBlocks);
    if (growBlocks + idleHitBlocks + reserveBlocks > blocksLeft) break;
    const limit = Math.min(limitOf(firstRow, scoredRows), prefill.rowsOf(firstRow, targetRows));
    const rowCount = chunkRows(config, firstRow, targetRows, limit);
    if (rowCount === 0 && firstRow < targetRows) break;
    admit.push(id);
    work.set(id, { id, firstRow, rowCount, growBlocks });
    spend(rowCount, firstRow, scoredRows);
    blocksLeft -= growBlocks + idleHitBlocks;
    prefill.take(firstRow, rowCount);
  }
  const plan = { work: [...work.values()], steps: 1, admit, preempt: [] };
  const allDecode = decoding.length > 0 && prefilling.length === 0 && admit.length === 0 && plan.work.length === decoding.length;
  return allDecode ? withMoreSteps(plan, decoding, snapshot.availableBlocks) : plan;
}

/** What prefill may have of a step beside the rows that decode. */
class PrefillBound {
  private readonly pairWork: number;
  /** What one request may have: half, where others could go on too, or a long prompt would hold up all short ones behind it. */
  private readonly share: number;
  private workLeft: number;
  private isFirst = true;

  constructor({ bound, waiting }: Snapshot, decoding: readonly RunningView[], prefilling: readonly RunningView[]) {
    this.pairWork = bound?.pairWork ?? 0;
    const decodeWork = decoding.reduce((sum, { computedRows }) => sum + chunkWork(this.pairWork, computedRows, 1), 0);
    this.workLeft = Math.max(leastWork, (bound?.work ?? Number.POSITIVE_INFINITY) - decodeWork);
    this.share = prefilling.length + waiting.length > 1 ? this.workLeft / 2 : this.workLeft;
  }

  /** The first has some, whatever they take: every step brings somebody on. Others have no crumbs. */
  rowsOf(firstRow: number, targetRows: number): number {
    const rows = rowsOfWork(this.pairWork, firstRow, Math.min(this.share, this.workLeft));
    if (this.isFirst) return Math.max(leastChunkRows, rows);
    return rows < Math.min(leastChunkRows, targetRows - firstRow) ? 0 : rows;
  }

  take(firstRow: number, rowCount: number): void {
    this.workLeft = Math.max(0, this.workLeft - chunkWork(this.pairWork, firstRow, rowCount));
    if (rowCount > 0) this.isFirst = false;
  }
}

/**
 * A plan of decode rows that admits and preempts nobody. Whoever waits now waits for a request to end, and the call ends with the first that does
 * (a stop token, or its last token). Steps ahead take free blocks only.
 */
function withMoreSteps(plan: Plan, decoding: readonly RunningView[], availableBlocks: number): Plan {
  let steps = Math.min(maxDecodeSteps, ...decoding.map(({ tokensLeft }) => tokensLeft));
  for (; steps > 1; steps--) {
    const work = decoding.map(({ id, computedRows: firstRow, heldBlocks }) => {
      return { id, firstRow, rowCount: 1, growBlocks: Math.max(0, blocksForRows(firstRow + steps) - heldBlocks) };
    });
    if (work.reduce((sum, { growBlocks }) => sum + growBlocks, 0) <= availableBlocks) return { ...plan, work, steps };
  }
  return plan;
}

function chunkRows(config: SchedulerConfig, firstRow: number, targetRows: number, limit: number): number {
  const rows = Math.min(config.chunkTokens, limit);
  const end = Math.min(targetRows, firstRow + rows);
  if (end >= targetRows || config.chunkAlignTokens === 1 || rows < 1) return Math.max(0, end - firstRow);
  const alignedEnd = end - (end % config.chunkAlignTokens);
  if (alignedEnd > firstRow) return alignedEnd - firstRow;
  // Not 60 and 4 and 60 and 4: equal parts of the way there.
  const way = Math.min(targetRows - firstRow, config.chunkAlignTokens - (firstRow % config.chunkAlignTokens));
  return Math.ceil(way / Math.ceil(way / rows));
}

function byPosition(left: { position: number }, right: { position: number }): number {
  return left.position - right.position;
}
