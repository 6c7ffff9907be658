// /tokenize and /detokenize: what a prompt becomes, and back, by the tokenizer's own threads and the table that answers are read with.
import type { Request, Response } from "express";
import type { z } from "zod";
import { PelagicError } from "../lib/contracts/errors.ts";
import { type Detokenized, DetokenizeRequest, type Tokenized, TokenizeRequest } from "../lib/contracts/http.ts";
import { type CountedTokens, CountTokensRequest } from "../lib/contracts/http-messages.ts";
import type { TokenTable } from "../lib/model/token-table.ts";
import { chatPrompt, checkPromptBytes, checkTokenId, longestField, type TextSource } from "./prompt-source.ts";
import type { Place } from "./admission/admission.ts";
import { visitOf } from "./admission/callers.ts";
import { standingOf } from "./admission/terms.ts";
import { sendJson } from "./http-response.ts";
import { bodyLimits, parseBody, readJsonBody } from "./json-body.ts";
import { conversationOf, systemOf } from "./messages-request.ts";
import type { Gateway } from "./gateway.ts";
import { chooseModel } from "./model-choice.ts";
import { servedContext } from "./readiness.ts";
import type { ServedModel } from "./served-model.ts";
import type { Encoder } from "./tokenizer-pool.ts";

export function tokenize(gateway: Gateway, request: Request, response: Response): Promise<void> {
  return answer(gateway, TokenizeRequest, request, response, async (body, { model, encoder, table, signal }) => {
    const { messages, prompt, add_special_tokens } = body;
    const text = prompt ?? "";
    const source: TextSource = messages
      ? chatPrompt({ ...body, messages }, model)
      : { job: { kind: "text", text, special: add_special_tokens ?? true }, bytes: Buffer.byteLength(text) };
    const maxPositions = servedContext(gateway.directory, model);
    if (maxPositions !== null) checkPromptBytes(source, model, maxPositions, messages ? "messages" : "prompt");
    const { tokens } = await encoder.encode(source.job, { signal, timeoutMs: gateway.limits.deadlineMs });
    return {
      count: tokens.length,
      max_model_len: maxPositions,
      tokens: [...tokens],
      token_strs: body.return_token_strs ? Array.from(tokens, (id) => textOf(table, [id])) : null,
    } satisfies Tokenized;
  });
}

export function detokenize(gateway: Gateway, request: Request, response: Response): Promise<void> {
  return answer(gateway, DetokenizeRequest, request, response, ({ tokens }, { model, table }) => {
    for (const id of tokens) checkTokenId(id, model, "tokens");
    return Promise.resolve({ prompt: textOf(table, tokens) } satisfies Detokenized);
  });
}

export function countTokens(gateway: Gateway, request: Request, response: Response): Promise<void> {
  return answer(gateway, CountTokensRequest, request, response, async (body, { model, encoder, signal }) => {
    const source = chatPrompt(conversationOf(body), model);
    const maxPositions = servedContext(gateway.directory, model);
    if (maxPositions !== null) checkPromptBytes(source, model, maxPositions, longestField(source, systemOf(body)));
    const { tokens } = await encoder.encode(source.job, { signal, timeoutMs: gateway.limits.deadlineMs });
    return { input_tokens: tokens.length } satisfies CountedTokens;
  });
}

async function answer<S extends z.ZodType<{ model?: string | null }>>(
  gateway: Gateway,
  schema: S,
  request: Request,
  response: Response,
  respond: (body: z.output<S>, by: { model: ServedModel; encoder: Encoder; table: TokenTable; signal: AbortSignal }) => Promise<object>,
): Promise<void> {
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const { caller } = visitOf(response);
  const read = await readJsonBody(request, bodyLimits(gateway, request, caller));
  let place: Place | null = null;
  try {
    const { encoder, model } = chooseModel(gateway.models, read.body.model, caller, gateway.learned?.missing);
    const body = parseBody(schema, read.body);
    if (encoder === null || model.table === null)
      throw new PelagicError("invalid_request", `the model ${model.name} has no tokenizer.json`);
    const standing = standingOf({ priority: caller.priority, ttftMs: null }, caller, "", performance.now());
    place = await gateway.admission.enter(standing, { signal: gone.signal });
    const answered = await respond(body, { model, encoder, table: model.table, signal: gone.signal });
    await sendJson(response, answered, gateway.limits.stallMs);
  } finally {
    place?.leave();
    read.release();
  }
}

/** Bytes that are no UTF-8, such as half a character, become replacement characters. */
function textOf(table: TokenTable, ids: readonly number[]): string {
  return Buffer.from(table.bytesOfAll(ids).buffer).toString("utf8");
}
