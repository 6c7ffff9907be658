import { expect, test } from "vitest";
import { DrainWatch } from "./drain-watch.ts";

const seen = (instanceId: string, state: "ready" | "draining" | "stopped", running = 0, waiting = 0) => ({
  instanceId,
  pid: instanceId.charCodeAt(0),
  state,
  requests: { running, waiting, maxWaiting: 16 },
});

test("a drain ends when nothing runs or waits, or the worker has stopped", () => {
  const watch = new DrainWatch();
  expect(watch.see(seen("a", "ready", 3))).toBeNull();
  expect(watch.see(seen("a", "draining", 2, 1))).toBeNull();
  expect(watch.see(seen("a", "draining", 0, 1))).toBeNull();
  expect(watch.see(seen("a", "draining"))).toBe("drained");
  expect(new DrainWatch().see(seen("a", "stopped"))).toBe("drained");
});

test("another process under the same id has drained nothing", () => {
  const watch = new DrainWatch();
  watch.see(seen("a", "draining", 2));
  expect(watch.see(seen("b", "ready"))).toBe("replaced");
  // One that was there before the order to drain was heard is nobody's concern.
  const other = new DrainWatch();
  other.see(seen("a", "ready"));
  expect(other.see(seen("b", "draining", 1))).toBeNull();
  expect(other.see(seen("b", "draining"))).toBe("drained");
});

test("one that took the order and died before it said so was replaced; the pid told is its own", () => {
  const watch = new DrainWatch();
  watch.see(seen("a", "ready", 2));
  watch.acknowledged();
  expect(watch.see(seen("a", "ready", 2))).toBeNull();
  expect(watch.see(seen("b", "ready"))).toBe("replaced");
  expect(watch.pid).toBe("a".charCodeAt(0));
});
