// The time lines of the last requests, for ./pelagic trace and the console. Few are ever looked at: each is made when it is asked for.
import type { RequestTimeline } from "../lib/contracts/timeline.ts";

const kept = 1_000;

export class RecentRequests {
  private readonly requests: { requestId: string; timeline: () => RequestTimeline }[] = [];

  add(requestId: string, timeline: () => RequestTimeline): void {
    this.requests.push({ requestId, timeline });
    if (this.requests.length > kept) this.requests.shift();
  }

  /** The latest first. */
  list(): RequestTimeline[] {
    return this.requests.map(({ timeline }) => timeline()).reverse();
  }

  find(requestId: string): RequestTimeline | undefined {
    return this.requests.findLast((one) => one.requestId === requestId)?.timeline();
  }
}
