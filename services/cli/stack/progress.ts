// The start of a stack as a person or a program follows it: one live line in a terminal, plain lines elsewhere, JSON events with --json.
import { formatSeconds, isTerminal } from "../terminal.ts";
import type { StackEvent } from "./stack.ts";

export type ProgressMode = "live" | "lines" | "json";

export interface Progress {
  onEvent(event: StackEvent): void;
  /** A step outside the stack, such as a build. */
  step(text: string): void;
  /** Where a long step stands: shown in a terminal until the next line; elsewhere a line for each quarter of it that is done. */
  detail(text: string, done?: number): void;
  /** Ends the live line, before other output. */
  end(): void;
}

export function progressMode(options: { json?: boolean }): ProgressMode {
  if (options.json) return "json";
  return isTerminal(process.stderr) ? "live" : "lines";
}

export function createProgress(mode: ProgressMode): Progress {
  const waiting = new Set<string>();
  let lineShown = false;
  let quartersTold = 0;

  const clear = () => {
    if (lineShown) process.stderr.write("\r\u001b[2K");
    lineShown = false;
  };
  const say = (text: string) => {
    clear();
    process.stderr.write(`${text}\n`);
    show();
  };
  const show = () => {
    if (mode !== "live" || waiting.size === 0) return;
    process.stderr.write(`  waiting for ${[...waiting].join(", ")} ...`);
    lineShown = true;
  };

  return {
    onEvent(event) {
      if (mode === "json") {
        process.stdout.write(`${JSON.stringify(event)}\n`);
        return;
      }
      if (event.event === "started") waiting.add(event.process);
      if (event.event === "ready") waiting.delete(event.process);
      switch (event.event) {
        case "preparing":
          say(`  ${event.what}`);
          break;
        case "ready":
          say(`  ${event.process} ready after ${formatSeconds(event.afterSeconds)}`);
          break;
        case "died":
          say(`  ${event.process} ${event.how}; starting it again`);
          break;
        case "started":
          clear();
          show();
          break;
        case "stopping":
          waiting.clear();
          clear();
          break;
      }
    },
    step(text) {
      quartersTold = 0;
      this.onEvent({ event: "preparing", what: text });
    },
    detail(text, done = 0) {
      if (mode !== "live") {
        const quarters = Math.floor(4 * done);
        if (quarters > quartersTold) this.onEvent({ event: "preparing", what: text });
        quartersTold = Math.max(quarters, quartersTold);
        return;
      }
      clear();
      process.stderr.write(`  ${text}`);
      lineShown = true;
    },
    end: clear,
  };
}
