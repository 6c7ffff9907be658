// ./pelagic keys: makes, lists and revokes the API keys in a file that gateways read (PELAGIC_API_KEYS). The file has hashes; a key is shown once.
import {
  closeSync,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { type Command, InvalidArgumentError, Option } from "commander";
import { createKey, hashKey, KeyEntry, maxKeys, parseKeysFile } from "../gateway/admission/api-keys.ts";
import { type PriorityClass, priorityClasses } from "../lib/contracts/messages.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { runningInstances } from "./instances.ts";
import { formatTable } from "./terminal.ts";
import { count } from "./up.ts";

interface FileOptions {
  file?: string;
}

interface CreateOptions extends FileOptions {
  model: string[];
  requestsPerMinute?: number;
  tokensPerMinute?: number;
  maxConcurrent?: number;
  priority: PriorityClass;
  cacheGroup?: string;
}

export function register(program: Command): void {
  const keys = program.command("keys").description("make, list and revoke API keys");
  const command = (text: string, description: string) =>
    keys.command(text).description(description).option("--file <path>", "the keys file (default: PELAGIC_API_KEYS)");
  command("create <name>", "a new key, shown once")
    .option("--model <name>", "a model that it may use; may be given again (default: all)", append, [])
    .option("--requests-per-minute <n>", "no more than so many", count(1))
    .option("--tokens-per-minute <n>", "no more than so many, of prompts and answers", count(1))
    .option("--max-concurrent <n>", "requests at once", count(1))
    .addOption(new Option("--priority <class>", "of its requests").choices(priorityClasses).default("normal"))
    .option("--cache-group <name>", "keys of one group may share cached blocks (default: it shares with none)")
    .addHelpText("after", "\nExample:\n  ./pelagic keys create alice --file keys.json --tokens-per-minute 100000")
    .action(create);
  command("list", "names, scopes and limits").option("--json", "as JSON").action(list);
  command("revoke <name>", "gateways refuse it within moments").action(revoke);
}

function create(name: string, options: CreateOptions): void {
  const key = createKey();
  const { model: models, requestsPerMinute, tokensPerMinute, maxConcurrent, priority, cacheGroup } = options;
  const entry = KeyEntry.safeParse({
    name,
    sha256: hashKey(key),
    ...(models.length > 0 && { models }),
    ...{ requestsPerMinute, tokensPerMinute, maxConcurrent, priority, cacheGroup },
  });
  if (!entry.success) throw new CliError(`${String(entry.error.issues[0]?.path[0])}: ${entry.error.issues[0]?.message}`);
  change(pathOf(options), (entries) => {
    if (entries.some((one) => one.name === name)) throw new CliError(`there is a key named ${name} already: revoke it first`);
    if (entries.length >= maxKeys) throw new CliError(`the file has ${maxKeys} keys, the most that it may`);
    return [...entries, entry.data];
  });
  process.stderr.write(`The key of ${name}. It is shown this once:\n`);
  process.stdout.write(`${key}\n`);
  warnOfUnserved(models);
}

/** A mistyped name is a key that gets 404; one that is served later, or elsewhere, is none. */
function warnOfUnserved(models: string[]): void {
  const served = new Set(runningInstances().flatMap((instance) => instance.models.map(({ name }) => name)));
  const unserved = models.filter((name) => !served.has(name));
  if (served.size === 0 || unserved.length === 0) return;
  process.stderr.write(`warning: --model ${unserved.join(", ")}: what runs here serves ${[...served].join(", ")}\n`);
}

function list(options: FileOptions & { json?: boolean }): void {
  const entries = readKeysFile(pathOf(options));
  if (options.json) {
    process.stdout.write(`${JSON.stringify(entries)}\n`);
    return;
  }
  const rows = entries.map((entry) => [
    entry.name,
    entry.models?.join(" ") ?? "all",
    entry.requestsPerMinute ?? "-",
    entry.tokensPerMinute ?? "-",
    entry.maxConcurrent ?? "-",
    entry.priority,
    entry.cacheGroup ?? "-",
  ]);
  process.stdout.write(`${formatTable(["name", "models", "requests/min", "tokens/min", "at once", "priority", "cache group"], rows)}\n`);
}

function revoke(name: string, options: FileOptions): void {
  change(pathOf(options), (entries) => {
    const left = entries.filter((one) => one.name !== name);
    if (left.length === entries.length) throw new CliError(`there is no key named ${name}`);
    return left;
  });
  process.stderr.write(`${name} is revoked\n`);
}

function pathOf({ file }: FileOptions): string {
  const path = file ?? process.env.PELAGIC_API_KEYS;
  if (!path) throw new CliError("which file? Name it with --file, or in PELAGIC_API_KEYS");
  return path;
}

export function readKeysFile(path: string): KeyEntry[] {
  try {
    return parseKeysFile(readFileSync(path, "utf8"));
  } catch (error) {
    throw new CliError(`${path}: ${messageOf(error)}`);
  }
}

/** Gateways that read meanwhile see the old file or the new one; of two commands at once, one is told to wait. */
function change(path: string, how: (entries: KeyEntry[]) => KeyEntry[]): void {
  const next = `${path}.new`;
  let file: number;
  try {
    file = openSync(next, "wx", 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw new CliError(`${next}: ${messageOf(error)}`);
    throw new CliError(`${next} is there: another command is changing the file now, or was killed while it did; then remove ${next}`);
  }
  try {
    const entries = how(existsSync(path) ? readKeysFile(path) : []);
    writeSync(file, `${JSON.stringify({ keys: entries }, null, 2)}\n`);
    if (existsSync(path)) keepReaders(path, file);
    fsyncSync(file);
    renameSync(next, path);
  } catch (error) {
    rmSync(next, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
}

/** Who could read the old file reads the new one: a gateway of another user would go on with the old keys, those revoked among them. */
function keepReaders(path: string, file: number): void {
  const { uid, gid, mode } = statSync(path);
  const own = fstatSync(file);
  try {
    if (own.uid !== uid || own.gid !== gid) fchownSync(file, uid, gid);
    fchmodSync(file, mode & 0o777);
  } catch (error) {
    throw new CliError(`${path} is of user ${uid} and group ${gid}, which it would lose: run this as that user (${messageOf(error)})`);
  }
}

function append(value: string, before: string[]): string[] {
  if (value === "") throw new InvalidArgumentError("a model's name");
  return [...before, value];
}
