// What no machine without a GPU would notice of the CUDA kernels.
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { trackedFiles } from "./tracked-files.ts";

// Weights, which nobody writes while steps run; the sampler's kernel, which is launched the ordinary way; and MLA decode, whose list of
// pieces and block tables are not yet read as they should be.
const allowed = [/__ldg\(weight_scales\b/, /^kernels\/ops\/sampler\/sampler\.cu:/, /^kernels\/ops\/mla_attention\/mla_decode[^:]*:/];

it("reads what an earlier kernel writes by plain loads, which stay behind the wait for it (cuda/dependents.cuh)", () => {
  const sources = trackedFiles().filter((path) => /^kernels\/.*\.cuh?$/.test(path));
  expect(sources.length).toBeGreaterThan(20);
  const loads = sources.flatMap((path) =>
    readFileSync(path, "utf8")
      .split("\n")
      .map((line, index) => `${path}:${index + 1}: ${line.replace(/\/\/.*/, "").trim()}`)
      .filter((line) => /__ldg\(|ld\.global\.nc|__restrict__/.test(line)),
  );
  expect(loads.filter((line) => !allowed.some((pattern) => pattern.test(line)))).toEqual([]);
});
