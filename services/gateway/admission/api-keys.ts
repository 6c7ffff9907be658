// The keys file: who may ask, for which models, how much, how urgently. JSON, so that a Kubernetes secret can hold it as it is.
//
// It has SHA-256 hashes and no key. Neither salt nor a slow hash: those protect what people choose and use twice, while a key of ours is 256
// random bits (createKey), and nobody tries 2^256 of them however fast the hash is. A slow one would cost every request instead.
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import { type PriorityClass, priorityClasses } from "../../lib/contracts/messages.ts";

export const maxKeys = 10_000;
/** What a client sends: no header of this size is hashed in vain. */
const maxKeyCharacters = 512;
const name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/, {
  error: "1 to 64 letters, digits and . _ @ -, of which the first is a letter or digit",
});
const limit = z.number().int().positive();

const keyFields = {
  /** For logs, and for whoever reads the file. */
  name,
  sha256: z.string().regex(/^[0-9a-f]{64}$/, { error: "64 lower-case hex digits: the SHA-256 of the key" }),
  /** Names as GET /v1/models has them; absent: all. */
  models: z.array(z.string().min(1).max(256)).min(1).max(100).optional(),
  requestsPerMinute: limit.optional(),
  tokensPerMinute: limit.optional(),
  maxConcurrent: limit.optional(),
  /** Of its requests, and the best that they may ask for. */
  priority: z.enum(priorityClasses).default("normal"),
  /** Keys of one group may find each other's prompts in the cache; without one a key shares with nobody. */
  cacheGroup: name.optional(),
};
// No message quotes what the file holds: somebody may have put a key there.
const onlyKnown = (fields: object) => (issue: { code?: string }) =>
  issue.code === "unrecognized_keys" ? `only ${Object.keys(fields).join(", ")} are known` : undefined;
export const KeyEntry = z.strictObject(keyFields, { error: onlyKnown(keyFields) });
export type KeyEntry = z.output<typeof KeyEntry>;

const KeysFile = z.strictObject({ keys: z.array(KeyEntry).max(maxKeys) }, { error: onlyKnown({ keys: 0 }) });

/** The entries in a file's text. Throws an Error that names the field. */
export function parseKeysFile(text: string): KeyEntry[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // Not the parser's words: they quote the file.
    throw new Error("not valid JSON");
  }
  const parsed = KeysFile.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new Error(`${fieldPath(issue?.path ?? []) || "the file"}: ${issue?.message ?? "invalid"}`);
  }
  for (const field of ["name", "sha256"] as const) {
    const seen = new Map<string, number>();
    for (const [index, entry] of parsed.data.keys.entries()) {
      const earlier = seen.get(entry[field]);
      if (earlier !== undefined) throw new Error(`keys[${index}].${field}: the same as of keys[${earlier}]`);
      seen.set(entry[field], index);
    }
  }
  return parsed.data.keys;
}

function fieldPath(path: readonly PropertyKey[]): string {
  return path.map((part, index) => (typeof part === "number" ? `[${part}]` : `${index > 0 ? "." : ""}${String(part)}`)).join("");
}

/** A new key, to be shown once. The prefix lets secret scanners find one that was committed or pasted. */
export function createKey(): string {
  return `sk-pelagic-${randomBytes(32).toString("base64url")}`;
}

export function hashKey(key: string): string {
  return createHash("sha256").update(key).digest("hex");
}

/** Who sent a request, and what they may. */
export interface Caller {
  /** Of the key; null where there are none: anyone may ask. */
  name: string | null;
  /** Identifies the key where its use is counted; null where nothing is. */
  id: string | null;
  /** Who shares cached blocks. */
  isolation: string;
  /** null: all. */
  models: ReadonlySet<string> | null;
  limits: { requestsPerMinute?: number; tokensPerMinute?: number; maxConcurrent?: number };
  /** Of a request that asks for none. */
  priority: PriorityClass;
  /** The best that a request may ask for. */
  bestPriority: PriorityClass;
}

/** Without a keys file: the laptop. */
export const anyone: Caller = {
  name: null,
  id: null,
  isolation: "",
  models: null,
  limits: {},
  priority: "normal",
  bestPriority: "high",
};

/** The keys of one file. */
export class KeyRing {
  /** Looked up by a hash that nobody outside can compute, so that the time which a lookup takes says nothing about any key. */
  private readonly secret = randomBytes(32);
  private readonly found = new Map<string, { hash: Buffer; caller: Caller }>();
  readonly ids: ReadonlySet<string>;

  constructor(entries: readonly KeyEntry[]) {
    for (const entry of entries) {
      const hash = Buffer.from(entry.sha256, "hex");
      this.found.set(this.blind(hash), { hash, caller: callerOf(entry) });
    }
    this.ids = new Set(entries.map(({ sha256 }) => sha256));
  }

  get size(): number {
    return this.found.size;
  }

  /** null: no such key. */
  find(key: string): Caller | null {
    if (key.length > maxKeyCharacters) return null;
    const hash = createHash("sha256").update(key).digest();
    const one = this.found.get(this.blind(hash));
    return one !== undefined && timingSafeEqual(one.hash, hash) ? one.caller : null;
  }

  private blind(hash: Buffer): string {
    return createHmac("sha256", this.secret).update(hash).digest("base64");
  }
}

function callerOf(entry: KeyEntry): Caller {
  const { requestsPerMinute, tokensPerMinute, maxConcurrent } = entry;
  return {
    name: entry.name,
    id: entry.sha256,
    // By its hash and not its name: a name may be given to somebody else once its key is revoked.
    isolation: entry.cacheGroup === undefined ? `key:${entry.sha256}` : `group:${entry.cacheGroup}`,
    models: entry.models ? new Set(entry.models) : null,
    limits: {
      ...(requestsPerMinute && { requestsPerMinute }),
      ...(tokensPerMinute && { tokensPerMinute }),
      ...(maxConcurrent && { maxConcurrent }),
    },
    priority: entry.priority,
    bestPriority: entry.priority,
  };
}
