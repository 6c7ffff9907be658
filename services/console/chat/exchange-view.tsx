// A question and its answer: the reasoning folded away above it, what it took below it.
import { useState } from "preact/hooks";
import { formatCount, formatRate, formatSeconds } from "../format.ts";
import { hrefOf } from "../shell/route.ts";
import { type Exchange, figuresOf, isOpen } from "./conversation.ts";

/** The same question would get the same answer. */
const inVain = new Set(["invalid_request", "context_length_exceeded", "model_not_found", "request_too_large"]);

export function ExchangeView({ exchange, onAgain }: { exchange: Exchange; onAgain?: (apiKey?: string) => void }) {
  return (
    <article class="exchange">
      <h2 class="unseen">You</h2>
      <p class="question">{exchange.question}</p>
      <h2 class="unseen">The model</h2>
      <Reasoning exchange={exchange} />
      {exchange.answer !== "" && <p class={exchange.state === "answering" ? "answer growing" : "answer"}>{exchange.answer}</p>}
      {exchange.state === "asked" && <p class="waiting-words">Waiting for the first token</p>}
      {exchange.failure !== null && (
        <div class="failure" role="alert">
          <p>{exchange.failure.message}</p>
          {onAgain && exchange.failure.code === "invalid_api_key" && <ApiKeyForm onKey={onAgain} />}
          {onAgain && exchange.failure.code !== "invalid_api_key" && !inVain.has(exchange.failure.code) && (
            <button type="button" onClick={() => onAgain()}>
              Ask again
            </button>
          )}
        </div>
      )}
      {!isOpen(exchange) && <Figures exchange={exchange} />}
    </article>
  );
}

function Reasoning({ exchange }: { exchange: Exchange }) {
  if (exchange.reasoning === "") return null;
  const { thoughtSeconds } = figuresOf(exchange);
  const thinks = exchange.state === "thinking";
  return (
    <details class={thinks ? "reasoning thinks" : "reasoning"}>
      <summary>{thinks ? "Thinking" : `Thought for ${formatSeconds(thoughtSeconds ?? 0)}`}</summary>
      <p>{exchange.reasoning.trim()}</p>
    </details>
  );
}

function Figures({ exchange }: { exchange: Exchange }) {
  const { ttftSeconds, tokensPerSecond } = figuresOf(exchange);
  const parts = [
    exchange.state === "stopped" && "Stopped",
    exchange.finishReason === "length" && "Ended at its greatest length",
    exchange.usage && `${formatCount(exchange.usage.completionTokens)} tokens`,
    ttftSeconds !== null && `first after ${formatSeconds(ttftSeconds)}`,
    tokensPerSecond !== null && `${formatRate(tokensPerSecond)} tokens/s`,
    exchange.usage && exchange.usage.cachedTokens > 0 && `${formatCount(exchange.usage.cachedTokens)} of the prompt from the cache`,
  ].filter((part) => typeof part === "string");
  return (
    <p class="figures">
      {parts.map((part) => (
        <span key={part}>{part}</span>
      ))}
      {exchange.requestId !== null && <a href={hrefOf("requests", exchange.requestId)}>Time line</a>}
    </p>
  );
}

function ApiKeyForm({ onKey }: { onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  return (
    <form
      class="api-key"
      onSubmit={(event) => {
        event.preventDefault();
        onKey(key.trim());
      }}
    >
      <label for="api-key">API key (kept while this page is open)</label>
      <input
        id="api-key"
        type="password"
        autocomplete="off"
        required
        value={key}
        onInput={({ currentTarget }) => setKey(currentTarget.value)}
      />
      <button type="submit">Ask again</button>
    </form>
  );
}
