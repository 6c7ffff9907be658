// What the end-to-end tests share.
import type { Stack } from "../../services/cli/stack/stack.ts";

export interface WorkerRow {
  workerId: string;
  state: string;
  requests: { running: number; waiting: number };
  blocks: { total: number; free: number; cached: number };
}

export async function workersOf(stack: Stack): Promise<WorkerRow[]> {
  const body = (await (await fetch(`${stack.adminUrl}/status`)).json()) as { workers: WorkerRow[] };
  return body.workers;
}

/** Polls until the condition holds; the bound is far beyond what it takes. */
export async function waitFor(what: string, condition: () => Promise<boolean>, boundMs = 30_000): Promise<void> {
  const end = performance.now() + boundMs;
  for (;;) {
    if (await condition().catch(() => false)) return;
    if (performance.now() > end) throw new Error(`not within ${boundMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
