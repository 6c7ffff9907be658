// All that is generated from here, by path.
import { experts } from "./experts.ts";
import { latentTransfer } from "./latent-transfer.ts";
import { operator } from "./operator.ts";
import { overview } from "./overview.ts";
import { type DashboardSpec, dashboardJson } from "./panels.ts";
import { prefillDecode } from "./prefill-decode.ts";
import { rulesYaml } from "./rules.ts";
import { alertsReference } from "./runbook.ts";

/** By file name. */
export const dashboards: Record<string, DashboardSpec> = {
  overview,
  "prefill-decode": prefillDecode,
  "latent-transfer": latentTransfer,
  experts,
  operator,
};

export function observabilityFiles(): Record<string, string> {
  return {
    ...Object.fromEntries(
      Object.entries(dashboards).map(([name, spec]) => [`charts/pelagic/dashboards/${name}.json`, dashboardJson(spec)]),
    ),
    "charts/pelagic/rules/pelagic.rules.yaml": rulesYaml(),
    "docs/alerts.md": alertsReference(),
  };
}
