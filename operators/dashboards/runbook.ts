// docs/alerts.md: each alert with what it means and what to do.
import { alertGroups, expressionOf } from "./alerts.ts";
import { objectives, tpotSeconds, ttftSeconds } from "./objectives.ts";

export function alertsReference(): string {
  const percent = (share: number) => `${Number((share * 100).toFixed(3))} %`;
  const head = `# Alerts

Generated from \`operators/dashboards/alerts.ts\` (\`npm run generate\`). The rules are in \`charts/pelagic/rules\`; critical: somebody must come now; warning: within the day.

Objectives over 30 days, for each model: ${percent(objectives.availability)} of requests do not end by our fault (5xx; what a client did wrong or gave up does not count),
${percent(objectives.ttft)} have their first token within ${ttftSeconds} s, ${percent(objectives.tpot)} of answers take at most ${tpotSeconds} s for each further one.
`;
  const alerts = alertGroups.flatMap(({ alerts }) => alerts);
  return [
    head,
    ...alerts.map(
      (alert) => `## ${alert.name}\n\n${alert.severity}, after ${alert.for} of\n\n    ${expressionOf(alert)}\n\n${alert.runbook}\n`,
    ),
  ].join("\n");
}
