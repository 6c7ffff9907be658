// What may arrive at a port that is open to the world: each is answered within a bound, with one of the statuses that are right for it.
import type { Attack, Target } from "./attack.ts";
import { bodyAttacks } from "./attack-bodies.ts";
import { connectionAttacks } from "./attack-connections.ts";
import { headAttacks } from "./attack-heads.ts";
import { memoryAttacks } from "./attack-memory.ts";

export interface AttackReport {
  attacks: number;
  faults: { attack: string; fault: string }[];
  slowest: { seconds: number; attack: string }[];
}

const lanes = 4;
const keptSlowest = 8;

export async function runAttacks(target: Target, onProgress: (text: string) => void): Promise<AttackReport> {
  const together = [...headAttacks, ...bodyAttacks(), ...connectionAttacks];
  const report: AttackReport = { attacks: together.length + memoryAttacks.length, faults: [], slowest: [] };
  await runInLanes(together, lanes, target, report);
  await runInLanes(memoryAttacks, 1, target, report);
  onProgress(`${report.attacks} attacks, ${report.faults.length} faults`);
  return report;
}

async function runInLanes(attacks: readonly Attack[], width: number, target: Target, report: AttackReport): Promise<void> {
  let next = 0;
  const lane = async () => {
    for (let attack = attacks[next++]; attack !== undefined; attack = attacks[next++]) {
      const begunMs = performance.now();
      const fault = await attack.run(target).catch((error: unknown) => `the attack itself failed: ${String(error)}`);
      report.slowest.push({ seconds: Math.round(performance.now() - begunMs) / 1000, attack: attack.name });
      report.slowest.sort((a, b) => b.seconds - a.seconds).splice(keptSlowest);
      if (fault !== null) report.faults.push({ attack: attack.name, fault });
    }
  };
  await Promise.all(Array.from({ length: width }, lane));
}
