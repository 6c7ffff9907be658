// Which models a gateway that learns them knows, from what workers say of themselves: what to learn and from whom, what to serve, what to forget.
// No bus and no clock: workers and times come in, so equal histories give equal catalogues.
import type { WorkerView } from "./state-view.ts";

/** A name and the small files behind it: a model that changes under its name is another build. */
export interface Build {
  name: string;
  filesDigest: string;
}

export interface CatalogueLimits {
  /** Builds that are served or being learned, at most. */
  maxBuilds: number;
  /** Learned at a time, at most. */
  maxLearning: number;
  /** A build of which no worker was heard for so long is forgotten. */
  keepMs: number;
  /** The same where another build of its name has a worker: it was replaced. */
  keepReplacedMs: number;
  /** Before a build that could not be had is tried again; twice as long each time, up to the second. */
  retryMs: number;
  maxRetryMs: number;
}

/** Why a build could not be learned. The sender's: only that worker is not asked again. The content's: nobody is. Neither: perhaps later. */
export type LearningFault = "sender" | "content" | "unavailable";

type Seen = Pick<WorkerView, "workerId" | "instanceId" | "modelName" | "filesDigest" | "state">;

interface Entry extends Build {
  /** Some worker of it was heard then. */
  seenMs: number;
  phase: "wanted" | "learning" | "served" | "refused";
  /** Why it is not served, for a person. */
  reason: string | null;
  /** Not tried before. */
  notBeforeMs: number;
  failures: number;
  /** Instances that gave other files than they announced, while they are on the bus. */
  liars: Set<string>;
}

export interface CatalogueSteps {
  learn: { build: Build; workerId: string; instanceId: string }[];
  forget: Build[];
}

export class ModelCatalogue {
  private readonly limits: CatalogueLimits;
  private readonly entries = new Map<string, Entry>();
  /** Names of workers that offer no files, or whose name is none: why. */
  private unusable = new Map<string, string>();

  constructor(limits: CatalogueLimits) {
    this.limits = limits;
  }

  /** `workers`: all that are on the bus now. What is told to be learned counts as being learned until `learned` or `failed` says how it went. */
  look(workers: readonly Seen[], nowMs: number): CatalogueSteps {
    const heard = workers.filter(({ state }) => state !== "silent");
    this.refresh(heard, nowMs);
    const forget = this.forget(nowMs);
    this.enter(heard, nowMs);
    return { forget, learn: this.begin(heard, nowMs) };
  }

  learned(build: Build): void {
    const entry = this.entries.get(keyOf(build));
    if (entry === undefined) return;
    entry.phase = "served";
    entry.reason = null;
    entry.failures = 0;
  }

  failed(build: Build, fault: LearningFault, reason: string, instanceId: string, nowMs: number): void {
    const entry = this.entries.get(keyOf(build));
    if (entry === undefined) return;
    entry.reason = reason;
    entry.phase = fault === "content" ? "refused" : "wanted";
    if (fault === "sender") {
      entry.liars.add(instanceId);
      return;
    }
    const { retryMs, maxRetryMs } = this.limits;
    entry.notBeforeMs = nowMs + Math.min(maxRetryMs, retryMs * 2 ** Math.min(30, entry.failures++));
  }

  /** Not served yet, and perhaps soon; also one that the next look will find. */
  isPending(build: Build): boolean {
    const entry = this.entries.get(keyOf(build));
    if (entry === undefined) return this.entries.size < this.limits.maxBuilds;
    return entry.phase === "learning" || (entry.phase === "wanted" && entry.liars.size === 0);
  }

  /** Names that workers have and that are not served: why. */
  missing(): Map<string, string> {
    const served = new Set([...this.entries.values()].filter(({ phase }) => phase === "served").map(({ name }) => name));
    const missing = new Map<string, string>();
    for (const [name, reason] of this.unusable) if (!served.has(name)) missing.set(name, reason);
    for (const { name, reason } of this.entries.values()) if (!served.has(name)) missing.set(name, reason ?? "its files are being fetched");
    return missing;
  }

