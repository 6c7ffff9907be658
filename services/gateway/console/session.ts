// The console's key, and the cookie that stands for it: an end of validity under a MAC by the key, so that every gateway with the same key knows
// it and none keeps a list.
import { createHash, createHmac, timingSafeEqual } from "node:crypto";

export const sessionCookie = "pelagic-console";
export const sessionSeconds = 12 * 3600;

export function isKey(given: string, key: string): boolean {
  // Digests have equal lengths, which the comparison needs and which says nothing about the key's.
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(key));
}

export function sessionValue(key: string, nowSeconds: number): string {
  const until = Math.floor(nowSeconds) + sessionSeconds;
  return `${until}.${mac(key, until)}`;
}

/** Whether a request with this Cookie header may look. */
export function hasSession(cookies: string | undefined, key: string, nowSeconds: number): boolean {
  for (const cookie of (cookies ?? "").split(";")) {
    const value = /^\s*pelagic-console=(\d{1,12})\.([0-9a-f]{64})\s*$/.exec(cookie);
    if (value === null) continue;
    const until = Number(value[1]);
    if (until > nowSeconds && timingSafeEqual(Buffer.from(value[2] as string), Buffer.from(mac(key, until)))) return true;
  }
  return false;
}

function mac(key: string, until: number): string {
  return createHmac("sha256", key).update(`pelagic console until ${until}`).digest("hex");
}
