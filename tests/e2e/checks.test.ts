// The commands that prove exactness, as a user runs them.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checkExact } from "../../services/cli/check-exact.ts";
import { checkModel } from "../../services/cli/check-model.ts";
import { goldensDir } from "../../services/cli/native-build.ts";
import { inTree } from "../../services/cli/tree.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

// The repository's own, with their weights from the build; a developer may have more beside the checkout.
const own = ["deepseek-v2-lite", "deepseek-v3-fp8"];
const others = ["deepseek-v2", "deepseek-v3", "deepseek-v3-mla512"];
function find(name: string): string | undefined {
  const dir = inTree("..", "shared", "goldens", name);
  return existsSync(dir) ? dir : undefined;
}
const goldens = [...own.map((name) => [name, join(goldensDir, name)] as const), ...others.map((name) => [name, find(name)] as const)];

describe("check-model", () => {
  for (const [name, dir] of goldens) {
    test.skipIf(dir === undefined)(`${name}${dir ? "" : ": not in this checkout"}`, async () => {
      const check = await checkModel(dir as string);
      expect(check.maxAbsLogitError).toBeLessThanOrEqual(1e-4);
      expect(check.greedyEqual).toBe(true);
    });
  }

  for (const name of ["qwen2-distill", "llama-distill"]) {
    const dir = find(name);
    test.skipIf(dir === undefined)(`${name} is refused by name${dir ? "" : ": not in this checkout"}`, async () => {
      await expect(checkModel(dir as string)).rejects.toThrow(/architectures.*(Qwen2|Llama)ForCausalLM/);
    });
  }
});

describe("check-exact", () => {
  test("the model in the box, greedy and sampled", async () => {
    const report = await checkExact(embeddedModel(), { backend: "cpu" }, [0, 0.8], "bfloat16", () => {});
    expect(report.requests.map(({ distinct }) => distinct)).toEqual(report.requests.map(() => 1));
    expect(report.exact).toBe(true);
  }, 600_000);

  const flat = find("deepseek-v3-mla512");
  test.skipIf(flat === undefined)(
    `deepseek-v3-mla512 with flat logits at temperature 1${flat ? "" : ": not in this checkout"}`,
    async () => {
      const report = await checkExact(flat as string, { backend: "cpu" }, [1], "float32", () => {});
      expect(report.exact).toBe(true);
    },
    600_000,
  );
});
