import fc from "fast-check";
import { expect, test } from "vitest";
import { CreditBudget } from "./credit-budget.ts";

const frameBytes = 100;

/** Some transfers, each as the sizes of its frames: cut where the sender's rows became ready. */
const transfers = fc.array(fc.array(fc.integer({ min: 1, max: frameBytes }), { minLength: 1, maxLength: 30 }), {
  minLength: 1,
  maxLength: 20,
});

test("every transfer ends, whatever the sizes of its frames, and never is more in flight than the budget", () => {
  fc.assert(
    fc.property(
      transfers,
      fc.integer({ min: frameBytes, max: 20 * frameBytes }),
      fc.infiniteStream(fc.nat()),
      (frames, budgetBytes, chance) => {
        const credits = new CreditBudget(budgetBytes);
        const senders = frames.map((sizes, i) => ({ id: String(i), sizes, sent: 0, total: sizes.reduce((sum, size) => sum + size, 0) }));
        const unsent = new Set(senders);
        for (const { id, total } of senders) credits.open(id, total);
        credits.distribute(frameBytes);
        while (unsent.size > 0) {
          expect(credits.outstandingBytes).toBeLessThanOrEqual(budgetBytes);
          const able = [...unsent].filter(({ id, sizes, sent }) => sent + (sizes[0] as number) <= credits.grantedBytes(id));
          expect(able.length).toBeGreaterThan(0);
          const sender = able[(chance.next().value as number) % able.length] as (typeof senders)[number];
          const size = sender.sizes.shift() as number;
          sender.sent += size;
          credits.received(sender.id, size);
          if (sender.sizes.length === 0) {
            credits.close(sender.id);
            unsent.delete(sender);
          }
          credits.distribute(frameBytes);
        }
        expect(credits.outstandingBytes).toBe(0);
      },
    ),
    { numRuns: 500 },
  );
});

test("a lone transfer is granted in steps of a quarter of the budget, not frame by frame", () => {
  const credits = new CreditBudget(64 * frameBytes);
  credits.open("a", 1_000 * frameBytes);
  let grants = credits.distribute(frameBytes).length;
  for (let frame = 0; frame < 1_000; frame++) {
    credits.received("a", frameBytes);
    grants += credits.distribute(frameBytes).length;
  }
  expect(grants).toBeLessThan(70);
});
