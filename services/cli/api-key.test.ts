import { expect, test } from "vitest";
import { keyFor } from "./api-key.ts";

test("each server gets its own key and no other", () => {
  const env = { OPENAI_API_KEY: "theirs", PELAGIC_API_KEY: "ours" };
  expect(keyFor(undefined, env)).toBe("ours");
  expect(keyFor("http://host:8000/v1", env)).toBe("theirs");
  expect(keyFor(undefined, { OPENAI_API_KEY: "theirs" })).toBeUndefined();
  expect(keyFor("http://host:8000/v1", { PELAGIC_API_KEY: "ours", OPENAI_API_KEY: "" })).toBeUndefined();
});
