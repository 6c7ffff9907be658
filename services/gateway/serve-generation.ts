// One request through the gateway: read, validate, admit, tokenize, route, dispatch, and write what comes. The order is the design's
// "Life of a request"; what each step decides is in the file that it names.
import { Departure, type GoneSignal } from "./departure.ts";
import type { IncomingMessage } from "node:http";
import { PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import type { Standing } from "../lib/contracts/messages.ts";
import type { Standing as QueueStanding } from "../lib/fair-queue/request-queue.ts";
import type { Place } from "./admission/admission.ts";
import { mayUse, type Visit, visitOf } from "./admission/callers.ts";
import { estimate, refuseLate } from "./admission/foresight.ts";
import { standingOf, type Terms, termsOf } from "./admission/terms.ts";
import { Answer, type Choice } from "./answer.ts";
import type { Endpoint } from "./gateway-metrics.ts";
import { checkHeld, type GenerationPlan, planGeneration, tenantSalt } from "./generation-plan.ts";
import { type GenerationRequest as ParsedRequest, parseGeneration } from "./generation-request.ts";
import { inEndpointsWords } from "./field-names.ts";
import { notKeptHeader } from "./not-kept.ts";
import type { Gateway, HostedModel } from "./gateway.ts";
import { sendError } from "./http-error.ts";
import type { GatewayResponse } from "./http-response.ts";
import { bodyLimits, readJsonBody } from "./json-body.ts";
import { chooseModel } from "./model-choice.ts";
import { OutputAssembler } from "./output-assembler.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";
import { checkPromptLogprobs } from "./prompt-logprobs.ts";
import { checkPromptBytes, type PromptSource } from "./prompt-source.ts";
import { servedContext } from "./readiness.ts";
import { RequestRouting } from "./request-routing.ts";
import { explainRoute, typicalAnswerTokens } from "./router.ts";
import type { ServedModel } from "./served-model.ts";
import type { EncodeLimits } from "./tokenizer-pool.ts";
import { countTokens, endRequest, modelLabel } from "./request-end.ts";
import { RequestTimes } from "./request-times.ts";
import { parentOf } from "../lib/contracts/trace.ts";

/** What a request has come to so far; its end tells of it (request-end.ts), whatever ended it. */
export interface Serving {
  gateway: Gateway;
  endpoint: Endpoint;
  request: IncomingMessage;
  response: GatewayResponse;
  requestId: string;
  visit: Visit;
  /** null: the request did not come so far that one was chosen. */
  hosted: HostedModel | null;
  times: RequestTimes;
  /** Aborted when the client goes away. */
  gone: GoneSignal;
  /** At the end: parts of the body live as long as the answer. */
  releaseBody(): void;
  terms: Terms | null;
  /** As long as it may be read again, for another build: the answer does not hold megabytes that nobody needs any more. */
  body: Record<string, unknown> | null;
  place: Place | null;
  answer: Answer | null;
  /** A finish reason or the name of an error. */
  outcome: string;
}

/** What its body and headers ask for. */
interface Asked {
  hosted: HostedModel;
  parsed: ParsedRequest;
  terms: Terms;
  cacheSalt: string;
  standing: QueueStanding;
}

export async function serveGeneration(
  gateway: Gateway,
  endpoint: Endpoint,
  request: IncomingMessage,
  response: GatewayResponse,
): Promise<void> {
  const serving = begin(gateway, endpoint, request, response);
  try {
    await answerTo(serving, await read(serving));
  } catch (error) {
    refuse(serving, error);
  } finally {
    endRequest(serving);
  }
}

function begin(gateway: Gateway, endpoint: Endpoint, request: IncomingMessage, response: GatewayResponse): Serving {
  response.locals.logsItself = true;
  const gone = new Departure();
  response.on("close", () => {
    if (!response.writableFinished) gone.leave();
  });
  return {
    ...{ gateway, endpoint, request, response },
    requestId: response.locals.requestId as string,
    visit: visitOf(response),
    hosted: null,
    times: new RequestTimes(gateway.tracer, parentOf(request.headers.traceparent)),
    gone,
    releaseBody: () => {},
    terms: null,
    body: null,
    place: null,
    answer: null,
    outcome: "internal",
  };
}

async function read(serving: Serving): Promise<Terms> {
  const { gateway, request, visit, times } = serving;
  const { body, release } = await readJsonBody(request, bodyLimits(gateway, request, visit.caller));
  serving.releaseBody = release;
  times.ended("read body");
  const terms = termsOf(request.headers, visit.caller, body.priority, gateway.limits.deadlineMs);
  serving.terms = terms;
  serving.body = body;
  return terms;
}

/** While a model changes under its name, a request that was meant for workers which are gone or full goes to those of the other build. */
async function answerTo(serving: Serving, terms: Terms): Promise<void> {
  const tried = new Set<HostedModel>();
  for (let hosted = await firstChoice(serving, terms); ; ) {
    tried.add(hosted);
    serving.hosted = hosted;
    try {
      const asked = ask(serving, hosted, terms);
      const maxPositions = await enter(serving, asked);
      const prompts = await tokenize(serving, asked, maxPositions);
      const answer = prepare(serving, asked, prompts, maxPositions);
      serving.outcome = asked.parsed.common.stream ? await answer.stream() : await answer.whole();
      countTokens(serving, answer);
      return;
    } catch (error) {
      const other = await otherChoice(serving, tried, error);
      if (other === undefined) throw error;
      serving.place?.leave();
      serving.place = null;
      serving.answer = null;
      serving.visit.settle(0);
      hosted = other;
    }
  }
}

async function firstChoice({ gateway, visit, gone, times, body }: Serving, terms: Terms): Promise<HostedModel> {
  const name = body?.model;
  if (typeof name === "string" && mayUse(visit.caller, name)) {
    const leftMs = terms.deadlineMs - (performance.now() - times.arrivedMs);
    await gateway.wakeQueue?.awake(name, visit.caller.name ?? "", leftMs, gone);
    await gateway.learned?.another(name, new Set(), gone);
  }
  return chooseModel(gateway.models, name, visit.caller, gateway.learned?.missing);
}

/** undefined: what failed here would fail there too, somebody has begun it, or there is no other. */
async function otherChoice(
  { gateway, hosted, answer, gone, body }: Serving,
  tried: ReadonlySet<HostedModel>,
  error: unknown,
): Promise<HostedModel | undefined> {
  if (!(error instanceof PelagicError) || !["no_workers", "overloaded"].includes(error.code)) return undefined;
  if (hosted === null || body === null || answer?.begun.some(({ wasAccepted }) => wasAccepted)) return undefined;
  return await gateway.learned?.another(hosted.model.name, tried, gone);
}

function ask(serving: Serving, hosted: HostedModel, terms: Terms): Asked {
  const { gateway, endpoint, visit, times, body } = serving;
  const parsed = parseGeneration(gateway, hosted.model, endpoint, body ?? {});
  // There is one build of each model.
  if (gateway.learned === null) serving.body = null;
  const cacheSalt = tenantSalt(parsed.common, visit.caller.isolation);
  const standing = standingOf(terms, visit.caller, cacheSalt, times.arrivedMs);
  times.ended("admit");
  return { hosted, parsed, terms, cacheSalt, standing };
}

/** Waits for a place, after the body: a slow sender takes none. Returns the context that the workers have. */
async function enter(serving: Serving, { hosted, parsed, terms, standing }: Asked): Promise<number> {
  const { gateway, gone, times } = serving;
  const answers = parsed.prompts.length * parsed.candidates;
  if (!hosted.room.couldTake(answers)) {
    const param = parsed.candidates > 1 ? "n" : "prompt";
    throw new PelagicError("invalid_request", `${param}: ${answers} answers are more than the workers take at once: ask for fewer`, {
      param,
    });
  }
  const elapsedMs = performance.now() - times.arrivedMs;
  serving.place = await gateway.admission.enter(standing, {
    room: hosted.room,
    answers,
    ...(terms.ttftMs !== null && { waitMs: terms.ttftMs - elapsedMs }),
    leftMs: terms.deadlineMs - elapsedMs,
    signal: gone,
  });
  const maxPositions = readyMaxPositions(gateway, hosted.model);
  times.ended("queue");
  return maxPositions;
}

async function tokenize(serving: Serving, { hosted, parsed, terms }: Asked, maxPositions: number): Promise<EncodedPrompt[]> {
  const { gone, times } = serving;
  const limits = { signal: gone, timeoutMs: terms.deadlineMs - (performance.now() - times.arrivedMs) };
  const prompts = await Promise.all(parsed.prompts.map((source) => encodePrompt(hosted, source, parsed, maxPositions, limits)));
  times.ended("tokenize");
  if (gone.aborted) throw new PelagicError("cancelled", "the client went away");
  checkPromptLogprobs(parsed, prompts);
  return prompts;
}

/** The answer, of which nothing is sent to a worker yet; refuses what would be too late or too much for its key. */
function prepare(serving: Serving, asked: Asked, prompts: EncodedPrompt[], maxPositions: number): Answer {
  const { gateway, visit, response, gone, times } = serving;
  const { terms } = asked;
  const { choices, routings, tokens } = choicesOf(serving, asked, prompts, maxPositions);
  const answer = answerOf(serving, asked, prompts, choices, routings);
  serving.answer = answer;
  const route = routings[0]?.foresee((prompts[0] as EncodedPrompt).tokens);
  if (route) {
    refuseLate(terms, estimate(gateway.directory.snapshot(), route, terms.priority), performance.now() - times.arrivedMs);
  }
  visit.reserve(tokens, () => answer.usage().total_tokens, response);
  gone.addEventListener("abort", () => answer.cancel());
  return answer;
}

/** All answers to all prompts, how each is routed, and the tokens that they may take together. */
function choicesOf(
  serving: Serving,
  { hosted: { model }, parsed, terms, cacheSalt, standing }: Asked,
  prompts: EncodedPrompt[],
  maxPositions: number,
) {
  const { gateway, requestId, times } = serving;
  const { priority, ttftMs, deadlineMs } = terms;
  const routings: RequestRouting[] = [];
  const tokens = { least: 0, most: 0 };
  const { defaultMaxTokens } = gateway.limits;
  const plans = prompts.map((prompt) => planGeneration(parsed.common, parsed, prompt, model, { maxPositions, defaultMaxTokens }));
  checkHeld(parsed.common, parsed, plans);
  const choices = prompts.flatMap((prompt, index) => {
    const plan = plans[index] as GenerationPlan;
    // Counted against a key's tokens before it is made. Where the client does not say how long it may be, it may be far longer than most are.
    const typical = Math.min(plan.maxTokens, typicalAnswerTokens);
    tokens.least += prompt.tokens.length + parsed.candidates * typical;
    tokens.most += prompt.tokens.length + parsed.candidates * (typeof parsed.askedTokens === "number" ? plan.maxTokens : typical);
    return Array.from({ length: parsed.candidates }, (_, choice): Choice => {
      const routing = routingOf(gateway, model, parsed, prompt, plan, cacheSalt);
      routings.push(routing);
      return {
        prompt: index,
        promptTokens: prompt.tokens.length,
        promptOnly: parsed.askedTokens === 0,
        assembler: assemblerOf(model, parsed, plan, prompt),
        start: () => {
          const elapsedMs = performance.now() - times.arrivedMs;
          const { tenant } = standing;
          serving.place?.dispatched();
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
  });
  return { choices, routings, tokens };
}

function answerOf(serving: Serving, { parsed }: Asked, prompts: EncodedPrompt[], choices: Choice[], routings: RequestRouting[]): Answer {
  const { gateway, endpoint, response, times } = serving;
  const { common } = parsed;
  const labels = { endpoint, model_name: modelLabel(serving) };
  return new Answer({
    format: parsed.format(prompts),
    choices,
    response,
    stallMs: gateway.limits.stallMs,
    keepAliveMs: gateway.limits.keepAliveMs,
    ...(parsed.candidates > parsed.answers && { best: parsed.answers }),
    tokenIds: common.return_token_ids ?? false,
    digests: common.pelagic?.digests ?? false,
    continuousUsage: (common.stream_options?.include_usage && common.stream_options.continuous_usage_stats) ?? false,
    beforeFirst: () => {
      serving.body = null;
      const chosen = routings[0]?.chosen;
      if (chosen) response.setHeader("x-pelagic-route", explainRoute(chosen));
      const { notKept } = prompts[0] as EncodedPrompt;
      if (notKept) response.setHeader("x-pelagic-not-kept", notKeptHeader(notKept, endpoint));
    },
    onTokens: (gapSeconds) => {
      times.token();
      if (gapSeconds !== null) gateway.metrics.interTokenLatency.observe(labels, gapSeconds);
    },
  });
}

function refuse(serving: Serving, error: unknown): void {
  const { gateway, endpoint, response, requestId, answer } = serving;
  const failure = inEndpointsWords(toPelagicError(error), endpoint);
  serving.outcome = failure.code;
  if (failure.code === "internal") gateway.log.error({ requestId, error: failure.stack }, "request failed");
  sendError(response, failure, answer?.begun.some((generation) => generation.wasAccepted) ?? false);
}

function routingOf(
  gateway: Gateway,
  model: ServedModel,
  { promptTop }: ParsedRequest,
  prompt: EncodedPrompt,
  plan: GenerationPlan,
  cacheSalt: string,
): RequestRouting {
  return new RequestRouting(gateway.directory, {
    modelName: model.name,
    filesDigest: model.filesDigest,
    promptLength: prompt.tokens.length,
    maxTokens: plan.maxTokens,
    cacheSalt,
    localPrefillTokens: gateway.limits.localPrefillTokens,
    isScored: promptTop !== undefined,
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

function assemblerOf(model: ServedModel, parsed: ParsedRequest, plan: GenerationPlan, prompt: EncodedPrompt): OutputAssembler {
  return new OutputAssembler({
    table: model.table,
    stops: plan.stops,
    stopTokenIds: plan.stopTokenIds,
    ...(parsed.chat ? { thinking: prompt.insideThink } : {}),
    ...(parsed.wanted?.kind === "tools" && { tools: parsed.wanted.syntax }),
    keepStop: parsed.common.include_stop_str_in_output ?? false,
    keepSpecial: parsed.common.skip_special_tokens === false,
  });
}

/** Refuses early where nobody could answer. An outage of the bus is waited for later. */
function readyMaxPositions(gateway: Gateway, model: ServedModel): number {
  const maxPositions = servedContext(gateway.directory, model);
  if (maxPositions === null) throw new PelagicError("no_workers", `no decode worker of ${model.name} is ready; try again later`);
  return maxPositions;
}

async function encodePrompt(
  { model, encoder }: HostedModel,
  source: PromptSource,
  { wanted, bannedWords, common, promptField }: ParsedRequest,
  maxPositions: number,
  limits: EncodeLimits,
): Promise<EncodedPrompt> {
  const asks = wanted !== undefined || bannedWords !== undefined;
  const last = (tokens: Uint32Array) => {
    const { truncate_prompt_tokens: count } = common;
    return count ? tokens.subarray(Math.max(0, tokens.length - count)) : tokens;
  };
  if ("tokens" in source && !asks) return { tokens: last(source.tokens), insideThink: false };
  if (encoder === null) {
    throw new PelagicError(
      "invalid_request",
      `response_format: the model ${model.name} has no tokenizer.json, so its answers cannot follow a format: leave it out`,
      {
        param: "response_format",
      },
    );
  }
  const also = { ...(wanted && { format: wanted }), ...(bannedWords && { bannedWords }) };
  if ("tokens" in source) return { ...(await encoder.encode({ kind: "ids", ...also }, limits)), tokens: last(source.tokens) };
  // What is cut off may be any length.
  if (!common.truncate_prompt_tokens) checkPromptBytes(source, model, maxPositions, promptField);
  const encoded = await encoder.encode({ ...source.job, ...also }, limits);
  return { ...encoded, tokens: last(encoded.tokens) };
}
