// A chat with the model. Enter sends, Escape stops; what was said is forgotten with the page.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { ConsoleOverview } from "../../lib/contracts/console.ts";
import { ApiError } from "../api.ts";
import { streamChat } from "./chat-stream.ts";
import { Composer } from "./composer.tsx";
import { ask, end, type Exchange, hear, isOpen, messagesFor, whyNoChat } from "./conversation.ts";
import { ExchangeView } from "./exchange-view.tsx";

const examples = ["What is 127 + 536?", "Sort 41, 7, 23 and 15.", "How many e are in nevertheless?"];
/** The reader has not scrolled away while the end is this near. */
const nearEndPixels = 80;

export function ChatView({ overview, shown }: { overview: ConsoleOverview | null; shown: boolean }) {
  const [exchanges, setExchanges] = useState<Exchange[]>([]);
  const [thinking, setThinking] = useState(true);
  const [apiKey, setApiKey] = useState<string | null>(null);
  const [said, setSaid] = useState("");
  const running = useRef<AbortController | null>(null);
  const nextId = useRef(1);
  const input = useRef<HTMLTextAreaElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const [chosen, setChosen] = useState<string | null>(null);
  const models = overview?.gateway.models ?? [];
  const talking = models.filter(({ chats }) => chats).map(({ modelName }) => modelName);
  const model = talking.find((name) => name === chosen) ?? talking[0] ?? null;
  const open = exchanges.some(isOpen);

  useEffect(() => {
    if (shown) input.current?.focus({ preventScroll: true });
  }, [shown]);
  useEffect(() => {
    if (atEnd.current && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [exchanges]);
  useEffect(() => () => running.current?.abort(), []);

  const run = useCallback(
    async (before: Exchange[], question: string, think: boolean, key: string | null) => {
      if (model === null || running.current !== null) return;
      const id = nextId.current++;
      const stop = new AbortController();
      running.current = stop;
      atEnd.current = true;
      setSaid("");
      setExchanges([...before, ask(id, question, think, performance.now())]);
      const change = (how: (one: Exchange) => Exchange) => setExchanges((all) => all.map((one) => (one.id === id ? how(one) : one)));
      try {
        for await (const event of streamChat(
          { model, messages: messagesFor(before, question), thinking: think, apiKey: key },
          stop.signal,
        )) {
          const atMs = performance.now();
          change((one) => hear(one, event, atMs));
        }
        change((one) => end(one, "done"));
        setSaid("The answer is complete.");
      } catch (error) {
        if (stop.signal.aborted) {
          change((one) => end(one, "stopped"));
          setSaid("Stopped.");
        } else {
          change((one) => end(one, error instanceof ApiError ? error : new ApiError("unreachable", "The answer could not be read.")));
        }
      } finally {
        running.current = null;
      }
    },
    [model],
  );

  const send = (question: string) => void run(exchanges, question, thinking, apiKey);
  const again = (exchange: Exchange, key = apiKey) => {
    setApiKey(key);
    void run(
      exchanges.filter(({ id }) => id !== exchange.id),
      exchange.question,
      exchange.thinking,
      key,
    );
    input.current?.focus();
  };
  const stop = () => {
    running.current?.abort();
    input.current?.focus();
  };
  const clear = () => {
    running.current?.abort();
    setExchanges([]);
    input.current?.focus();
  };

  const noChat = overview === null ? null : whyNoChat(models);
  if (noChat !== null) {
    return (
      <div class="empty">
        <h1>No chat here</h1>
        <p>{noChat}</p>
      </div>
    );
  }
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: Escape anywhere in the chat stops it, as the button does.
    <div
      class="chat-view"
      onKeyDown={(event) => {
        if (event.key === "Escape" && open) stop();
      }}
    >
      <div
        class="exchanges"
        ref={list}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
        tabIndex={0}
        role="log"
        aria-label="Conversation"
        aria-live="off"
        aria-busy={open}
        onScroll={({ currentTarget: { scrollTop, clientHeight, scrollHeight } }) => {
          atEnd.current = scrollHeight - scrollTop - clientHeight < nearEndPixels;
        }}
      >
        <div class="column">
          {exchanges.length === 0 ? (
            <div class="empty">
              <h1>Ask {model ?? "the model"} something</h1>
              <ul class="examples" aria-label="Examples">
                {examples.map((example) => (
                  <li key={example}>
                    <button type="button" onClick={() => send(example)} disabled={model === null}>
                      {example}
                    </button>
                  </li>
                ))}
              </ul>
            </div>
          ) : (
            <>
              <h1 class="unseen">Chat with {model}</h1>
              {exchanges.map((exchange, i) => (
                <ExchangeView
                  key={exchange.id}
                  exchange={exchange}
                  onAgain={i === exchanges.length - 1 && !open ? (key) => again(exchange, key ?? apiKey) : undefined}
                />
              ))}
            </>
          )}
        </div>
      </div>
      <p class="unseen" role="status">
        {said}
      </p>
      <Composer
        input={input}
        ready={model !== null}
        models={talking}
        model={model}
        onModel={setChosen}
        open={open}
        thinking={thinking}
        onThinking={setThinking}
        onSend={send}
        onStop={stop}
        onClear={exchanges.length > 0 ? clear : undefined}
      />
    </div>
  );
}
