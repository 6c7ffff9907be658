import type { ConsoleRequest } from "../../lib/contracts/console.ts";

const finished = new Set(["stop", "length", "tool_calls", "content_filter"]);

/** A finish reason, or the name of an error. */
export function Outcome({ outcome }: Pick<ConsoleRequest, "outcome">) {
  const tone = finished.has(outcome) ? "good" : outcome === "cancelled" ? "plain" : "bad";
  return (
    <span class={`state ${tone}`}>
      <span class="dot" aria-hidden="true" />
      {outcome.replaceAll("_", " ")}
    </span>
  );
}

/** When, to the second, in the reader's own time. */
export function arrivedAt(iso: string): string {
  return new Date(iso).toLocaleTimeString("en-GB");
}
