// The time lines of the last requests, for ./pelagic trace and the console.
import type { RequestTimeline } from "../lib/contracts/timeline.ts";

const kept = 1_000;

export class RecentRequests {
  private readonly timelines: RequestTimeline[] = [];

  add(timeline: RequestTimeline): void {
    this.timelines.push(timeline);
    if (this.timelines.length > kept) this.timelines.shift();
  }

  /** The latest first. */
  list(): RequestTimeline[] {
    return this.timelines.toReversed();
  }

  find(requestId: string): RequestTimeline | undefined {
    return this.timelines.findLast((timeline) => timeline.requestId === requestId);
  }
}
