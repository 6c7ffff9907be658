// What is simulated: the Azure traces as they are, and one after the other with a pause, where the ratio of prefill to decode turns round.
import type { Scenario } from "./compare.ts";
import { afterAnother, readTrace } from "./trace.ts";

export const scenarioNames = ["conversation", "code", "both"] as const;
export type ScenarioName = (typeof scenarioNames)[number];

const pauseSeconds = 1200;

/** `pathOf` finds a file of testdata/traces. */
export function scenario(name: ScenarioName, pathOf: (file: string) => string): Scenario {
  const conversation = () => readTrace(pathOf("azure-conv.txt.gz"));
  const code = () => readTrace(pathOf("azure-code.txt.gz"));
  switch (name) {
    case "conversation":
      return { name, trace: conversation(), first: { prefill: 4, decode: 4 }, scaleToZeroAfterSeconds: null };
    case "code":
      return { name, trace: code(), first: { prefill: 4, decode: 1 }, scaleToZeroAfterSeconds: null };
    case "both":
      return {
        name,
        trace: afterAnother(conversation(), pauseSeconds, code()),
        first: { prefill: 4, decode: 4 },
        scaleToZeroAfterSeconds: 600,
      };
  }
}
