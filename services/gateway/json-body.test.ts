import type { IncomingMessage } from "node:http";
import { PassThrough } from "node:stream";
import { describe, expect, test } from "vitest";
import { ByteBudget, readJsonBody } from "./json-body.ts";

const mebibyte = 1024 * 1024;

/** Of this caller, who has sent so much of a body. */
function upload(budget: ByteBudget, caller: string, bytes: number, slowMs?: number) {
  const request = Object.assign(new PassThrough({ highWaterMark: 64 * mebibyte }), { headers: { "content-type": "application/json" } });
  const body = readJsonBody(request as unknown as IncomingMessage, { maxBytes: 16 * mebibyte, budget, caller, slowMs });
  body.catch(() => undefined);
  request.write(`{"a":"${"x".repeat(bytes)}`);
  return { request, body };
}
const arrived = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

describe("bodies that are being sent", () => {
  test("of one caller leave room for others, however many they are", async () => {
    const budget = new ByteBudget(64 * mebibyte);
    const slow = Array.from({ length: 9 }, () => upload(budget, "flood", 15 * mebibyte));
    await arrived();
    expect(budget.usedBytes).toBeGreaterThan(30 * mebibyte);
    expect(budget.usedBytes).toBeLessThan(52 * mebibyte);
    const other = upload(budget, "other", 100_000);
    other.request.end('"}');
    expect((await other.body).body).toHaveProperty("a");
    for (const { request } of slow) request.destroy();
    const results = await Promise.allSettled(slow.map(({ body }) => body));
    const codes = new Set(results.map((result) => (result as { reason: { code: string } }).reason.code));
    expect(codes).toEqual(new Set(["cancelled", "overloaded"]));
    (await other.body).release();
    expect(budget.usedBytes).toBe(0);
  });

  test("are refused where much of them is here and no more comes; the connection stays for the answer", async () => {
    const budget = new ByteBudget(64 * mebibyte);
    const { request, body } = upload(budget, "slow", mebibyte, 20);
    await expect(body).rejects.toMatchObject({ code: "invalid_request", message: expect.stringContaining("too slowly") });
    expect(budget.usedBytes).toBe(0);
    expect(request.destroyed).toBe(false);
  });

  test("are waited for where they hold little", async () => {
    const { request, body } = upload(new ByteBudget(mebibyte), "slow", 1_000, 1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    request.end('"}');
    expect((await body).body).toHaveProperty("a");
  });
});
