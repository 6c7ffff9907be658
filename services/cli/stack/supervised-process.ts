// One child of the supervisor: started, watched, started again with growing pauses when it dies, stopped within a bound.
// It never outlives the supervisor: the kernel kills it (setpriv --pdeathsig), and a Node child also ends when its stdin closes.
import { spawn, type ChildProcess } from "node:child_process";
import { appendFileSync, closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { findOnPath } from "../run-command.ts";
import { identifyProcess, type ProcessIdentity } from "./process-table.ts";

export interface ProcessSpec {
  name: string;
  command: string;
  /** Asked for at each start: a restart may need other values than the first start. */
  args: () => string[];
  env: () => Record<string, string>;
  logFile: string;
  onStdoutLine?: (line: string) => void;
}

export interface ProcessEvents {
  /** Also after each restart. */
  onStarted(): void;
  /** Died by itself; it is started again after the pause. */
  onDied(how: string, restartInMs: number): void;
  /** Died too often: it stays down. */
  onGivenUp(how: string): void;
}

export interface RestartPolicy {
  /** This many deaths within the window are mended. */
  deaths: number;
  windowMs: number;
  firstPauseMs: number;
  longestPauseMs: number;
}

export const defaultRestartPolicy: RestartPolicy = { deaths: 5, windowMs: 60_000, firstPauseMs: 100, longestPauseMs: 5_000 };

/** The pause before the next start after these deaths (ascending times), or null: no more. Pure. */
export function restartPauseMs(deathTimesMs: number[], nowMs: number, policy: RestartPolicy): number | null {
  const recent = deathTimesMs.filter((time) => nowMs - time < policy.windowMs).length;
  if (recent > policy.deaths) return null;
  return Math.min(policy.firstPauseMs * 2 ** Math.max(0, recent - 1), policy.longestPauseMs);
}

const afterKillMs = 2_000;

export class SupervisedProcess {
  readonly name: string;
  readonly logFile: string;
  private readonly spec: ProcessSpec;
  private readonly events: ProcessEvents;
  private readonly policy: RestartPolicy;
  private child: ChildProcess | undefined;
  private current: ProcessIdentity | undefined;
  private deathTimesMs: number[] = [];
  private restartTimer: NodeJS.Timeout | undefined;
  private stopping = false;
  /** Until the whole stack runs, a death is a failure of the start, not something to mend. */
  restarts = false;

  constructor(spec: ProcessSpec, events: ProcessEvents, policy: RestartPolicy = defaultRestartPolicy) {
    this.name = spec.name;
    this.logFile = spec.logFile;
    this.spec = spec;
    this.events = events;
    this.policy = policy;
  }

  /** Undefined while it is down. */
  get identity(): ProcessIdentity | undefined {
    return this.current;
  }

  start(): void {
    const [command, ...args] = [...dieWithParent(), this.spec.command, ...this.spec.args()] as [string, ...string[]];
    const log = openSync(this.logFile, "a", 0o600);
    try {
      // A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops things in order.
      this.child = spawn(command, args, { env: { ...process.env, ...this.spec.env() }, stdio: ["pipe", "pipe", log], detached: true });
    } finally {
      closeSync(log);
    }
    const { child } = this;
    // Writes of ours to a stdin that closed; there are none, but an unheard error event would end the supervisor.
    child.stdin?.on("error", () => undefined);
    this.readStdout(child);
    let ended = false;
    const onEnd = (how: string) => {
      if (ended) return;
      ended = true;
      this.onEnd(how);
    };
    child.on("error", (error) => onEnd(`could not start: ${error.message}`));
    child.on("exit", (code, signal) => onEnd(signal === null ? `exited with ${code}` : `killed by ${signal}`));
    if (child.pid === undefined) return;
    this.current = identifyProcess(child.pid);
    this.events.onStarted();
  }

  kill(signal: NodeJS.Signals): void {
    this.child?.kill(signal);
  }

  /** SIGTERM, then after the bound SIGKILL. */
  async stop(boundMs: number): Promise<void> {
    this.stopping = true;
    clearTimeout(this.restartTimer);
    const { child } = this;
    if (!child || this.current === undefined) return;
    await new Promise<void>((resolve) => {
      const killTimer = setTimeout(() => child.kill("SIGKILL"), boundMs);
      // Not even a kill ends a process in an uninterruptible wait; nor do we wait for that.
      const giveUpTimer = setTimeout(resolve, boundMs + afterKillMs);
      child.once("exit", () => {
        clearTimeout(killTimer);
        clearTimeout(giveUpTimer);
        resolve();
      });
      child.kill("SIGTERM");
    });
  }

  /** The end of its log, for an error message. */
  logTail(lines: number): string[] {
    if (!existsSync(this.logFile)) return [];
    return readFileSync(this.logFile, "utf8").trimEnd().split("\n").slice(-lines);
  }

  private onEnd(how: string): void {
    this.current = undefined;
    if (this.stopping) return;
    const nowMs = performance.now();
    this.deathTimesMs.push(nowMs);
    const pauseMs = this.restarts ? restartPauseMs(this.deathTimesMs, nowMs, this.policy) : null;
    if (pauseMs === null) {
      this.events.onGivenUp(how);
      return;
    }
    this.events.onDied(how, pauseMs);
    this.restartTimer = setTimeout(() => this.start(), pauseMs);
  }

  private readStdout(child: ChildProcess): void {
    let rest = "";
    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() as string;
      for (const line of lines) {
        appendFileSync(this.logFile, `${line}\n`);
        this.spec.onStdoutLine?.(line);
      }
    });
  }
}

let setpriv: string | null | undefined;

/** Debian's util-linux has it always; without it, `down` still finds what a killed supervisor left. */
function dieWithParent(): string[] {
  setpriv ??= findOnPath("setpriv") ?? null;
  return setpriv === null ? [] : [setpriv, "--pdeathsig", "KILL", "--"];
}
