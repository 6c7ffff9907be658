// The process's logger: JSON lines on stderr (stdout carries what a supervisor reads, see process.ts). No prompt text, ever.
import pino from "pino";
import type { Log } from "../contracts/bus.ts";

export const logLevels = ["fatal", "error", "warn", "info", "debug", "trace", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

export interface ProcessLog extends Log {
  /** A logger that adds these fields to each line. */
  child(fields: object): ProcessLog;
}

export function createLog(options: { name: string; level: LogLevel }): ProcessLog {
  // Synchronous: the last lines before a crash are the ones that matter.
  return pino({ name: options.name, level: options.level }, pino.destination({ fd: 2, sync: true }));
}
