// The console's page as it is built.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";

const dir = inTree("dist", "console");
const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
const textOf = (entry: (typeof files)[number]) => readFileSync(`${entry.parentPath}/${entry.name}`, "utf8");

describe("the page", () => {
  it("is small", () => {
    const scripts = files.filter(({ name }) => name.endsWith(".js"));
    expect(scripts.length).toBeGreaterThan(0);
    expect(scripts.reduce((sum, script) => sum + gzipSync(textOf(script)).length, 0)).toBeLessThan(60_000);
  });

  it("names no other host, but those of the namespaces that a document has", () => {
    const named = files.flatMap((file) => [...textOf(file).matchAll(/https?:\/\/[\w.-]+/g)].map(([address]) => address));
    expect(named.filter((address) => !/^http:\/\/www\.w3\.org$/.test(address))).toEqual([]);
  });
});
