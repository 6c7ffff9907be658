// What is told of a request when it is over: metrics, its time line, its spans, one line in the log.
import { sloResults } from "./admission/slo.ts";
import type { Answer } from "./answer.ts";
import { finishReasons } from "./answer-format.ts";
import type { Generation } from "./generation.ts";
import { endpointPaths } from "./gateway-metrics.ts";
import type { AboutRequest } from "./request-times.ts";
import type { Serving } from "./serve-generation.ts";

/** Gives back what the request held, and tells of it. */
export function endRequest(serving: Serving): void {
  const { visit, place, times, answer, outcome } = serving;
  serving.releaseBody();
  place?.leave();
  visit.settle(answer?.begun.some(({ wasAccepted }) => wasAccepted) ? answer.usage().total_tokens : 0);
  times.ended(times.firstTokenMs === null ? outcome : "stream");
  const begun = answer?.begun ?? [];
  const about = aboutRequest(serving, begun);
  countRequest(serving, about);
  reportTimes(serving, about, begun);
  logRequest(serving, about, begun);
}

/** Of an answer that ended well. */
export function countTokens(serving: Serving, answer: Answer): void {
  const { metrics } = serving.gateway;
  const usage = answer.usage();
  const model_name = modelLabel(serving);
  metrics.tokens.inc({ kind: "prompt", model_name }, usage.prompt_tokens);
  metrics.tokens.inc({ kind: "cached", model_name }, usage.prompt_cache_hit_tokens);
  metrics.tokens.inc({ kind: "completion", model_name }, usage.completion_tokens);
  metrics.tokens.inc({ kind: "reasoning", model_name }, usage.completion_tokens_details.reasoning_tokens);
  metrics.promptTokens.observe({ model_name }, usage.prompt_tokens);
  metrics.completionTokens.observe({ model_name }, usage.completion_tokens);
  for (const seconds of answer.tokenSeconds()) metrics.timePerOutputToken.observe({ endpoint: serving.endpoint, model_name }, seconds);
}

/** Empty where the request named no model of ours: never a name that a client chose. */
export function modelLabel({ hosted }: Serving): string {
  return hosted?.model.name ?? "";
}

function aboutRequest({ hosted, endpoint, response, requestId, answer, outcome }: Serving, begun: Generation[]): AboutRequest {
  const usage = answer?.usage();
  return {
    // As the client knows it.
    requestId: String(response.getHeader("x-request-id") ?? requestId),
    endpoint,
    model: hosted?.model.name ?? null,
    outcome,
    promptTokens: usage?.prompt_tokens ?? 0,
    cachedTokens: usage?.prompt_cache_hit_tokens ?? 0,
    completionTokens: usage?.completion_tokens ?? 0,
    decodeWorkerId: begun[0]?.attempts.at(-1)?.workerId ?? null,
    prefillWorkerId: begun[0]?.prefilledBy ?? null,
    resumes: begun.reduce((sum, { resumes }) => sum + resumes, 0),
  };
}

function countRequest(serving: Serving, { resumes }: AboutRequest): void {
  const { endpoint, terms, times, answer, outcome } = serving;
  const { metrics } = serving.gateway;
  const labels = { endpoint, model_name: modelLabel(serving) };
  const { seconds, ttftSeconds } = times;
  const done = endedWell(outcome);
  // One who went away waited for nothing.
  if (terms !== null && outcome !== "cancelled") {
    const perToken = answer?.tokenSeconds() ?? [];
    const tpotSeconds = perToken.length === 0 ? null : Math.max(...perToken);
    for (const [slo, met] of sloResults(terms, { done, ttftSeconds, tpotSeconds }))
      metrics.slo.inc({ slo, outcome: met ? "attained" : "missed", priority: terms.priority, model_name: labels.model_name });
  }
  metrics.requests.inc({ endpoint, outcome, model_name: labels.model_name });
  metrics.requestDuration.observe(labels, seconds);
  if (ttftSeconds !== null) metrics.timeToFirstToken.observe(labels, ttftSeconds);
  if (resumes > 0) metrics.resumes.inc({ model_name: labels.model_name }, resumes);
  if (!done) return;
  const { model_name } = labels;
  metrics.endToEnd.observe({ model_name }, seconds);
  times.eachPhase((phase, phaseSeconds) => metrics.phases.observe({ phase, model_name }, phaseSeconds));
}

function reportTimes({ gateway, endpoint, times, outcome }: Serving, about: AboutRequest, begun: Generation[]): void {
  // Of several answers the first shows where the time went; the others come after it.
  gateway.recent.add(about.requestId, times.timeline(about, begun[0]?.attempts ?? []));
  times.report(
    `POST ${endpointPaths[endpoint][0]}`,
    spanAttributes(about),
    endedWell(outcome) ? undefined : outcome,
    begun.flatMap(({ attempts }) => attempts),
  );
}

function logRequest({ gateway, endpoint, requestId, visit, times, outcome }: Serving, about: AboutRequest, begun: Generation[]): void {
  const { seconds, ttftSeconds, traceId } = times;
  const { model, resumes } = about;
  gateway.log.info(
    {
      requestId,
      ...(about.requestId !== requestId && { clientRequestId: about.requestId }),
      ...(visit.caller.name !== null && { key: visit.caller.name }),
      endpoint,
      ...(model !== null && { model }),
      outcome,
      seconds,
      ...(ttftSeconds !== null && { ttftSeconds }),
      ...(traceId !== null && { traceId }),
      completionTokens: begun.reduce((sum, { received }) => sum + received, 0),
      cacheHitTokens: begun[0]?.cacheHitTokens ?? 0,
      prefilledBy: begun[0]?.prefilledBy,
      resumes,
    },
    "request",
  );
}

function endedWell(outcome: string): boolean {
  return (finishReasons as readonly string[]).includes(outcome);
}

/** By OpenTelemetry's conventions for generative AI, where they have a name. */
function spanAttributes(about: AboutRequest) {
  return {
    "pelagic.request_id": about.requestId,
    "gen_ai.operation.name": about.endpoint === "completions" ? "text_completion" : "chat",
    "gen_ai.request.model": about.model ?? undefined,
    "gen_ai.response.finish_reasons": about.outcome,
    "gen_ai.usage.input_tokens": about.promptTokens,
    "gen_ai.usage.output_tokens": about.completionTokens,
    "pelagic.cached_tokens": about.cachedTokens,
    "pelagic.resumes": about.resumes,
  };
}
