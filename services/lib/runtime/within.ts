// Work with a bound in time beside a signal that may end it sooner.
//
// Not AbortSignal.any([signal, AbortSignal.timeout(ms)]): Node 20 holds the second one weakly, so that a garbage collection takes the clock away and the
// bound never comes; and it keeps a trace of each such signal for as long as the first one lives.

/** `work` gets a signal that is aborted with `signal`, or after so long. */
export async function within<T>(ms: number, signal: AbortSignal, work: (bounded: AbortSignal) => Promise<T>): Promise<T> {
  const bound = new AbortController();
  const onAbort = () => bound.abort(signal.reason);
  const timer = setTimeout(() => bound.abort(new DOMException(`not done within ${ms} ms`, "TimeoutError")), ms);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await work(bound.signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
