// Unit tests stand beside their sources, integration and end-to-end tests under tests/. All of it with real parts, so every wait has a bound.
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["services/**/*.test.ts", "tests/**/*.test.ts"],
    globalSetup: ["tests/support/build-first.ts"],
    // Processes, not threads: the native engine and signals belong to a process.
    pool: "forks",
    testTimeout: 20_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
  },
});
