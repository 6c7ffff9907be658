import { describe, expect, it } from "vitest";
import { parseCtest, parseVitest } from "./test-stages.ts";

describe("counts of the test stages", () => {
  it("reads ctest's closing lines", () => {
    expect(parseCtest("92% tests passed, 1 tests failed out of 12\n")).toEqual({ passed: 11, failed: 1, skipped: [] });
    const skipped = "100% tests passed, 0 tests failed out of 3\n\nThe following tests did not run:\n\t  2 - avx512 (Skipped)\n";
    expect(parseCtest(skipped)).toEqual({ passed: 2, failed: 0, skipped: ["C++ test avx512"] });
    expect(parseCtest("No tests were found!!!")).toBeUndefined();
  });

  it("counts a file that does not load as failed, and a skip in words", () => {
    const report = {
      numPassedTests: 2,
      numFailedTests: 1,
      testResults: [
        { name: "a", status: "failed", assertionResults: [] },
        {
          name: "b",
          status: "failed",
          assertionResults: [
            { status: "skipped", fullName: "b needs a GPU" },
            { status: "failed", fullName: "b" },
          ],
        },
      ],
    };
    expect(parseVitest(JSON.stringify(report))).toEqual({ passed: 2, failed: 2, skipped: ["b needs a GPU"] });
  });
});
