// What a schema that is not strict asked for and its answer does not promise, as a header. Pure.
import { inClientsWords } from "./field-names.ts";
import type { Endpoint } from "./gateway-metrics.ts";

const maxCharacters = 1_000;

/** `tools[0].function.parameters.properties.n: multipleOf; ...`; as much as a header may well have. */
export function notKeptHeader(notKept: readonly string[], endpoint: Endpoint): string {
  const told: string[] = [];
  let characters = 0;
  for (const one of notKept) {
    const text = inClientsWords(one, endpoint).replace(
      /[^\x20-\x7e]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
    characters += text.length + 2;
    if (characters > maxCharacters) break;
    told.push(text);
  }
  const left = notKept.length - told.length;
  return [...told, ...(left > 0 ? [`${told.length > 0 ? "and " : ""}${left} more`] : [])].join("; ");
}
