// Other APIs' conversations become one of /v1/chat/completions (responses-request.ts, messages-request.ts); a refusal names the field that their
// clients wrote. Pure.
import { PelagicError } from "../lib/contracts/errors.ts";
import type { Endpoint } from "./gateway-metrics.ts";

const names: Partial<Record<Endpoint, [RegExp, string][]>> = {
  responses: [
    [/^messages.*/, "input"],
    [/^max_tokens$/, "max_output_tokens"],
    [/^response_format\.json_schema\.schema/, "text.format.schema"],
    [/^response_format/, "text.format"],
    [/^tools\[(\d+)\]\.function/, "tools[$1]"],
    [/^tool_choice\.function/, "tool_choice"],
  ],
  messages: [
    [/^response_format\.json_schema\.schema/, "output_config.format.schema"],
    [/^response_format/, "output_config.format"],
    [/^thinking_token_budget$/, "thinking.budget_tokens"],
    [/^tools\[(\d+)\]\.function\.parameters/, "tools[$1].input_schema"],
    [/^tools\[(\d+)\]\.function/, "tools[$1]"],
    [/^tool_choice\.function/, "tool_choice"],
  ],
};

/** The field, or what begins with its name, as the endpoint's clients wrote it. */
export function inClientsWords(param: string, endpoint: Endpoint): string {
  const rename = names[endpoint]?.find(([pattern]) => pattern.test(param));
  return rename === undefined ? param : param.replace(...rename);
}

export function inEndpointsWords(error: PelagicError, endpoint: Endpoint): PelagicError {
  const { param, message, code, retryAfterMs, final } = error;
  if (param === undefined) return error;
  const own = inClientsWords(param, endpoint);
  if (own === param) return error;
  return new PelagicError(
    code,
    message.replace(param, () => own),
    { param: own, retryAfterMs, final },
  );
}
