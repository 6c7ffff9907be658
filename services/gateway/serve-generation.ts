// One request through the gateway: read, validate, admit, tokenize, route, dispatch, and write what comes. The order is the design's
// "Life of a request"; what each step decides is in the file that it names.
import { randomUUID } from "node:crypto";
import type { Request, Response } from "express";
import type { Log } from "../lib/contracts/bus.ts";
import { PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import type { TextFormat } from "../lib/grammar/text-format.ts";
import { ChatCompletionRequest, CompletionRequest, type Usage, unknownFields } from "../lib/contracts/http.ts";
import type { z } from "zod";
import type { Admission } from "./admission.ts";
import { type AnswerFormat, ChatFormat, CompletionFormat, type FinishReason, type TokenReport } from "./answer-format.ts";
import type { DispatchClient } from "./dispatch-client.ts";
import type { Generation } from "./generation.ts";
import type { Endpoint, GatewayMetrics } from "./gateway-metrics.ts";
import {
  chatPrompt,
  checkPromptBytes,
  completionPrompt,
  type GenerationPlan,
  type PromptSource,
  planGeneration,
  thinkingWanted,
  tenantSalt,
  wantedFormat,
} from "./generation-plan.ts";
import { errorBody, sendError } from "./http-error.ts";
import { type ByteBudget, parseBody, readJsonBody } from "./json-body.ts";
import { OutputAssembler, type OutputPiece } from "./output-assembler.ts";
import type { EncodedPrompt } from "./prompt-encoder.ts";
import { RequestRouting } from "./request-routing.ts";
import { explainRoute } from "./router.ts";
import { checkModelName, type ServedModel } from "./served-model.ts";
import { doneEvent, SseWriter, sseEvent } from "./sse.ts";
import type { EncodeLimits, Encoder } from "./tokenizer-pool.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

export interface GatewayLimits {
  maxBodyBytes: number;
  /** Without max_tokens, an answer ends here or where the context does. */
  defaultMaxTokens: number;
  deadlineMs: number;
  /** Fewer uncached prompt tokens than this are prefilled by decode itself. */
  localPrefillTokens: number;
  /** A reader that takes nothing for so long loses its stream. */
  stallMs: number;
}

export interface Gateway {
  model: ServedModel;
  /** null where the model has no tokenizer. */
  encoder: Encoder | null;
  client: DispatchClient;
  directory: WorkerDirectory;
  admission: Admission;
  bodyBudget: ByteBudget;
  metrics: GatewayMetrics;
  limits: GatewayLimits;
  /** Internal request options, like digests, are allowed. */
  debug: boolean;
  log: Log;
}

interface ParsedRequest {
  endpoint: Endpoint;
  source: PromptSource;
  request: ChatCompletionRequest | CompletionRequest;
  logprobs: number | undefined;
  askedTokens: number | null | undefined;
  askedTokensField: string;
  /** Chat only: split reasoning from the answer. */
  chat: boolean;
  thinking: boolean;
}

export async function serveGeneration(gateway: Gateway, endpoint: Endpoint, request: Request, response: Response): Promise<void> {
  const arrivedMs = performance.now();
  const requestId = response.locals.requestId as string;
  let outcome: string = "internal";
  let generation: Generation | null = null;
  let leave = () => {};
  let releaseBody = () => {};
  const gone = new AbortController();
  response.on("close", () => {
    if (!response.writableFinished) gone.abort();
  });
  try {
    const read = await readJsonBody(request, gateway.limits.maxBodyBytes, gateway.bodyBudget);
    releaseBody = read.release;
    // After the body: a slow sender takes no place.
    leave = gateway.admission.enter();
    const parsed = parseRequest(gateway, endpoint, read.body);
    const maxPositions = readyMaxPositions(gateway);
    const prompt = await encodePrompt(gateway, parsed.source, wantedFormat(parsed.request), maxPositions, {
      signal: gone.signal,
      timeoutMs: gateway.limits.deadlineMs - (performance.now() - arrivedMs),
    });
    releaseBody();
    const plan = planGeneration(parsed.request, parsed, prompt, gateway.model, {
      maxPositions,
      defaultMaxTokens: gateway.limits.defaultMaxTokens,
    });
    if (gone.signal.aborted) throw new PelagicError("cancelled", "the client went away");
    const cacheSalt = tenantSalt(parsed.request);
    const routing = new RequestRouting(gateway.directory, {
      modelName: gateway.model.name,
      promptLength: prompt.tokens.length,
      maxTokens: plan.maxTokens,
      cacheSalt,
      localPrefillTokens: gateway.limits.localPrefillTokens,
    });
    generation = gateway.client.start(
      {
        requestId,
        prompt: prompt.tokens,
        maxTokens: plan.maxTokens,
        stopTokenIds: plan.stopTokenIds,
        sampling: plan.sampling,
        ...(plan.constraint && { constraint: plan.constraint }),
        cacheSalt,
        deadlineMs: Math.max(1, gateway.limits.deadlineMs - (performance.now() - arrivedMs)),
        ...(parsed.request.pelagic?.digests ? { digests: true } : {}),
      },
      routing,
    );
    const started = generation;
    gone.signal.addEventListener("abort", () => started.cancel());
    const answer = new Answer(gateway, parsed, plan, prompt, generation, routing, response, arrivedMs);
    outcome = parsed.request.stream ? await answer.stream() : await answer.whole();
  } catch (error) {
    const failure = toPelagicError(error);
    outcome = failure.code;
    if (failure.code === "internal") gateway.log.error({ requestId, error: failure.stack }, "request failed");
    if (!request.complete) {
      // What is left of the body is not read.
      response.setHeader("connection", "close");
      request.resume();
    }
    sendError(response, failure, generation?.wasAccepted ?? false);
  } finally {
    releaseBody();
    leave();
    const seconds = (performance.now() - arrivedMs) / 1000;
    gateway.metrics.requests.inc({ endpoint, outcome });
    gateway.metrics.requestDuration.observe({ endpoint }, seconds);
    gateway.log.info(
      {
        requestId,
        endpoint,
        outcome,
        seconds,
        completionTokens: generation?.received ?? 0,
        cacheHitTokens: generation?.cacheHitTokens ?? 0,
        prefilledBy: generation?.prefilledBy,
        resumes: generation?.resumes ?? 0,
      },
      "request",
    );
  }
}

function parseRequest(gateway: Gateway, endpoint: Endpoint, body: Record<string, unknown>): ParsedRequest {
  const { model } = gateway;
  if (endpoint === "chat") {
    const request = validate(gateway, ChatCompletionRequest, body);
    if (request.logprobs !== true && (request.top_logprobs ?? 0) > 0) {
      throw new PelagicError("invalid_request", "top_logprobs: needs logprobs: true", { param: "top_logprobs" });
    }
    return {
      endpoint,
      request,
      source: chatPrompt(request, model),
      logprobs: request.logprobs === true ? (request.top_logprobs ?? 0) : undefined,
      askedTokens: request.max_completion_tokens ?? request.max_tokens,
      askedTokensField: request.max_completion_tokens ? "max_completion_tokens" : "max_tokens",
      chat: true,
      thinking: thinkingWanted(request),
    };
  }
  const request = validate(gateway, CompletionRequest, body);
  return {
    endpoint,
    request,
    source: completionPrompt(request, model),
    logprobs: request.logprobs ?? undefined,
    askedTokens: request.max_tokens,
    askedTokensField: "max_tokens",
    chat: false,
    thinking: false,
  };
}

function validate<S extends typeof ChatCompletionRequest | typeof CompletionRequest>(
  gateway: Gateway,
  schema: S,
  body: Record<string, unknown>,
): z.output<S> {
  const request = parseBody(schema, body) as z.output<S>;
  checkModelName(gateway.model, request.model, "model");
  if (request.pelagic && !gateway.debug) {
    throw new PelagicError("invalid_request", "pelagic: only with PELAGIC_DEBUG=1", { param: "pelagic" });
  }
  const unknown = unknownFields(schema, body).length;
  if (unknown > 0) gateway.metrics.ignoredFields.inc(unknown);
  return request;
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
  format: TextFormat | undefined,
  maxPositions: number,
  limits: EncodeLimits,
): Promise<EncodedPrompt> {
  if ("tokens" in source && format === undefined) return { tokens: source.tokens, insideThink: false };
  if (gateway.encoder === null) {
    throw new PelagicError("invalid_request", `the model ${gateway.model.name} has no tokenizer.json: its answers cannot follow a format`, {
      param: "response_format",
    });
  }
  if ("tokens" in source) return { ...(await gateway.encoder.encode({ kind: "ids", format }, limits)), tokens: source.tokens };
  checkPromptBytes(source.bytes, gateway.model, maxPositions);
  return await gateway.encoder.encode(format === undefined ? source.job : { ...source.job, format }, limits);
}

/** Turns what decode sends into what the client reads, streamed or whole. */
class Answer {
  private readonly gateway: Gateway;
  private readonly parsed: ParsedRequest;
  private readonly promptTokens: number;
  private readonly generation: Generation;
  private readonly routing: RequestRouting;
  private readonly response: Response;
  private readonly arrivedMs: number;
  private readonly assembler: OutputAssembler;
  private readonly format: AnswerFormat;
  private firstTokenMs: number | null = null;
  private lastTokenMs = 0;

  constructor(
    gateway: Gateway,
    parsed: ParsedRequest,
    plan: GenerationPlan,
    prompt: EncodedPrompt,
    generation: Generation,
    routing: RequestRouting,
    response: Response,
    arrivedMs: number,
  ) {
    this.gateway = gateway;
    this.parsed = parsed;
    this.promptTokens = prompt.tokens.length;
    this.generation = generation;
    this.routing = routing;
    this.response = response;
    this.arrivedMs = arrivedMs;
    this.assembler = new OutputAssembler({
      table: gateway.model.table,
      stops: plan.stops,
      stopTokenIds: plan.stopTokenIds,
      ...(parsed.chat ? { thinking: prompt.insideThink } : {}),
    });
    const Format = parsed.chat ? ChatFormat : CompletionFormat;
    this.format = new Format({
      head: {
        id: `${parsed.chat ? "chatcmpl" : "cmpl"}-${randomUUID().replaceAll("-", "")}`,
        created: Math.floor(Date.now() / 1000),
        model: gateway.model.name,
        ...(parsed.request.return_token_ids ? { promptTokenIds: [...prompt.tokens] } : {}),
      },
      table: gateway.model.table,
      logprobs: parsed.logprobs !== undefined,
      includeUsage: parsed.request.stream_options?.include_usage ?? false,
      thinking: parsed.thinking,
    });
  }

  /** Returns the outcome; throws where nothing was written yet or nobody reads any more. */
  async stream(): Promise<string> {
    const writer = new SseWriter(this.response, this.gateway.limits.stallMs);
    const opening = () => {
      if (writer.started) return "";
      this.explain();
      const chunk = this.format.opening();
      return chunk === null ? "" : sseEvent(chunk);
    };
    let reason: FinishReason;
    try {
      reason = await this.consume(async (pieces, report) => {
        const events = this.chunks(pieces, report);
        if (events !== "") await writer.write(opening() + events);
      });
    } catch (error) {
      const failure = toPelagicError(error);
      if (!writer.started || failure.code === "cancelled") throw failure;
      await writer.write(sseEvent(errorBody(failure)) + doneEvent);
      writer.end();
      return failure.code;
    }
    const usage = this.parsed.request.stream_options?.include_usage ? sseEvent(this.format.usage(this.usage())) : "";
    await writer.write(opening() + sseEvent(this.format.finish(reason)) + usage + doneEvent);
    writer.end();
    return reason;
  }

  async whole(): Promise<string> {
    const all: OutputPiece[] = [];
    const reports: TokenReport[] = [];
    const reason = await this.consume((pieces, report) => {
      all.push(...pieces);
      reports.push(report);
      return Promise.resolve();
    });
    this.explain();
    this.response.json(this.format.whole(all, reason, this.usage(), joinReports(reports)));
    return reason;
  }

  private async consume(put: (pieces: OutputPiece[], report: TokenReport) => Promise<void>): Promise<FinishReason> {
    const { assembler, generation } = this;
    for await (const batch of generation) {
      this.lastTokenMs = performance.now();
      if (this.firstTokenMs === null) {
        this.firstTokenMs = this.lastTokenMs;
        this.gateway.metrics.timeToFirstToken.observe({ endpoint: this.parsed.endpoint }, (this.firstTokenMs - this.arrivedMs) / 1000);
      }
      const pieces: OutputPiece[] = [];
      const used = assembler.push(batch.tokens, batch.logprobs, pieces);
      await put(pieces, this.report(batch.tokens.subarray(0, used), batch.digests.slice(0, used)));
      // Leaving the loop cancels what is still being generated.
      if (assembler.stopped) break;
    }
    const pieces: OutputPiece[] = [];
    assembler.finish(pieces);
    if (pieces.length > 0) await put(pieces, {});
    this.count();
    return assembler.stopped ? "stop" : (generation.end?.reason ?? "stop");
  }

  private report(tokens: Uint32Array, digests: string[]): TokenReport {
    return {
      ...(this.parsed.request.return_token_ids ? { token_ids: [...tokens] } : {}),
      ...(this.parsed.request.pelagic?.digests ? { logits_digests: digests } : {}),
    };
  }

  /** One event a piece; the report goes with the first, or alone where no text is out yet. */
  private chunks(pieces: OutputPiece[], report: TokenReport): string {
    const reported = (report.token_ids?.length ?? 0) > 0 || (report.logits_digests?.length ?? 0) > 0;
    const carriers = pieces.length === 0 && reported ? [{ kind: "content" as const, text: "", logprobs: [] }] : pieces;
    return carriers.map((piece, index) => sseEvent(this.format.chunk(piece, index === 0 ? report : {}))).join("");
  }

  private usage(): Usage {
    const { completionTokens, reasoningTokens } = this.assembler;
    const cached = this.generation.cacheHitTokens;
    return {
      prompt_tokens: this.promptTokens,
      completion_tokens: completionTokens,
      total_tokens: this.promptTokens + completionTokens,
      prompt_tokens_details: { cached_tokens: cached },
      completion_tokens_details: { reasoning_tokens: reasoningTokens },
      prompt_cache_hit_tokens: cached,
      prompt_cache_miss_tokens: this.promptTokens - cached,
    };
  }

  private explain(): void {
    if (this.routing.chosen !== null) this.response.setHeader("x-pelagic-route", explainRoute(this.routing.chosen));
  }

  private count(): void {
    const { metrics } = this.gateway;
    const { completionTokens, reasoningTokens } = this.assembler;
    metrics.tokens.inc({ kind: "prompt" }, this.promptTokens);
    metrics.tokens.inc({ kind: "cached" }, this.generation.cacheHitTokens);
    metrics.tokens.inc({ kind: "completion" }, completionTokens);
    metrics.tokens.inc({ kind: "reasoning" }, reasoningTokens);
    if (completionTokens > 1 && this.firstTokenMs !== null) {
      const seconds = (this.lastTokenMs - this.firstTokenMs) / 1000 / (completionTokens - 1);
      metrics.timePerOutputToken.observe({ endpoint: this.parsed.endpoint }, seconds);
    }
  }
}

function joinReports(reports: TokenReport[]): TokenReport {
  const ids = reports.flatMap((report) => report.token_ids ?? []);
  const digests = reports.flatMap((report) => report.logits_digests ?? []);
  const first = reports[0];
  return { ...(first?.token_ids ? { token_ids: ids } : {}), ...(first?.logits_digests ? { logits_digests: digests } : {}) };
}
