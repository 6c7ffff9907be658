// A process's configuration: each camelCase field of a zod object comes from a --kebab-case flag or from PELAGIC_UPPER_SNAKE in the
// environment, the flag first. A field with the metadata `list` has one entry a line, or several flags. Secrets come by file only, so that
// neither `ps` nor the environment shows them.
import { readFileSync } from "node:fs";
import { z } from "zod";
import { logLevels } from "./log.ts";

/** What is wrong, and with which flag and variable; for one line on stderr. */
export class ConfigError extends Error {
  override name = "ConfigError";
}

const bool = z.stringbool();

/** Fields of every process. */
export const processFields = {
  logLevel: z.enum(logLevels).default("info"),
  /** 0: any free port. */
  metricsPort: z.coerce.number().int().min(0).max(65535).default(0),
  metricsHost: z.string().min(1).default("127.0.0.1"),
  /** End at once when stdin closes: the supervisor holds its other end. */
  exitWithParent: bool.default(false),
  /** How long a stop may take before the process ends anyway. */
  drainMs: z.coerce.number().int().positive().default(10_000),
};

/** Fields of every process on the bus. */
export const busFields = {
  service: z
    .string()
    .regex(/^[A-Za-z0-9_-]+$/)
    .default("default"),
  /** One or more server addresses, comma-separated. */
  natsUrl: z.string().min(1),
  natsCredentialsFile: z.string().min(1).optional(),
};

const NatsCredentials = z.object({ user: z.string().min(1), password: z.string().min(1) });
export type NatsCredentials = z.infer<typeof NatsCredentials>;

export interface ConfigSource {
  env: Record<string, string | undefined>;
  /** Without node and the script. */
  argv: string[];
}

export function loadConfig<S extends z.ZodObject>(schema: S, source: ConfigSource): z.output<S> {
  const fields = Object.keys(schema.shape);
  const lists = fields.filter((field) => (schema.shape[field] as z.ZodType).meta()?.list === true);
  const flags = readFlags(fields, lists, source.argv);
  const values: Record<string, string> = {};
  for (const field of fields) {
    // An empty variable counts as absent: that is how compose files and charts leave a field out.
    const value = flags.get(field) ?? (source.env[variableName(field)] || undefined);
    if (value !== undefined) values[field] = value;
  }
  const parsed = schema.safeParse(values);
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map((issue) => {
    const field = String(issue.path[0] ?? "");
    const problem = field in values ? issue.message : "missing";
    return field === "" ? issue.message : `${flagName(field)} (${variableName(field)}): ${problem}`;
  });
  throw new ConfigError(lines.join("; "));
}

/** Undefined where no file is configured: a server without users. */
export function readNatsCredentials(path: string | undefined): NatsCredentials | undefined {
  if (path === undefined) return undefined;
  try {
    return NatsCredentials.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    // Not the parser's own words: they may quote the file.
    const reason = error instanceof Error && "code" in error ? String(error.code) : "expected JSON with user and password";
    throw new ConfigError(`${flagName("natsCredentialsFile")} (${variableName("natsCredentialsFile")}): ${path}: ${reason}`);
  }
}

export function flagName(field: string): string {
  return `--${field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

export function variableName(field: string): string {
  return `PELAGIC_${field.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** Takes --field value, --field=value, and --field alone for true. */
function readFlags(fields: string[], lists: string[], argv: string[]): Map<string, string> {
  const byFlag = new Map(fields.map((field) => [flagName(field), field]));
  const flags = new Map<string, string>();
  const set = (field: string, value: string) => {
    const before = flags.get(field);
    if (before !== undefined && !lists.includes(field)) throw new ConfigError(`${flagName(field)}: given twice`);
    flags.set(field, before === undefined ? value : `${before}\n${value}`);
  };
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i] as string;
    const equals = argument.indexOf("=");
    const name = equals < 0 ? argument : argument.slice(0, equals);
    const field = byFlag.get(name);
    if (field === undefined) throw new ConfigError(`unknown argument ${name}; known: ${[...byFlag.keys()].join(" ")}`);
    if (equals >= 0) {
      set(field, argument.slice(equals + 1));
    } else if (i + 1 < argv.length && !(argv[i + 1] as string).startsWith("--")) {
      set(field, argv[++i] as string);
    } else {
      set(field, "true");
    }
  }
  return flags;
}
