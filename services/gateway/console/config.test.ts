import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { consoleSettings, isLoopback } from "./config.ts";

const dir = mkdtempSync(join(tmpdir(), "pelagic-console-"));
afterAll(() => rmSync(dir, { recursive: true }));
const file = (name: string, text: string) => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};

describe("who may see the console", () => {
  it("nobody, unless it is on", () => {
    expect(consoleSettings({ console: "off", host: "127.0.0.1" })).toBeNull();
  });

  it("this machine without a key, others with one only", () => {
    expect(consoleSettings({ console: "on", host: "127.0.0.1" })).toEqual({});
    expect(() => consoleSettings({ console: "on", host: "0.0.0.0" })).toThrow("PELAGIC_CONSOLE_KEY_FILE");
    const consoleKeyFile = file("key", "correct horse battery\n");
    expect(consoleSettings({ console: "on", host: "0.0.0.0", consoleKeyFile })).toEqual({ key: "correct horse battery" });
  });

  it("nobody by a key that can be guessed or read from nowhere", () => {
    const host = "127.0.0.1";
    expect(() => consoleSettings({ console: "on", host, consoleKeyFile: file("short", "hunter2") })).toThrow("at least 16");
    expect(() => consoleSettings({ console: "on", host, consoleKeyFile: join(dir, "none") })).toThrow("ENOENT");
  });

  it.each([
    ["127.0.0.1", true],
    ["127.8.9.1", true],
    ["localhost", true],
    ["LOCALHOST", true],
    ["a.localhost", true],
    ["[::1]", true],
    ["::1", true],
    ["0.0.0.0", false],
    ["::", false],
    ["127.0.0.1.example.org", false],
    ["127.evil", false],
    ["localhost.example.org", false],
    ["", false],
  ])("%s is this machine: %s", (host, expected) => {
    expect(isLoopback(host)).toBe(expected);
  });
});
