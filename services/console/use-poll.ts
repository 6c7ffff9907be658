// Asks again and again while someone looks: not while the page is hidden, never twice at once, and not without the key where one is wanted.
import { useEffect, useState } from "preact/hooks";
import { ApiError } from "./api.ts";

export interface Polled<T> {
  /** The last answer, also while asking fails. */
  value: T | null;
  error: ApiError | null;
}

/** `ask` must be the same function from render to render; another one begins anew. `once`: until there is an answer. */
export function usePoll<T>(ask: (signal: AbortSignal) => Promise<T>, everyMs: number, once = false): Polled<T> & { again: () => void } {
  const [polled, setPolled] = useState<Polled<T>>({ value: null, error: null });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let asking = false;
    let over = false;
    const next = async () => {
      if (asking || over || document.hidden) return;
      asking = true;
      clearTimeout(timer);
      try {
        const value = await ask(ended.signal);
        over = once;
        if (!ended.signal.aborted) setPolled({ value, error: null });
      } catch (error) {
        if (ended.signal.aborted) return;
        const failure = error instanceof ApiError ? error : new ApiError("unreachable", "The gateway does not answer.");
        over = failure.code === "invalid_api_key";
        setPolled(({ value }) => ({ value, error: failure }));
      } finally {
        asking = false;
        if (!ended.signal.aborted && !over) timer = setTimeout(next, everyMs);
      }
    };
    document.addEventListener("visibilitychange", next);
    void next();
    return () => {
      document.removeEventListener("visibilitychange", next);
      clearTimeout(timer);
      ended.abort();
    };
  }, [ask, everyMs, once, round]);
  return { ...polled, again: () => setRound((n) => n + 1) };
}
