// Whether this gateway has a console, and who may see it.
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { z } from "zod";
import { ConfigError } from "../../lib/runtime/config.ts";

export const consoleFields = {
  console: z.enum(["on", "off"]).default("off"),
  /** A file with the key that the console asks for; needed where the gateway listens on more than the loopback. */
  consoleKeyFile: z.string().min(1).optional(),
};

export interface ConsoleSettings {
  /** Absent: whoever reaches the loopback may look. */
  key?: string;
}

/** Longer than anyone can guess over a network. */
const leastKeyLength = 16;

/** Null: no console. Throws a ConfigError where one would be open to the network, or its key is none. */
export function consoleSettings(config: { console: "on" | "off"; consoleKeyFile?: string; host: string }): ConsoleSettings | null {
  if (config.console === "off") return null;
  if (config.consoleKeyFile !== undefined) return { key: readKey(config.consoleKeyFile) };
  if (isLoopback(config.host)) return {};
  throw new ConfigError(
    `--console (PELAGIC_CONSOLE): on, and the gateway listens on ${config.host}: give the console a key in --console-key-file (PELAGIC_CONSOLE_KEY_FILE)`,
  );
}

/** Of a host to listen on, or of a Host header without its port. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[(.*)\]$/, "$1").toLowerCase();
  if (name === "localhost" || name.endsWith(".localhost")) return true;
  return name === "::1" || (isIP(name) === 4 && name.startsWith("127."));
}

function readKey(path: string): string {
  const field = "--console-key-file (PELAGIC_CONSOLE_KEY_FILE)";
  let key: string;
  try {
    key = readFileSync(path, "utf8").trim();
  } catch (error) {
    throw new ConfigError(`${field}: ${path}: ${String((error as NodeJS.ErrnoException).code)}`);
  }
  if (key.length < leastKeyLength)
    throw new ConfigError(`${field}: ${path} holds ${key.length} characters, at least ${leastKeyLength} needed`);
  return key;
}
