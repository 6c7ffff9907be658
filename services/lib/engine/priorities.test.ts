// Classes and deadlines over a slow model: each call takes its time on a clock of the test's own.
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Clock, silentLog } from "../contracts/bus.ts";
import { type PriorityClass, priorityClasses } from "../contracts/messages.ts";
import { defaultAgeMs } from "../fair-queue/request-queue.ts";
import { Engine } from "./engine.ts";
import { CacheRunner } from "./testing/cache-runner.ts";

interface Asked {
  /** Before which call of the model it comes. */
  atCall: number;
  tenant: string;
  priority: PriorityClass;
  rows: number;
  maxTokens: number;
  dueMs: number;
}
interface Served extends Asked {
  arrivedMs: number;
  servedMs: number;
  /** Who waited when it was served for the first time. */
  left: (Asked & { arrivedMs: number })[];
}

const callMs = 400;
const kvBlocks = 8;
const maxWaiting = 12;

async function serve(all: readonly Asked[]): Promise<{ served: Served[]; refused: number; submitted: number }> {
  let now = 0;
  let calls = 0;
  const clock: Clock = { nowMs: () => now, setTimer: () => () => {} };
  const runner = new CacheRunner(kvBlocks);
  const config = { kvBlocks, tokenBudget: 128, chunkTokens: 64, chunkAlignTokens: 64 as const, maxSequences: 2, maxWaiting };
  const engine = new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "" }, config, clock, silentLog);
  const served: Served[] = [];
  const waiting = new Map<number, Asked & { arrivedMs: number }>();
  const ends: Promise<void>[] = [];
  let refused = 0;
  let submitted = 0;
  const submit = (one: Asked, n: number) => {
    submitted++;
    const arrivedMs = now;
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    waiting.set(n, { ...one, arrivedMs });
    try {
      engine.submit({
        id: `r${n}`,
        // Nobody hits another's blocks.
        tokens: Uint32Array.from({ length: one.rows }, (_, row) => (row * 31 + n) % 97),
        promptLength: one.rows,
        cacheSalt: `${one.tenant}/${n}`,
        standing: { tenant: one.tenant, user: "", priority: one.priority, dueAtMs: now + one.dueMs },
        mode: "local",
        maxTokens: one.maxTokens,
        stopTokenIds: new Set(),
        sampling: { temperature: 0, seed: 1n, choice: 0 },
        listener: {
          onReserved: () => {
            if (!waiting.delete(n)) return;
            served.push({ ...one, arrivedMs, servedMs: now, left: [...waiting.values()] });
          },
          onEnd: () => end(),
        },
      });
      ends.push(ended);
    } catch {
      waiting.delete(n);
      refused++;
    }
  };
  const submitDue = () => {
    for (const [n, one] of all.entries()) if (one.atCall === calls) submit(one, n);
  };
  runner.beforeStep = async () => {
    now += callMs;
    calls++;
    submitDue();
  };
  submitDue();
  // Waits grow while we wait for them: a request may come during the last call of those before it.
  for (let i = 0; i < ends.length; i++) await ends[i];
  await engine.close();
  engine.blocks.check();
  return { served, refused, submitted };
}

const asked = (calls: number): fc.Arbitrary<Asked> =>
  fc.record({
    atCall: fc.nat({ max: calls }),
    tenant: fc.constantFrom("a", "b", "c"),
    priority: fc.constantFrom(...priorityClasses),
    rows: fc.integer({ min: 1, max: 150 }),
    maxTokens: fc.integer({ min: 1, max: 40 }),
    dueMs: fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.nat({ max: 20_000 })),
  });

test("nobody is served before one of a better class that waits, unless it has waited long; and everybody is served", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(asked(20), { minLength: 1, maxLength: 30 }), async (all) => {
      // The first call starts the clock.
      const { served, refused, submitted } = await serve([{ ...(all[0] as Asked), atCall: 0 }, ...all]);
      expect(served.length + refused).toBe(submitted);
      for (const one of served) {
        if (one.servedMs - one.arrivedMs >= defaultAgeMs) continue;
        for (const other of one.left) {
          // Who comes in the very moment is the next one's rival.
          if (other.arrivedMs < one.servedMs)
            expect(priorityClasses.indexOf(other.priority)).toBeGreaterThanOrEqual(priorityClasses.indexOf(one.priority));
        }
      }
    }),
    { numRuns: 60 },
  );
});

test("a flood of the best class starves nobody", async () => {
  const flood = Array.from({ length: 700 }, (_, n): Asked => {
    return { atCall: n, tenant: `t${n}`, priority: "high", rows: 64, maxTokens: 4, dueMs: 100 };
  });
  const patient: Asked = { atCall: 2, tenant: "patient", priority: "low", rows: 64, maxTokens: 4, dueMs: Number.POSITIVE_INFINITY };
  const { served, refused } = await serve([...flood, patient]);
  // The model is too slow for all of them: the queue is full most of the time.
  expect(refused).toBeGreaterThan(100);
  const own = served.find(({ tenant }) => tenant === "patient") as Served;
  const place = served.indexOf(own);
  const better = served.slice(0, place).filter(({ arrivedMs }) => arrivedMs > own.arrivedMs).length;
  expect(better).toBeGreaterThan(20);
  // Requests take four calls, two at once.
  const bound = 3 * defaultAgeMs + (maxWaiting + 2) * 4 * callMs;
  for (const { servedMs, arrivedMs } of served) expect(servedMs - arrivedMs).toBeLessThanOrEqual(bound);
});
