// What a key may use: requests and tokens a minute as token buckets, and requests at once. Counted in each gateway for itself: nothing is asked
// of anyone while a request waits, and n gateways together allow up to n times as much. Pure; times come in.

/** Full at the start, refilled evenly, never above its limit. May be overdrawn: what an answer took is known only at its end. */
export class Bucket {
  perMinute: number;
  private level: number;
  private atMs: number;

  constructor(perMinute: number, nowMs: number) {
    this.perMinute = perMinute;
    this.level = perMinute;
    this.atMs = nowMs;
  }

  private refill(nowMs: number): number {
    this.level = Math.min(this.perMinute, this.level + (Math.max(0, nowMs - this.atMs) / 60_000) * this.perMinute);
    this.atMs = Math.max(this.atMs, nowMs);
    return this.level;
  }

  remaining(nowMs: number): number {
    return Math.max(0, Math.floor(this.refill(nowMs)));
  }

  /** Until so much is there; 0: now. Infinite for more than there ever is. */
  waitMs(amount: number, nowMs: number): number {
    if (amount > this.perMinute) return Number.POSITIVE_INFINITY;
    return this.untilMs(amount, nowMs);
  }

  /** Until it is full. */
  resetMs(nowMs: number): number {
    return this.untilMs(this.perMinute, nowMs);
  }

  private untilMs(amount: number, nowMs: number): number {
    return Math.max(0, ((amount - this.refill(nowMs)) / this.perMinute) * 60_000);
  }

  /** A negative amount gives back. */
  take(amount: number, nowMs: number): void {
    this.level = Math.min(this.perMinute, this.refill(nowMs) - amount);
  }

  /** The file says otherwise now: what was used stays used. */
  resize(perMinute: number, nowMs: number): void {
    this.level = this.refill(nowMs) + perMinute - this.perMinute;
    this.perMinute = perMinute;
  }
}

export interface Limits {
  requestsPerMinute?: number;
  tokensPerMinute?: number;
  maxConcurrent?: number;
}

/** Looking at all of a key's answers takes time, where they are many. */
const catchUpMs = 250;

/** What one key uses. */
export class Usage {
  running = 0;
  /** Of each answer that runs: takes what it has become longer than was reserved for it. */
  readonly growing = new Set<() => void>();
  private caughtUpMs = Number.NEGATIVE_INFINITY;
  requests: Bucket | null = null;
  tokens: Bucket | null = null;

  /** Many long answers at once are not to be seen at their ends only, when as many again were let in. */
  catchUp(nowMs: number): void {
    if (nowMs - this.caughtUpMs < catchUpMs) return;
    this.caughtUpMs = nowMs;
    for (const grow of this.growing) grow();
  }

  apply(limits: Limits, nowMs: number): void {
    this.requests = resized(this.requests, limits.requestsPerMinute, nowMs);
    this.tokens = resized(this.tokens, limits.tokensPerMinute, nowMs);
  }

  headers(nowMs: number): Record<string, string> {
    const of = (bucket: Bucket | null, what: string): [string, string][] =>
      bucket === null
        ? []
        : [
            [`x-ratelimit-limit-${what}`, String(bucket.perMinute)],
            [`x-ratelimit-remaining-${what}`, String(bucket.remaining(nowMs))],
            [`x-ratelimit-reset-${what}`, duration(bucket.resetMs(nowMs))],
          ];
    return Object.fromEntries([...of(this.requests, "requests"), ...of(this.tokens, "tokens")]);
  }
}

function resized(bucket: Bucket | null, perMinute: number | undefined, nowMs: number): Bucket | null {
  if (perMinute === undefined) return null;
  if (bucket === null) return new Bucket(perMinute, nowMs);
  if (bucket.perMinute !== perMinute) bucket.resize(perMinute, nowMs);
  return bucket;
}

/** As OpenAI writes them: 0s, 20ms, 1.5s, 6m0s. */
export function duration(ms: number): string {
  const whole = Math.ceil(ms);
  if (whole > 0 && whole < 1_000) return `${whole}ms`;
  const minutes = Math.floor(whole / 60_000);
  const seconds = (whole - minutes * 60_000) / 1_000;
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`;
}
