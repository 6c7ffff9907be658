// The bench's memory figure, small: a receiver that stops reading for a while leaves neither process with more than the budget names.
import { expect, it } from "vitest";
import { measureMemory, processMib } from "../../services/cli/bench-kv/memory.ts";

const mib = 1024 * 1024;

it("keeps both processes and the server within the budget while the receiver stalls", async () => {
  const budgetMib = 4;
  const use = await measureMemory({ tokens: 64 * 512, layers: 6, budgetBytes: budgetMib * mib, stalls: 3, stallMs: 400 });
  // Else the bound would say nothing.
  expect(use.cacheBytes).toBeGreaterThan(4 * (budgetMib + processMib) * mib);
  for (const bytes of [use.sender, use.receiver, use.server]) expect(bytes / mib).toBeLessThan(budgetMib + processMib);
});
