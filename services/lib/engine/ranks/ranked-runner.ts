// The runner of one of several ranks: its steps need the others. A step that a lost rank has ended is made again in the next group: it writes
// the same bits to the same rows.
import { PelagicError } from "../../contracts/errors.ts";
import type { ModelRunner, NativeRunner, RunOptions, RunResult, SequenceWork } from "../model-runner.ts";
import type { PlacementState, RankCounters, RankLoss } from "../native.ts";
import type { RankMember } from "./rank-member.ts";

/** A step waits so long for a group; then its requests go elsewhere. */
const groupWaitMs = 10_000;
/** As often a step is begun that groups do not survive. */
const maxAttempts = 10;

export class RankedRunner implements ModelRunner {
  readonly info: NativeRunner["info"];
  readonly rowBytes: number;
  readonly rankGroup: string;
  private readonly runner: NativeRunner;
  private member: RankMember | undefined;
  /** Of the rank that leads: how evenly the group's tokens of late are shared, by MoE layer. */
  balancedness: () => number[] | undefined = () => undefined;
  private onClose: () => void = () => {};
  private last: Promise<unknown> = Promise.resolve();

  constructor(runner: NativeRunner, rankGroup: string) {
    this.runner = runner;
    this.rankGroup = rankGroup;
    this.info = runner.info;
    this.rowBytes = runner.rowBytes;
  }

  /** Before the first step. onClose: with the member. */
  setMember(member: RankMember, onClose: () => void = () => {}): void {
    this.member = member;
    this.onClose = onClose;
  }

  /** Why no step can be made for a while; undefined: it can, or soon. */
  get pausedBecause(): string | undefined {
    return this.member?.pausedBecause;
  }

  /** Of its group, where this rank leads it; returns why it does not, if so. */
  placeExperts(layers: number[][]): string | undefined {
    const { planInForce } = this.runner;
    return this.member?.decidePlan({ ...planInForce, version: planInForce.version + 1, layers });
  }

  get placement(): PlacementState {
    return this.runner.placementState;
  }

  get counters(): RankCounters {
    return this.runner.rankCounters;
  }

  get groupMembers(): number {
    return this.member?.groupMembers ?? 0;
  }

  async run(work: readonly SequenceWork[], options: RunOptions = {}): Promise<RunResult[]> {
    const { member } = this;
    if (member === undefined) throw new Error("the runner of a rank has no group to belong to");
    let reported = -1;
    const { onLayer } = options;
    const attempt: RunOptions = onLayer
      ? {
          ...options,
          onLayer: (layer) => {
            if (layer <= reported) return;
            reported = layer;
            onLayer(layer);
          },
        }
      : options;
    for (let attempts = 1; ; attempts++) {
      const round = await member.joined(groupWaitMs);
      try {
        return await this.exclusive(() => this.runner.run(work, attempt));
      } catch (error) {
        if ((error as { code?: unknown }).code !== "rank-lost") throw error;
        member.lost(round, error as RankLoss);
        if (attempts === maxAttempts) throw new PelagicError("worker_lost", (error as Error).message);
      }
    }
  }

  /** One native call at a time: a step, or a meeting. */
  exclusive<T>(call: () => Promise<T>): Promise<T> {
    const result = this.last.then(call);
    this.last = result.catch(() => undefined);
    return result;
  }

  packRows(...args: Parameters<ModelRunner["packRows"]>): bigint {
    return this.runner.packRows(...args);
  }

  packFrame(...args: Parameters<ModelRunner["packFrame"]>): void {
    this.runner.packFrame(...args);
  }

  unpackFrame(...args: Parameters<ModelRunner["unpackFrame"]>): boolean {
    return this.runner.unpackFrame(...args);
  }

  xxh64(data: Uint8Array): bigint {
    return this.runner.xxh64(data);
  }

  async close(): Promise<void> {
    this.onClose();
    this.member?.stop();
    await this.runner.close();
  }
}
