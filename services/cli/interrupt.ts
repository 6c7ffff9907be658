/** The first Ctrl-C (or SIGTERM, or the terminal's end) aborts the signal, for an orderly stop; the second one ends the process. */
export function onInterrupt(beforeEnd: () => void): AbortSignal {
  const controller = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (controller.signal.aborted) {
        beforeEnd();
        process.exit(interruptedExitCode);
      }
      controller.abort();
    });
  }
  return controller.signal;
}

/** As a shell reports a command that Ctrl-C ended. */
export const interruptedExitCode = 130;