  /** Also beside builds of the same name that are served. */
  faults(): { name: string; filesDigest: string; reason: string }[] {
    return [...this.entries.values()].flatMap(({ name, filesDigest, reason }) => (reason === null ? [] : [{ name, filesDigest, reason }]));
  }

  /** Nothing that was announced is still to be tried for the first time. */
  get isSettled(): boolean {
    return [...this.entries.values()].every(({ phase, reason }) => phase === "served" || reason !== null);
  }

  private refresh(heard: readonly Seen[], nowMs: number): void {
    for (const { modelName: name, filesDigest } of heard) {
      const known = filesDigest === undefined ? undefined : this.entries.get(keyOf({ name, filesDigest }));
      if (known !== undefined) known.seenMs = nowMs;
    }
    const instances = new Set(heard.map(({ instanceId }) => instanceId));
    for (const { liars } of this.entries.values()) for (const liar of liars) if (!instances.has(liar)) liars.delete(liar);
  }

  private enter(heard: readonly Seen[], nowMs: number): void {
    this.unusable = new Map();
    for (const { workerId, modelName: name, filesDigest } of heard) {
      const fault = nameFault(name);
      if (fault !== null) {
        // The name itself may be anything.
        this.unusable.set(printable(name), fault);
      } else if (filesDigest === undefined) {
        this.unusable.set(name, `${workerId} does not offer the model's files: it is of an older version`);
      } else if (!this.entries.has(keyOf({ name, filesDigest }))) {
        this.add({ name, filesDigest }, nowMs);
      }
    }
  }

  private add(build: Build, nowMs: number): void {
    const { maxBuilds } = this.limits;
    if (this.entries.size >= maxBuilds) {
      this.unusable.set(build.name, `${maxBuilds} models are known already, which is the most`);
      return;
    }
    this.entries.set(keyOf(build), {
      ...build,
      seenMs: nowMs,
      phase: "wanted",
      reason: null,
      notBeforeMs: nowMs,
      failures: 0,
      liars: new Set(),
    });
  }

  private forget(nowMs: number): Build[] {
    const entries = [...this.entries.values()];
    const gone = entries.filter((entry) => {
      const { name, phase, seenMs } = entry;
      const isReplaced = entries.some(
        (other) => other !== entry && other.name === name && other.phase === "served" && other.seenMs === nowMs,
      );
      // What was never served is nobody's loss.
      const keepMs = phase === "served" && !isReplaced ? this.limits.keepMs : this.limits.keepReplacedMs;
      return phase !== "learning" && nowMs - seenMs > keepMs;
    });
    for (const entry of gone) this.entries.delete(keyOf(entry));
    return gone.map(({ name, filesDigest }) => ({ name, filesDigest }));
  }

  private begin(heard: readonly Seen[], nowMs: number): CatalogueSteps["learn"] {
    const learn: CatalogueSteps["learn"] = [];
    let learning = [...this.entries.values()].filter(({ phase }) => phase === "learning").length;
    for (const entry of this.entries.values()) {
      if (learning >= this.limits.maxLearning) break;
      if (entry.phase !== "wanted" || nowMs < entry.notBeforeMs) continue;
      const { name, filesDigest, liars, failures } = entry;
      const able = heard.filter((one) => one.modelName === name && one.filesDigest === filesDigest && !liars.has(one.instanceId));
      const chosen = able[failures % Math.max(1, able.length)];
      if (chosen === undefined) continue;
      entry.phase = "learning";
      learning++;
      learn.push({ build: { name, filesDigest }, workerId: chosen.workerId, instanceId: chosen.instanceId });
    }
    return learn;
  }
}

const maxNameCharacters = 256;

/** null: it may stand in a header, a label and a terminal. As long as a request's `model` may be. */
export function nameFault(name: string): string | null {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused.
  if (name !== "" && name.length <= maxNameCharacters && !/[\u0000-\u001f\u007f"\\]/.test(name)) return null;
  return `no name for a model: 1 to ${maxNameCharacters} characters without quotes and control characters`;
}

function printable(name: string): string {
  return JSON.stringify(name.slice(0, 64));
}

export function keyOf({ name, filesDigest }: Build): string {
  return `${filesDigest} ${name}`;
}
