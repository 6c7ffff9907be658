const boundsMs = { least: 1_000, most: 60_000 };

/** What a client is told to wait: neither so little that it makes the load, nor so long that it gives up for good. */
export function retryAfter(foreseenMs: number): number {
  return Math.min(Math.max(foreseenMs, boundsMs.least), boundsMs.most);
}
