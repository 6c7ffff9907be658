// The shortest scenario that still fails: takes faults, drains, requests and processes away, one after another, as long as it goes on failing.
import type { Scenario } from "./scenario.ts";

const maxTries = 400;

export async function shrink(scenario: Scenario, fails: (candidate: Scenario) => Promise<boolean>): Promise<Scenario> {
  let best = scenario;
  let tries = 0;
  for (let changed = true; changed && tries < maxTries; ) {
    changed = false;
    for (const candidate of smaller(best)) {
      if (++tries > maxTries) break;
      if (!(await fails(candidate))) continue;
      best = candidate;
      changed = true;
      break;
    }
  }
  return best;
}

/** Scenarios a little smaller, the most hopeful first. */
function* smaller(scenario: Scenario): Generator<Scenario> {
  const { requests, faults, drains } = scenario;
  if (requests.length > 1) {
    for (let i = 0; i < requests.length; i++) yield { ...scenario, requests: requests.toSpliced(i, 1) };
  }
  for (let i = 0; i < faults.length; i++) yield { ...scenario, faults: faults.toSpliced(i, 1) };
  for (let i = 0; i < drains.length; i++) yield { ...scenario, drains: drains.toSpliced(i, 1) };
  if (scenario.otherBuild !== null) yield { ...scenario, otherBuild: null };
  if (scenario.rebuilt !== null) yield { ...scenario, rebuilt: null };
  if (scenario.small !== null) yield { ...scenario, small: null };
  for (const what of ["gateways", "prefill", "decode"] as const) {
    if (scenario[what] > 1) yield { ...scenario, [what]: scenario[what] - 1 };
  }
  for (const [i, request] of requests.entries()) {
    const simpler = [
      { maxTokens: Math.ceil(request.maxTokens / 2) },
      { promptTokens: Math.ceil(request.promptTokens / 2) },
      { sharedTokens: 0 },
      { headTokens: 0 },
      { temperature: 0 },
      { presencePenalty: 0 },
      { stopTokenIds: [] },
      { logprobs: null },
      { promptTop: null },
      { leavesAfter: null },
    ];
    for (const change of simpler) {
      const next = { ...request, ...change };
      if (JSON.stringify(next) !== JSON.stringify(request)) yield { ...scenario, requests: requests.with(i, next) };
    }
  }
}
