import { expect, test } from "vitest";
import { sharedDigest } from "./load.ts";

test("ranks share experts only with those that compute the same weights in the same way", () => {
  const [model, other, engine] = ["00".repeat(32), "11".repeat(32), "22".repeat(32)];
  const digest = sharedDigest(model, engine, {});
  expect(digest).toMatch(/^[0-9a-f]{64}$/);
  expect(sharedDigest(model, engine, { backend: "cpu" })).toBe(digest);
  const cuda = sharedDigest(model, engine, { backend: "cuda" });
  expect(sharedDigest(model, engine, { backend: "cuda", weightDtype: "bfloat16" })).toBe(cuda);
  const all = [
    digest,
    sharedDigest(other, engine, {}),
    sharedDigest(model, other, {}),
    cuda,
    sharedDigest(model, engine, { backend: "cuda", weightDtype: "fp8" }),
  ];
  expect(new Set(all).size).toBe(all.length);
});
