import { describe, expect, it } from "vitest";
import { parseCtest, parseVitest } from "./test-stages.ts";
import { inTree } from "./tree.ts";

describe("counts of the test stages", () => {
  it("reads ctest's closing lines", () => {
    expect(parseCtest("92% tests passed, 1 tests failed out of 12\n")).toEqual({ passed: 11, failed: 1, skipped: [], failures: [] });
    const failed = "90% tests passed, 1 tests failed out of 10\n\nThe following tests FAILED:\n\t  7 - gate_test (Failed)\n";
    expect(parseCtest(failed)?.failures).toEqual(["C++ test gate_test"]);
    const skipped = "100% tests passed, 0 tests failed out of 3\n\nThe following tests did not run:\n\t  2 - avx512 (Skipped)\n";
    expect(parseCtest(skipped)).toEqual({ passed: 2, failed: 0, skipped: ["C++ test avx512"], failures: [] });
    expect(parseCtest("No tests were found!!!")).toBeUndefined();
  });

  it("counts a file that does not load as failed, and a skip in words", () => {
    const report = {
      numPassedTests: 2,
      numFailedTests: 1,
      testResults: [
        { name: inTree("a.test.ts"), status: "failed", message: "SyntaxError: x\n at y", assertionResults: [] },
        {
          name: inTree("b.test.ts"),
          status: "failed",
          assertionResults: [
            { status: "skipped", fullName: "b needs a GPU" },
            { status: "failed", fullName: "b counts", failureMessages: ["AssertionError: expected 1 to be 2\n    at z"] },
          ],
        },
      ],
    };
    expect(parseVitest(JSON.stringify(report))).toEqual({
      passed: 2,
      failed: 2,
      skipped: ["b needs a GPU"],
      failures: ["b.test.ts: b counts: AssertionError: expected 1 to be 2", "a.test.ts: did not load: SyntaxError: x"],
    });
  });
});
