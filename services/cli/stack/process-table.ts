// Processes by pid and start time: a pid alone may have been given to somebody else's process since.
import { readFileSync } from "node:fs";

export interface ProcessIdentity {
  pid: number;
  /** Clock ticks after boot, from /proc; null where it could not be read. */
  startTime: string | null;
}

export function identifyProcess(pid: number): ProcessIdentity {
  return { pid, startTime: readStat(pid)?.startTime ?? null };
}

/** False also for a zombie: it holds nothing any more, its parent only has not asked yet. */
export function isRunning(identity: ProcessIdentity): boolean {
  const stat = readStat(identity.pid);
  return stat !== undefined && stat.startTime === identity.startTime && stat.state !== "Z";
}

/** Signals exactly this process; false where it is gone. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isRunning(identity)) return false;
  try {
    return process.kill(identity.pid, signal);
  } catch {
    return false;
  }
}

/** True once it is gone, false at the bound. */
export async function waitUntilGone(identity: ProcessIdentity, boundMs: number): Promise<boolean> {
  for (const deadline = performance.now() + boundMs; isRunning(identity); ) {
    if (performance.now() >= deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

function readStat(pid: number): { state: string; startTime: string } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the command's name in parentheses and may hold anything: count from its end.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { state: fields[0] as string, startTime: fields[19] as string };
  } catch {
    return undefined;
  }
}
