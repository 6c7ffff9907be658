// Every alert through promtool: that it fires when it should, that it does not when it should not, and that the rules are well formed.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { alertGroups } from "../../operators/dashboards/alerts.ts";
import { runCommand } from "../../services/cli/run-command.ts";
import { inTree } from "../../services/cli/tree.ts";
import { prometheusTools } from "../support/prometheus.ts";
import { type AlertCase, alertCases } from "./alert-cases.ts";

const { missing, promtool } = await prometheusTools();
const rules = inTree("charts", "pelagic", "rules", "pelagic.rules.yaml");
const alerts = alertGroups.flatMap((group) => group.alerts);
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-rules-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function run(...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await runCommand(promtool, args, { cwd: dir, timeoutMs: 60_000 });
  expect(exitCode, `${stdout}${stderr}`).toBe(0);
  return stdout;
}

/** promtool's own file; what fires is asked of ALERTS, which has no annotations. */
function unitTest(name: string, severity: string, { series, at, fires }: AlertCase) {
  const labels = { alertname: name, alertstate: "firing", severity, ...fires };
  const shown = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return {
    rule_files: [rules],
    evaluation_interval: "30s",
    tests: [
      {
        interval: "30s",
        input_series: Object.entries(series).map(([one, values]) => ({ series: one, values })),
        promql_expr_test: [
          {
            expr: `ALERTS{alertname="${name}",alertstate="firing"}`,
            eval_time: at,
            exp_samples: fires === null ? [] : [{ labels: `ALERTS{${shown.join(",")}}`, value: 1 }],
          },
        ],
      },
    ],
  };
}

describe.skipIf(missing !== undefined)(`the rules in promtool${missing ? ` (${missing})` : ""}`, () => {
  it("are well formed", async () => {
    expect(await run("check", "rules", "--lint-fatal", rules)).toContain("SUCCESS");
  });

  it("go with the scrape configuration that docs/observability.md gives", async () => {
    const lines = readFileSync(inTree("docs", "observability.md"), "utf8").split("\n");
    const first = lines.indexOf("    scrape_configs:");
    const end = lines.findIndex((line, at) => at > first && !line.startsWith("    "));
    // Debian's build finds no targets by Kubernetes: that line alone is left out.
    const config = lines.slice(first, end).map((line) => line.slice(4).replace(/kubernetes_sd_configs: .*/, "static_configs: []"));
    expect(config.length).toBeGreaterThan(10);
    writeFileSync(join(dir, "prometheus.yml"), ["rule_files:", `  - ${rules}`, ...config, ""].join("\n"));
    expect(await run("check", "config", join(dir, "prometheus.yml"))).toContain("SUCCESS");
  });

  for (const { name, severity } of alerts) {
    for (const each of alertCases[name] ?? []) {
      it(`${name} ${each.fires ? "fires" : "is quiet"}: ${each.what}`, async () => {
        const file = join(dir, "test.yaml");
        writeFileSync(file, JSON.stringify(unitTest(name, severity, each)));
        await run("test", "rules", file);
      });
    }
  }
});

describe("the cases", () => {
  it("are there for each alert: one that fires, one that does not", () => {
    expect(Object.keys(alertCases).sort()).toEqual(alerts.map(({ name }) => name).sort());
    for (const [name, cases] of Object.entries(alertCases)) {
      expect(new Set(cases.map(({ fires }) => fires === null)), name).toEqual(new Set([true, false]));
    }
  });

  it("have the labels that an alert's words name", () => {
    for (const { name, summary, description } of alerts) {
      const named = [...`${summary} ${description}`.matchAll(/\$labels\.(\w+)/g)].map((match) => match[1] as string);
      for (const { fires } of alertCases[name] ?? []) {
        if (fires !== null) expect(Object.keys(fires), name).toEqual(expect.arrayContaining(named));
      }
    }
  });
});
