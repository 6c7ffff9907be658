import { expect, test } from "vitest";
import { quickerToMove, takesOneMore } from "./move.ts";

const worker = (decodeStepSeconds: number, transferBytesPerSecond: number) => ({
  rates: { prefillTokensPerSecond: 0, decodeStepSeconds, transferBytesPerSecond },
  kvBytesPerToken: 1_000,
});

test("a request ends where it is only when that is sooner than carrying its rows away", () => {
  const from = worker(0.01, 1e6);
  // 0.05 s to hand over, and 1 s for 1,000 rows: 105 steps of 10 ms.
  expect(quickerToMove(from, { uncachedTokens: 1_000, remainingTokens: 104 })).toBe(false);
  expect(quickerToMove(from, { uncachedTokens: 1_000, remainingTokens: 106 })).toBe(true);
  // What the next worker has already does not travel.
  expect(quickerToMove(from, { uncachedTokens: 0, remainingTokens: 10 })).toBe(true);
  expect(quickerToMove(from, { uncachedTokens: 0, remainingTokens: 5 })).toBe(false);
});

test("a worker that measured nothing yet is taken to be slow: what runs there moves", () => {
  expect(quickerToMove(worker(0, 0), { uncachedTokens: 1_000, remainingTokens: 100 })).toBe(true);
});

test("a request moves only to a worker that will not refuse it", () => {
  const peer = (waiting: number, sent: number) => ({
    requests: { running: 8, waiting, maxWaiting: 16 },
    unreported: { requests: sent, prefillTokens: 0, blocks: 0 },
  });
  expect(takesOneMore(peer(7, 0))).toBe(true);
  expect(takesOneMore(peer(6, 1))).toBe(true);
  expect(takesOneMore(peer(7, 1))).toBe(false);
  expect(takesOneMore(peer(16, 0))).toBe(false);
});
