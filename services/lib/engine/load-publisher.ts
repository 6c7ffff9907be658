// How a worker's tokens of late were shared among experts: for itself over a window, and for the ranks that place experts by it, interval after
// interval on the bus. A step costs nothing more for it: an interval is the difference of two tallies.
import type { Bus, Clock, Log } from "../contracts/bus.ts";
import type { ExpertLoad } from "../contracts/messages.ts";
import { packCounts } from "../contracts/packed-counts.ts";
import { encodeMessage } from "../contracts/wire.ts";
import { ExpertLoadWindow } from "../expert-load/window.ts";
import type { ExpertTally } from "./expert-tally.ts";

/** A message of DeepSeek-V3's takes 30 kB. */
export const loadIntervalMs = 5_000;
/** Five minutes are kept, and tokens count half after one. */
export const loadWindow = { intervals: 60, halfLife: 12 };

export interface LoadPublisherOptions {
  bus: Bus;
  subject: string;
  clock: Clock;
  log: Log;
  tally: ExpertTally;
  about: Omit<ExpertLoad, "v" | "interval">;
}

export class LoadPublisher {
  readonly window: ExpertLoadWindow;
  private readonly options: LoadPublisherOptions;
  private before: Float64Array;
  private interval = 0;
  private cancelTimer: () => void = () => {};

  constructor(options: LoadPublisherOptions) {
    this.options = options;
    const counts = options.about.moeLayers * options.about.logicalExperts;
    this.window = new ExpertLoadWindow({ counts, ...loadWindow });
    this.before = new Float64Array(counts);
    this.wait();
  }

  /** Tokens of late, old ones counting less; what came since the last interval included. */
  late(): Float64Array {
    const late = this.window.decayed();
    const { totals } = this.options.tally;
    for (let i = 0; i < totals.length; i++) (late[i] as number) += (totals[i] as number) - (this.before[i] as number);
    return late;
  }

  stop(): void {
    this.cancelTimer();
  }

  private wait(): void {
    this.cancelTimer = this.options.clock.setTimer(loadIntervalMs, () => {
      this.close();
      this.wait();
    });
  }

  private close(): void {
    const { bus, subject, tally, about, log } = this.options;
    const interval = this.interval++;
    const { totals, before } = { totals: tally.totals, before: this.before };
    const came = totals.length > 0 ? totals.map((total, i) => total - (before[i] as number)) : before;
    if (totals.length > 0) this.before = totals.slice();
    this.window.add(came);
    this.window.close();
    if (!bus.connected || came.every((count) => count === 0)) return;
    try {
      bus.publish(subject, encodeMessage({ ...about, interval }, packCounts(came)));
    } catch (error) {
      log.warn({ error: String(error) }, "expert loads not sent");
    }
  }
}
