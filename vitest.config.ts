// Unit tests stand beside their sources, integration and end-to-end tests under tests/. All of it with real parts, so every wait has a bound.
import { defineConfig } from "vitest/config";

/** Whole processes, one test file after another: a machine may have two cores. */
const oneByOne = { fileParallelism: false, maxWorkers: 1 };

/** What an API server alone can show, in minutes: part of ./pelagic test. The others of tests/cluster are its --cluster. */
const onApiServer = ["delete-models", "model-service-crd", "operator", "operator-experts", "planner-objects"].map(
  (name) => `tests/cluster/${name}.test.ts`,
);
/** Each waits several times for an operator, a node or an API server: a bound on hanging. */
const clusterBounds = { testTimeout: 600_000, hookTimeout: 600_000 };

export default defineConfig({
  test: {
    globalSetup: ["tests/support/build-first.ts"],
    // Processes, not threads: the native engine and signals belong to a process.
    pool: "forks",
    // Against hanging, not against slowness: with fifteen others at work on two cores the slowest test without a bound of its own takes 15 s.
    testTimeout: 90_000,
    hookTimeout: 120_000,
    teardownTimeout: 10_000,
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: ["services/**/*.test.ts", "operators/**/*.test.ts", "loadtest/*.test.ts", "tests/house/*.test.ts"],
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: "integration",
          include: ["tests/**/*.test.ts"],
          exclude: ["tests/house/**", "tests/e2e/**", "tests/clients/**", "tests/cluster/**"],
          ...oneByOne,
          sequence: { groupOrder: 1 },
        },
      },
      { extends: true, test: { name: "e2e", include: ["tests/e2e/**/*.test.ts"], ...oneByOne, sequence: { groupOrder: 2 } } },
      {
        extends: true,
        test: {
          name: "cluster",
          include: ["tests/cluster/**/*.test.ts"],
          exclude: onApiServer,
          ...oneByOne,
          ...clusterBounds,
          sequence: { groupOrder: 5 },
        },
      },
      { extends: true, test: { name: "api-server", include: onApiServer, ...oneByOne, ...clusterBounds, sequence: { groupOrder: 4 } } },
      { extends: true, test: { name: "clients", include: ["tests/clients/**/*.test.ts"], ...oneByOne, sequence: { groupOrder: 3 } } },
    ],
  },
});
