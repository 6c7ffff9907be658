// What the tokens of all ranks of a group asked of its experts, heard on the bus by the rank that decides for the group, and by no other: of a large
// group each says 6 kB a second.
import type { Bus, BusSubscription, Clock } from "../../contracts/bus.ts";
import { ExpertLoad } from "../../contracts/messages.ts";
import { unpackCounts } from "../../contracts/packed-counts.ts";
import { decodeMessage } from "../../contracts/wire.ts";
import { ExpertLoadWindow } from "../../expert-load/window.ts";
import { loadIntervalMs, loadWindow } from "../load-publisher.ts";

/** Of so many workers the last interval is remembered: who is new each time it starts would fill memory otherwise. */
const maxWorkers = 4_096;

export interface GroupLoadOptions {
  bus: Bus;
  clock: Clock;
  /** All workers' ExpertLoads. */
  subject: string;
  rankGroup: string;
  modelDigest: string;
  moeLayers: number;
  logicalExperts: number;
}

export class GroupLoad {
  private readonly options: GroupLoadOptions;
  private heard: ExpertLoadWindow | undefined;
  /** The last interval of each worker; who was heard last stands last. */
  private readonly last = new Map<string, Pick<ExpertLoad, "instanceId" | "interval">>();
  private subscription: BusSubscription | undefined;
  private cancelTimer: () => void = () => {};

  constructor(options: GroupLoadOptions) {
    this.options = options;
  }

  /** While it listens; begins empty each time. */
  get window(): ExpertLoadWindow | undefined {
    return this.heard;
  }

  listen(wanted: boolean): void {
    if (wanted === (this.heard !== undefined)) return;
    this.subscription?.unsubscribe();
    this.cancelTimer();
    this.last.clear();
    this.heard = undefined;
    if (!wanted) return;
    const { bus, subject, moeLayers, logicalExperts } = this.options;
    const window = new ExpertLoadWindow({ counts: moeLayers * logicalExperts, ...loadWindow });
    this.heard = window;
    this.subscription = bus.subscribe(subject, ({ data }) => this.hear(window, data));
    this.wait(window);
  }

  private hear(window: ExpertLoadWindow, data: Uint8Array): void {
    const { body, tokens } = decodeMessage(ExpertLoad, data);
    const { options } = this;
    if (body.rankGroup !== options.rankGroup || body.modelDigest !== options.modelDigest) return;
    const last = this.last.get(body.workerId);
    if (last?.instanceId === body.instanceId && body.interval <= last.interval) return;
    window.add(unpackCounts(tokens, options.moeLayers * options.logicalExperts));
    this.last.delete(body.workerId);
    this.last.set(body.workerId, { instanceId: body.instanceId, interval: body.interval });
    if (this.last.size > maxWorkers) this.last.delete(this.last.keys().next().value as string);
  }

  private wait(window: ExpertLoadWindow): void {
    this.cancelTimer = this.options.clock.setTimer(loadIntervalMs, () => {
      window.close();
      this.wait(window);
    });
  }
}
