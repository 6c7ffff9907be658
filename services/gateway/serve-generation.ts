// One request through the gateway: read, validate, admit, tokenize, route, dispatch, and write what comes. The order is the design's
// "Life of a request"; what each step decides is in the file that it names.
import type { IncomingMessage } from "node:http";
import type { Log } from "../lib/contracts/bus.ts";
import { PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import type { Standing } from "../lib/contracts/messages.ts";
import type { Admission, Place } from "./admission/admission.ts";
import { type Callers, visitOf } from "./admission/callers.ts";
import { estimate, refuseLate } from "./admission/foresight.ts";
import type { Room } from "./admission/room.ts";
import { sloResults } from "./admission/slo.ts";
import { standingOf, type Terms, termsOf } from "./admission/terms.ts";
import { Answer, type Choice } from "./answer.ts";
import { finishReasons } from "./answer-format.ts";
import type { DispatchClient } from "./dispatch-client.ts";
import type { Endpoint, GatewayMetrics } from "./gateway-metrics.ts";
import { type GenerationPlan, planGeneration, tenantSalt } from "./generation-plan.ts";
import { type GenerationRequest as ParsedRequest, parseGeneration } from "./generation-request.ts";
import { inEndpointsWords } from "./field-names.ts";
import { sendError } from "./http-error.ts";
import type { GatewayResponse } from "./http-response.ts";
import { type ByteBudget, readJsonBody } from "./json-body.ts";
import { OutputAssembler } from "./output-assembler.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";
import { checkPromptLogprobs } from "./prompt-logprobs.ts";
import { checkPromptBytes, type PromptSource } from "./prompt-source.ts";
import { RequestRouting } from "./request-routing.ts";
import { explainRoute } from "./router.ts";
import type { ServedModel } from "./served-model.ts";
import type { EncodeLimits, Encoder } from "./tokenizer-pool.ts";
import type { WorkerDirectory } from "./worker-directory.ts";
import type { RecentRequests } from "./recent-requests.ts";
import { type AboutRequest, RequestTimes } from "./request-times.ts";
import { parentOf, type Tracer } from "../lib/contracts/trace.ts";

export interface GatewayLimits {
  maxBodyBytes: number;
  /** Without max_tokens, an answer ends here or where the context does. */
  defaultMaxTokens: number;
  deadlineMs: number;
  /** Fewer uncached prompt tokens than this are prefilled by decode itself. */
  localPrefillTokens: number;
  /** A reader that takes nothing for so long loses its stream. */
  stallMs: number;
  /** A stream in which nothing comes for so long gets a comment. */
  keepAliveMs: number;
}

export interface Gateway {
  model: ServedModel;
  /** null where the model has no tokenizer. */
  encoder: Encoder | null;
  client: DispatchClient;
  directory: WorkerDirectory;
  callers: Callers;
  admission: Admission;
  /** At the model's workers. */
  room: Room;
  bodyBudget: ByteBudget;
  metrics: GatewayMetrics;
  recent: RecentRequests;
  /** undefined: nothing is traced. */
  tracer: Tracer | undefined;
  limits: GatewayLimits;
  /** Internal request options, like digests, are allowed. */
  debug: boolean;
  log: Log;
}

/** Of an answer, counted against a key's tokens before it is made: most allow far more than they use. */
const typicalAnswerTokens = 256;

export async function serveGeneration(
  gateway: Gateway,
  endpoint: Endpoint,
  request: IncomingMessage,
  response: GatewayResponse,
): Promise<void> {
  const times = new RequestTimes(gateway.tracer, parentOf(request.headers.traceparent));
  const { arrivedMs } = times;
  const requestId = response.locals.requestId as string;
  const visit = visitOf(response);
  let outcome: string = "internal";
  let answer: Answer | null = null;
  let terms: Terms | null = null;
  let place: Place | null = null;
  let releaseBody = () => {};
  const gone = new AbortController();
  response.on("close", () => {
    if (!response.writableFinished) gone.abort();
  });
  try {
    const read = await readJsonBody(request, gateway.limits.maxBodyBytes, gateway.bodyBudget);
    releaseBody = read.release;
    times.ended("read body");
    terms = termsOf(request.headers, visit.caller, read.body.priority, gateway.limits.deadlineMs);
    visit.checkModel(read.body.model);
    const parsed = parseGeneration(gateway, endpoint, read.body);
    const cacheSalt = tenantSalt(parsed.common, visit.caller.isolation);
    const standing = standingOf(terms, visit.caller, cacheSalt, arrivedMs);
    times.ended("admit");
    // After the body: a slow sender takes no place.
    place = await gateway.admission.enter(standing, {
      room: gateway.room,
      waitMs: Math.min(terms.deadlineMs, terms.ttftMs ?? Number.POSITIVE_INFINITY),
      signal: gone.signal,
    });
    const { dispatched } = place;
    const maxPositions = readyMaxPositions(gateway);
    times.ended("queue");
    const limits = { signal: gone.signal, timeoutMs: terms.deadlineMs - (performance.now() - arrivedMs) };
    const prompts = await Promise.all(parsed.prompts.map((source) => encodePrompt(gateway, source, parsed, maxPositions, limits)));
    releaseBody();
    times.ended("tokenize");
    if (gone.signal.aborted) throw new PelagicError("cancelled", "the client went away");
    if (parsed.promptTop !== undefined) {
      const scored = parsed.candidates * prompts.reduce((sum, one) => sum + one.tokens.length, 0);
      checkPromptLogprobs(scored, parsed.promptTop, typeof parsed.common.prompt_logprobs === "number" ? "prompt_logprobs" : "logprobs");
    }
    const { priority, ttftMs, deadlineMs } = terms;
    const routings: RequestRouting[] = [];
    let tokens = 0;
    answer = new Answer({
      format: parsed.format(prompts),
      choices: prompts.flatMap((prompt, index) => {
        const plan = planGeneration(parsed.common, parsed, prompt, gateway.model, {
          maxPositions,
          defaultMaxTokens: gateway.limits.defaultMaxTokens,
        });
        tokens += prompt.tokens.length + parsed.candidates * Math.min(plan.maxTokens, typicalAnswerTokens);
        return Array.from({ length: parsed.candidates }, (_, choice): Choice => {
          const routing = routingOf(gateway, parsed, prompt, plan, cacheSalt);
          routings.push(routing);
          return {
            prompt: index,
            promptTokens: prompt.tokens.length,
            promptOnly: parsed.askedTokens === 0,
            assembler: assemblerOf(gateway, parsed, plan, prompt),
            start: () => {
              const elapsedMs = performance.now() - arrivedMs;
              const { tenant } = standing;
              dispatched();
              const generation = startGeneration(gateway, {
                ...{ requestId, parsed, prompt, plan, choice, times, routing, cacheSalt },
                standing: { tenant, priority, ...(ttftMs !== null && { ttftMs: Math.max(0, ttftMs - elapsedMs) }) },
                deadlineMs: Math.max(1, deadlineMs - elapsedMs),
              });
              times.sent(generation.attempts[0]?.sentMs);
              return generation;
            },
          };
        });
      }),
      response,
      stallMs: gateway.limits.stallMs,
      keepAliveMs: gateway.limits.keepAliveMs,
      ...(parsed.candidates > parsed.answers && { best: parsed.answers }),
      tokenIds: parsed.common.return_token_ids ?? false,
      digests: parsed.common.pelagic?.digests ?? false,
      continuousUsage: (parsed.common.stream_options?.include_usage && parsed.common.stream_options.continuous_usage_stats) ?? false,
      beforeFirst: () => {
        const chosen = routings[0]?.chosen;
        if (chosen) response.setHeader("x-pelagic-route", explainRoute(chosen));
      },
      onTokens: (gapSeconds) => {
        times.token();
        if (gapSeconds !== null) gateway.metrics.interTokenLatency.observe({ endpoint }, gapSeconds);
      },
    });
    const route = routings[0]?.foresee((prompts[0] as EncodedPrompt).tokens);
    if (route) refuseLate(terms, estimate(gateway.directory.snapshot(), route, priority), performance.now() - arrivedMs);
    visit.reserve(tokens, response);
    const started = answer;
    gone.signal.addEventListener("abort", () => started.cancel());
    outcome = parsed.common.stream ? await answer.stream() : await answer.whole();
    countTokens(gateway.metrics, endpoint, answer, times);
  } catch (error) {
    const failure = inEndpointsWords(toPelagicError(error), endpoint);
    outcome = failure.code;
    if (failure.code === "internal") gateway.log.error({ requestId, error: failure.stack }, "request failed");
    sendError(response, failure, answer?.begun.some((generation) => generation.wasAccepted) ?? false);
  } finally {
    releaseBody();
    place?.leave();
    visit.settle(answer?.begun.some(({ wasAccepted }) => wasAccepted) ? answer.usage().total_tokens : 0);
    times.ended(times.firstTokenMs === null ? outcome : "stream");
    const { seconds, ttftSeconds, traceId } = times;
    const done = (finishReasons as readonly string[]).includes(outcome);
    // One who went away waited for nothing.
    if (terms !== null && outcome !== "cancelled") {
      for (const [slo, met] of sloResults(terms, { done, ttftSeconds, tpotSeconds: answer && tpotSeconds(answer, times) }))
        gateway.metrics.slo.inc({ slo, outcome: met ? "attained" : "missed", priority: terms.priority });
    }
    gateway.metrics.requests.inc({ endpoint, outcome });
    gateway.metrics.requestDuration.observe({ endpoint }, seconds);
    if (ttftSeconds !== null) gateway.metrics.timeToFirstToken.observe({ endpoint }, ttftSeconds);
    const begun = answer?.begun ?? [];
    const usage = answer?.usage();
    const about = {
      // As the client knows it.
      requestId: String(response.getHeader("x-request-id") ?? requestId),
      endpoint,
      model: gateway.model.name,
      outcome,
      promptTokens: usage?.prompt_tokens ?? 0,
      cachedTokens: usage?.prompt_cache_hit_tokens ?? 0,
      completionTokens: usage?.completion_tokens ?? 0,
      decodeWorkerId: begun[0]?.attempts.at(-1)?.workerId ?? null,
      prefillWorkerId: begun[0]?.prefilledBy ?? null,
      resumes: begun.reduce((sum, { resumes }) => sum + resumes, 0),
    };
    gateway.metrics.resumes.inc(about.resumes);
    // Of several answers the first shows where the time went; the others come after it.
    gateway.recent.add(times.timeline(about, begun[0]?.attempts ?? []));
    times.report(
      `POST ${request.url?.split("?", 1)[0]}`,
      spanAttributes(about),
      done ? undefined : outcome,
      begun.flatMap(({ attempts }) => attempts),
    );
    gateway.log.info(
      {
        requestId,
        ...(visit.caller.name !== null && { key: visit.caller.name }),
        endpoint,
        outcome,
        seconds,
        ...(ttftSeconds !== null && { ttftSeconds }),
        ...(traceId !== null && { traceId }),
        completionTokens: begun.reduce((sum, { received }) => sum + received, 0),
        cacheHitTokens: begun[0]?.cacheHitTokens ?? 0,
        prefilledBy: begun[0]?.prefilledBy,
        resumes: begun.reduce((sum, { resumes }) => sum + resumes, 0),
      },
      "request",
    );
  }
}

function routingOf(
  gateway: Gateway,
  { promptTop }: ParsedRequest,
  prompt: EncodedPrompt,
  plan: GenerationPlan,
  cacheSalt: string,
): RequestRouting {
  return new RequestRouting(gateway.directory, {
    modelName: gateway.model.name,
    promptLength: prompt.tokens.length,
    maxTokens: plan.maxTokens,
    cacheSalt,
    // Rows from a prefill worker come without the logits that scores are made of.
    localPrefillTokens: promptTop === undefined ? gateway.limits.localPrefillTokens : Number.POSITIVE_INFINITY,
  });
}

function startGeneration(
  gateway: Gateway,
  one: {
    requestId: string;
    parsed: ParsedRequest;
    prompt: EncodedPrompt;
    plan: GenerationPlan;
    choice: number;
    times: RequestTimes;
    routing: RequestRouting;
    cacheSalt: string;
    standing: Standing;
    deadlineMs: number;
  },
) {
  const { parsed, plan, prompt } = one;
  return gateway.client.start(
    {
      requestId: one.requestId,
      prompt: prompt.tokens,
      maxTokens: plan.maxTokens,
      stopTokenIds: plan.stopTokenIds,
      sampling: { ...plan.sampling, choice: one.choice },
      ...(plan.constraint && { constraint: plan.constraint }),
      ...(plan.rules && { rules: plan.rules }),
      cacheSalt: one.cacheSalt,
      standing: one.standing,
      deadlineMs: one.deadlineMs,
      ...(one.times.span !== undefined && { span: one.times.span }),
      ...(parsed.promptTop !== undefined && { promptTop: parsed.promptTop }),
      ...(parsed.common.pelagic?.digests ? { digests: true } : {}),
    },
    one.routing,
  );
}

function assemblerOf(gateway: Gateway, parsed: ParsedRequest, plan: GenerationPlan, prompt: EncodedPrompt): OutputAssembler {
  return new OutputAssembler({
    table: gateway.model.table,
    stops: plan.stops,
    stopTokenIds: plan.stopTokenIds,
    ...(parsed.chat ? { thinking: prompt.insideThink } : {}),
    ...(parsed.wanted?.kind === "tools" && { tools: parsed.wanted.syntax }),
    keepStop: parsed.common.include_stop_str_in_output ?? false,
    keepSpecial: parsed.common.skip_special_tokens === false,
  });
}

function countTokens(metrics: GatewayMetrics, endpoint: Endpoint, answer: Answer, times: RequestTimes): void {
  const usage = answer.usage();
  metrics.tokens.inc({ kind: "prompt" }, usage.prompt_tokens);
  metrics.tokens.inc({ kind: "cached" }, usage.prompt_cache_hit_tokens);
  metrics.tokens.inc({ kind: "completion" }, usage.completion_tokens);
  metrics.tokens.inc({ kind: "reasoning" }, usage.completion_tokens_details.reasoning_tokens);
  const seconds = tpotSeconds(answer, times);
  if (seconds !== null) metrics.timePerOutputToken.observe({ endpoint }, seconds);
}

function tpotSeconds(answer: Answer, { firstTokenMs, lastTokenMs }: RequestTimes): number | null {
  const { completion_tokens: tokens } = answer.usage();
  return tokens > 1 && firstTokenMs !== null ? (lastTokenMs - firstTokenMs) / 1000 / (tokens - 1) : null;
}

/** By OpenTelemetry's conventions for generative AI, where they have a name. */
function spanAttributes(about: AboutRequest) {
  return {
    "pelagic.request_id": about.requestId,
    "gen_ai.operation.name": about.endpoint === "completions" ? "text_completion" : "chat",
    "gen_ai.request.model": about.model,
    "gen_ai.response.finish_reasons": about.outcome,
    "gen_ai.usage.input_tokens": about.promptTokens,
    "gen_ai.usage.output_tokens": about.completionTokens,
    "pelagic.cached_tokens": about.cachedTokens,
    "pelagic.resumes": about.resumes,
  };
}

/** The context that some ready decode worker has (the router asks nobody for more than it has); refuses early where none is. An outage of the bus is waited for later. */
function readyMaxPositions(gateway: Gateway): number {
  const maxPositions = servedContext(gateway);
  if (maxPositions === null) throw new PelagicError("no_workers", "no decode worker is ready; try again later");
  return maxPositions;
}

export function servedContext(gateway: Pick<Gateway, "directory" | "model">): number | null {
  const ready = readyDecodeWorkers(gateway);
  return ready.length === 0 ? null : Math.max(...ready.map((worker) => worker.maxPositions));
}

export function readyDecodeWorkers({ directory, model }: Pick<Gateway, "directory" | "model">) {
  return directory
    .snapshot()
    .workers.filter((worker) => worker.role === "decode" && worker.state === "ready" && worker.modelName === model.name);
}

async function encodePrompt(
  gateway: Gateway,
  source: PromptSource,
  { wanted, bannedWords, common }: ParsedRequest,
  maxPositions: number,
  limits: EncodeLimits,
): Promise<EncodedPrompt> {
  const asks = wanted !== undefined || bannedWords !== undefined;
  const last = (tokens: Uint32Array) => {
    const { truncate_prompt_tokens: count } = common;
    return count ? tokens.subarray(Math.max(0, tokens.length - count)) : tokens;
  };
  if ("tokens" in source && !asks) return { tokens: last(source.tokens), insideThink: false };
  if (gateway.encoder === null) {
    throw new PelagicError("invalid_request", `the model ${gateway.model.name} has no tokenizer.json: its answers cannot follow a format`, {
      param: "response_format",
    });
  }
  const also = { ...(wanted && { format: wanted }), ...(bannedWords && { bannedWords }) };
  if ("tokens" in source) return { ...(await gateway.encoder.encode({ kind: "ids", ...also }, limits)), tokens: last(source.tokens) };
  // What is cut off may be any length.
  if (!common.truncate_prompt_tokens) checkPromptBytes(source, gateway.model, maxPositions);
  const encoded = await gateway.encoder.encode({ ...source.job, ...also }, limits);
  return { ...encoded, tokens: last(encoded.tokens) };
}
