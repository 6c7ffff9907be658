// Which of the served models a request means. Pure. What a key may not use is not told from what does not exist.
import { PelagicError } from "../lib/contracts/errors.ts";
import { mayUse } from "./admission/callers.ts";
import type { Caller } from "./admission/api-keys.ts";

const none: ReadonlyMap<string, string> = new Map();

/**
 * `missing`: models that workers have and that are not served yet, or cannot be; what is wrong with them is the operator's to know. Throws
 * `model_not_found`, `no_workers` for one that is missing, or `invalid_request` where only a name could tell which one is meant. */
export function chooseModel<M>(
  models: ReadonlyMap<string, M>,
  asked: unknown,
  caller: Caller,
  missing: ReadonlyMap<string, string> = none,
): M {
  const visible = visibleModels(models, caller);
  if (typeof asked === "string") {
    const found = visible.get(asked);
    if (found !== undefined) return found;
    if (missing.has(asked) && mayUse(caller, asked)) throw notYet(asked);
    throw notFound(`the model ${JSON.stringify(asked.slice(0, 100))} is not served here${limitedTo(caller)}; ${choices(visible)}`);
  }
  const [only, another] = visible.values();
  const [next] = [...missing.keys()].filter((name) => mayUse(caller, name));
  if (only === undefined && next !== undefined) throw notYet(next);
  if (only === undefined) throw notFound(`no model that is served here may be used with this API key`);
  // Where there is no choice, the endpoint says whether it must be named all the same.
  if (another === undefined && next === undefined) return only;
  throw new PelagicError("invalid_request", `model: a name is needed, since several models are served here: ${names(visible)}`, {
    param: "model",
  });
}

/** Those that the caller may use. */
export function visibleModels<M>(models: ReadonlyMap<string, M>, caller: Caller): Map<string, M> {
  return new Map([...models].filter(([name]) => mayUse(caller, name)));
}

function notYet(name: string): PelagicError {
  return new PelagicError("no_workers", `the model ${name} is not served yet; try again later`, { retryAfterMs: 1_000 });
}

function notFound(message: string): PelagicError {
  return new PelagicError("model_not_found", message, { param: "model" });
}

function limitedTo({ models }: Caller): string {
  return models === null ? "" : ", or the API key may not use it";
}

function choices(visible: ReadonlyMap<string, unknown>): string {
  return visible.size === 0 ? "there is none that it may use" : `choose ${visible.size === 1 ? "" : "one of "}${names(visible)}`;
}

function names(models: ReadonlyMap<string, unknown>): string {
  return [...models.keys()].join(", ");
}
