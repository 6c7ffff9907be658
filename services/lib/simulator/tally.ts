// What many runs together say: how often each fault struck at each point, how requests ended, what was violated.
import type { ProtocolPoint } from "./protocol-points.ts";
import type { RunResult } from "./run.ts";
import { faultKinds, struckPoints } from "./scenario.ts";

export class Tally {
  runs = 0;
  messages = 0;
  simulatedMs = 0;
  resumes = 0;
  readonly outcomes: Record<string, number> = {};
  readonly failures: { seed: number; violations: string[] }[] = [];
  private readonly strikes = new Map<string, number>();
  private hash = 0;

  add(result: RunResult): void {
    this.runs++;
    this.messages += result.messages;
    this.simulatedMs += result.simulatedMs;
    this.resumes += result.resumes;
    for (const [outcome, count] of Object.entries(result.outcomes)) this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + count;
    for (const { point, kind } of result.struck) {
      const pair = `${point}/${kind}`;
      this.strikes.set(pair, (this.strikes.get(pair) ?? 0) + 1);
    }
    if (result.violations.length > 0) this.failures.push({ seed: result.seed, violations: result.violations });
    // In any order.
    this.hash = (this.hash + Number.parseInt(result.historyHash, 16)) >>> 0;
  }

  /** Equal where all runs were. */
  get historyHash(): string {
    return this.hash.toString(16);
  }

  struck(point: ProtocolPoint, kind: (typeof faultKinds)[number]): number {
    return this.strikes.get(`${point}/${kind}`) ?? 0;
  }

  /** Pairs that were struck fewer times. */
  rarerThan(times: number): string[] {
    return struckPoints.flatMap((point) => faultKinds.filter((kind) => this.struck(point, kind) < times).map((kind) => `${point}/${kind}`));
  }

  coverage(): Record<string, Record<string, number>> {
    return Object.fromEntries(
      struckPoints.map((point) => [point, Object.fromEntries(faultKinds.map((kind) => [kind, this.struck(point, kind)]))]),
    );
  }
}
