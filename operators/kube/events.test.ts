import { describe, expect, it } from "vitest";
import { noteOf } from "./events.ts";

describe("an event's note", () => {
  it("has no more bytes than the API server takes, and whole characters", () => {
    for (const character of ["a", "é", "…", "🐟"]) {
      const note = noteOf(`${"x".repeat(3)}${character.repeat(2000)}`);
      expect(Buffer.byteLength(note)).toBeLessThanOrEqual(1024);
      expect(Buffer.byteLength(note)).toBeGreaterThan(1000);
      expect(note.replaceAll(character, "")).toBe("xxx");
    }
    expect(noteOf("short")).toBe("short");
  });
});
