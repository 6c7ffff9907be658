// A bench that hears the bus itself still understands what is said there: run with the fewest requests, it ends with figures. What the
// figures are is theirs to judge, so exit code 1 (a target missed) is as good as 0.
import { execFile } from "node:child_process";
import { expect, test } from "vitest";
import { inTree } from "../../services/cli/tree.ts";

interface Report {
  bench: string;
  rows: { what: string; value: number }[];
}

function bench(...args: string[]): Promise<{ code: number; report: Report | undefined; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [inTree("dist", "services", "cli", "main.js"), "bench", ...args, "--json"], (error, stdout, stderr) => {
      const code = error === null ? 0 : Number(error.code ?? -1);
      resolve({ code, report: stdout === "" ? undefined : (JSON.parse(stdout) as Report), stderr });
    });
  });
}

test("bench cancel ends with figures", { timeout: 120_000 }, async () => {
  const { code, report, stderr } = await bench("cancel", "--requests", "10", "--streams", "2");
  expect(report?.rows.length, stderr).toBe(8);
  expect([0, 1]).toContain(code);
});
