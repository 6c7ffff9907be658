import { expect, test } from "vitest";
import { sharedDigest } from "./load.ts";

test("ranks share experts only with those that compute the same weights in the same way", () => {
  const [model, other] = ["00".repeat(32), "11".repeat(32)];
  const digest = sharedDigest(model, {});
  expect(digest).toMatch(/^[0-9a-f]{64}$/);
  expect(sharedDigest(model, { backend: "cpu" })).toBe(digest);
  const cuda = sharedDigest(model, { backend: "cuda" });
  expect(sharedDigest(model, { backend: "cuda", weightDtype: "bfloat16" })).toBe(cuda);
  const all = [digest, sharedDigest(other, {}), cuda, sharedDigest(model, { backend: "cuda", weightDtype: "fp8" })];
  expect(new Set(all).size).toBe(all.length);
});
