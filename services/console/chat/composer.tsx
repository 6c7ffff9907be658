import type { RefObject } from "preact";
import { useState } from "preact/hooks";

export interface ComposerProps {
  input: RefObject<HTMLTextAreaElement | null>;
  ready: boolean;
  /** Those that can be talked to, and the one that is. */
  models: readonly string[];
  model: string | null;
  onModel(name: string): void;
  /** An answer is being written. */
  open: boolean;
  thinking: boolean;
  onThinking(on: boolean): void;
  onSend(question: string): void;
  onStop(): void;
  onClear?: () => void;
}

export function Composer(props: ComposerProps) {
  const [text, setText] = useState("");
  const question = text.trim();
  const canSend = props.ready && !props.open && question !== "";
  const send = () => {
    if (!canSend) return;
    setText("");
    props.onSend(question);
  };
  return (
    <form
      class="composer column"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <div class="composer-box">
        <label class="unseen" for="question">
          Your message
        </label>
        {/* Grows with its text: the copy behind it has the height. */}
        <div class="grow" data-text={`${text}\n`}>
          <textarea
            ref={props.input}
            id="question"
            rows={1}
            placeholder="Ask something"
            value={text}
            aria-describedby="question-help"
            onInput={({ currentTarget }) => setText(currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
                event.preventDefault();
                send();
              }
            }}
          />
        </div>
        <div class="composer-row">
          <button
            type="button"
            role="switch"
            class="switch"
            aria-checked={props.thinking}
            onClick={() => props.onThinking(!props.thinking)}
          >
            <span class="track" aria-hidden="true" />
            Think first
          </button>
          {props.models.length > 1 && (
            <label>
              <span class="unseen">Model</span>
              <select value={props.model ?? ""} disabled={props.open} onChange={({ currentTarget }) => props.onModel(currentTarget.value)}>
                {props.models.map((name) => (
                  <option key={name} value={name}>
                    {name}
                  </option>
                ))}
              </select>
            </label>
          )}
          {props.onClear && (
            <button type="button" class="quiet" onClick={props.onClear}>
              New chat
            </button>
          )}
          <span class="spring" />
          <span id="question-help" class="hint wide-only">
            {props.open ? "Escape stops" : "Enter sends, Shift+Enter breaks the line"}
          </span>
          {props.open ? (
            <button type="button" class="primary stop" onClick={props.onStop}>
              Stop
            </button>
          ) : (
            <button type="submit" class="primary" disabled={!canSend}>
              Send
            </button>
          )}
        </div>
      </div>
    </form>
  );
}
