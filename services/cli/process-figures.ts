// What a process of this machine has used so far, from /proc.
import { readFileSync, writeFileSync } from "node:fs";

/** Processor time so far, in hundredths of a second as the kernel counts. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Peak and present resident memory in bytes. */
export function residentBytes(pid: number): { peak: number; now: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1]);
  return { peak: field("VmHWM"), now: field("VmRSS") };
}

/** From here the peak counts anew. */
export function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}
