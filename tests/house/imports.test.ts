// Keeps the arrows of docs/ARCHITECTURE.md true: who may import whom.
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { describe, expect, it } from "vitest";
import { trackedFiles } from "./tracked-files.ts";

/** Each part, and the other parts that it may import. The CLI is the composition root. */
const mayImport: Record<string, string[]> = {
  "lib/contracts": [],
  "lib/runtime": ["lib/contracts"],
  "lib/model": ["lib/contracts"],
  "lib/grammar": ["lib/contracts", "lib/model"],
  "lib/fair-queue": ["lib/contracts"],
  "lib/expert-load": [],
  "lib/engine": ["lib/contracts", "lib/model", "lib/grammar", "lib/fair-queue", "lib/expert-load"],
  // It drives the product's own gateway and workers.
  "lib/simulator": ["lib/contracts", "lib/engine", "gateway"],
  gateway: ["lib/contracts", "lib/runtime", "lib/model", "lib/grammar", "lib/fair-queue"],
  prefill: ["lib/contracts", "lib/runtime", "lib/engine"],
  decode: ["lib/contracts", "lib/runtime", "lib/engine", "lib/model", "lib/grammar", "placement"],
  placement: ["lib/contracts", "lib/runtime", "lib/expert-load"],
  cli: [
    "lib/contracts",
    "lib/runtime",
    "lib/engine",
    "lib/expert-load",
    "lib/simulator",
    "lib/model",
    "gateway",
    "placement",
    "loadtest",
    "operators",
  ],
  // In a browser: of the contracts, types alone.
  console: ["lib/contracts", "lib/expert-load"],
  // A client that knows only HTTP.
  loadtest: [],
  operators: ["lib/contracts", "lib/runtime"],
};

const folderOf = (part: string) => (["loadtest", "operators"].includes(part) ? `${part}/` : `services/${part}/`);
const partOf = (path: string) => Object.keys(mayImport).find((part) => path.startsWith(folderOf(part)));

/** Module names in import, export from, import() and new URL(…, import.meta.url). */
function importsOf(source: string): string[] {
  const patterns = [
    /\bfrom\s+["']([^"']+)["']/g,
    /\bimport\s*\(?\s*["']([^"']+)["']/g,
    /new URL\(\s*["']([^"']+)["']\s*,\s*import\.meta\.url/g,
  ];
  return patterns.flatMap((pattern) => [...source.matchAll(pattern)].map((match) => match[1] as string));
}

const sources = trackedFiles().filter((file) => /^(services|loadtest|operators)\//.test(file) && /\.tsx?$/.test(file));
const product = sources.filter((file) => !file.endsWith(".test.ts"));

describe("imports under services/, loadtest/ and operators/", () => {
  it("has a rule for every file", () => {
    expect(sources.filter((file) => partOf(file) === undefined)).toEqual([]);
  });

  it("go only where the arrows point", () => {
    const wrong: string[] = [];
    for (const file of product) {
      const part = partOf(file) as string;
      for (const name of importsOf(readFileSync(file, "utf8"))) {
        if (!name.startsWith(".")) continue;
        const target = normalize(join(dirname(file), name));
        const targetPart = partOf(target);
        if (targetPart !== part && !mayImport[part]?.includes(targetPart ?? "")) wrong.push(`${file} imports ${target}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it("take nothing but types from the contracts into the page", () => {
    const page = product.filter((file) => file.startsWith("services/console/"));
    const taken = page.flatMap((file) =>
      [...readFileSync(file, "utf8").matchAll(/^import (?!type ).*lib\/contracts.*$/gm)].map(([line]) => `${file}: ${line}`),
    );
    expect(page.length).toBeGreaterThan(0);
    expect(taken).toEqual([]);
  });

  it("load the native addon through one file only", () => {
    const users = product.filter((file) => /\.node["'`]|PELAGIC_ADDON|process\.dlopen/.test(readFileSync(file, "utf8")));
    expect(users.filter((file) => file !== "services/lib/engine/native.ts" && !file.startsWith("services/cli/native-build"))).toEqual([]);
  });
});
