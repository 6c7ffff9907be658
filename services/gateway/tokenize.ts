// /tokenize and /detokenize: what a prompt becomes, and back, by the tokenizer's own threads and the table that answers are read with.
import type { Request, Response } from "express";
import type { z } from "zod";
import { PelagicError } from "../lib/contracts/errors.ts";
import { type Detokenized, DetokenizeRequest, firstIssue, oversizedField, type Tokenized, TokenizeRequest } from "../lib/contracts/http.ts";
import type { TokenTable } from "../lib/model/token-table.ts";
import { chatJob, checkPromptBytes, checkTokenId } from "./generation-plan.ts";
import { readJsonBody } from "./json-body.ts";
import { type Gateway, servedContext } from "./serve-generation.ts";
import { checkModelName } from "./served-model.ts";
import type { TokenizerJob } from "./tokenizer-pool.ts";

export function tokenize(gateway: Gateway, request: Request, response: Response): Promise<void> {
  return answer(gateway, TokenizeRequest, request, async (body, signal) => {
    const table = tableOf(gateway);
    const job: TokenizerJob = body.messages
      ? chatJob({ messages: body.messages, chat_template_kwargs: body.chat_template_kwargs })
      : { kind: "text", text: body.prompt ?? "", special: body.add_special_tokens ?? true };
    const maxPositions = servedContext(gateway);
    if (job.kind === "text" && maxPositions !== null) checkPromptBytes(Buffer.byteLength(job.text), gateway.model, maxPositions);
    const { tokens } = (await gateway.encoder?.encode(job, { signal, timeoutMs: gateway.limits.deadlineMs })) ?? { tokens: [] };
    response.json({
      count: tokens.length,
      max_model_len: maxPositions,
      tokens: [...tokens],
      token_strs: body.return_token_strs ? Array.from(tokens, (id) => textOf(table, [id])) : null,
    } satisfies Tokenized);
  });
}

export function detokenize(gateway: Gateway, request: Request, response: Response): Promise<void> {
  return answer(gateway, DetokenizeRequest, request, ({ tokens }) => {
    const table = tableOf(gateway);
    for (const id of tokens) checkTokenId(id, gateway.model, "tokens");
    response.json({ prompt: textOf(table, tokens) } satisfies Detokenized);
    return Promise.resolve();
  });
}

async function answer<S extends z.ZodType<{ model?: string | null }>>(
  gateway: Gateway,
  schema: S,
  request: Request,
  respond: (body: z.output<S>, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const gone = new AbortController();
  request.res?.on("close", () => gone.abort());
  const { body, release } = await readJsonBody(request, gateway.limits.maxBodyBytes, gateway.bodyBudget);
  try {
    const leave = gateway.admission.enter();
    try {
      const oversized = oversizedField(body);
      if (oversized !== null) throw new PelagicError("invalid_request", `${oversized}: too many entries`, { param: oversized });
      const parsed = schema.safeParse(body);
      if (!parsed.success) {
        const { param, message } = firstIssue(parsed.error);
        throw new PelagicError("invalid_request", message, { param });
      }
      if (parsed.data.model) checkModelName(gateway.model, parsed.data.model, "model");
      await respond(parsed.data, gone.signal);
    } finally {
      leave();
    }
  } finally {
    release();
  }
}

function tableOf({ model }: Gateway): TokenTable {
  if (model.table === null) throw new PelagicError("invalid_request", `the model ${model.name} has no tokenizer.json`);
  return model.table;
}

/** Bytes that are no UTF-8, such as half a character, become replacement characters. */
function textOf(table: TokenTable, ids: readonly number[]): string {
  return Buffer.concat(ids.map((id) => table.bytesOf(id))).toString("utf8");
}
