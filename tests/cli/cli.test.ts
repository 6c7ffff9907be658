// The commands as a user runs them, up to where a model is needed: what they say, where, and with which exit code.
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";

function pelagic(args: string[], env: Record<string, string> = {}) {
  const main = inTree("dist", "services", "cli", "main.js");
  const result = spawnSync(process.execPath, [main, ...args], { env: { ...process.env, ...env }, encoding: "utf8", timeout: 15_000 });
  return { code: result.status, stdout: result.stdout, stderr: result.stderr };
}

const commands = ["up", "ask", "status", "down", "build", "test", "check-model", "check-exact"];

describe("./pelagic", () => {
  it.each(commands)("%s --help shows an example", (command) => {
    const { code, stdout } = pelagic([command, "--help"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`Example:\n {2}\\./pelagic ${command}`));
  });

  it.each([
    [["up", "--prefil", "2"], "pelagic: unknown option '--prefil' (Did you mean --prefill?)\n"],
    [["up", "--decode", "0"], "pelagic: option '--decode <n>' argument '0' is invalid. a whole number, at least 1\n"],
    [["fly"], "pelagic: unknown command 'fly'\n"],
    [["ask"], "pelagic: missing required argument 'question'\n"],
  ])("%j is refused in one line", (args, message) => {
    expect(pelagic(args)).toEqual({ code: 2, stdout: "", stderr: message });
  });

  it("up says what is wrong before it builds or starts anything", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    expect(pelagic(["up", "--port", String(port)])).toEqual({
      code: 1,
      stdout: "",
      stderr: `pelagic: port ${port} is taken: choose another one with --port N, or stop what uses it (./pelagic down --port ${port}, if it is ours)\n`,
    });
    server.close();
    const empty = mkdtempSync(join(tmpdir(), "pelagic-cli-"));
    const { code, stderr } = pelagic(["up", "--port", "0", "--model", empty]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^pelagic: --model: .* has no config\.json, no tokenizer\.json, no \*\.safetensors: .*\n$/);
    rmSync(empty, { recursive: true });
    expect(pelagic(["up", "--port", "0", "--decode-ranks", "3", "--redundant-experts", "65"])).toEqual({
      code: 1,
      stdout: "",
      stderr: `pelagic: --redundant-experts: at most 64, with which each of 3 ranks has all 32 experts of ${inTree("models", "plankton")}\n`,
    });
  });

  it("place and simulate-experts refuse what is no number by the option's name", () => {
    for (const [args, refusal] of [
      [["place", "loads.json", "--tolerance", "2"], "option '--tolerance <part>' argument '2' is invalid. a number from 0 to 1"],
      [["place", "loads.json", "--most-moves", "some"], "option '--most-moves <n>' argument 'some' is invalid. a whole number, at least 0"],
      [
        ["place", "loads.json", "--policy", "fair"],
        "option '--policy <name>' argument 'fair' is invalid. Allowed choices are balanced, grouped, published.",
      ],
      [["simulate-experts", "--layers", "59"], "option '--layers <n>' argument '59' is invalid. at most 58"],
    ] as const)
      expect(pelagic([...args])).toEqual({ code: 2, stdout: "", stderr: `pelagic: ${refusal}\n` });
  });

  it("status and down name a port where nothing of ours runs", () => {
    expect(pelagic(["status", "--port", "1"]).stderr).toBe("pelagic: nothing of ours runs on port 1: ./pelagic up --port 1 starts it\n");
    expect(pelagic(["down", "--port", "1"])).toEqual({ code: 1, stdout: "", stderr: "pelagic: nothing of ours runs on port 1\n" });
  });

  it("load takes no password that its report would show, and compares reports alone", () => {
    expect(pelagic(["load", "--base-url", "http://me:secret@127.0.0.1:1/v1"])).toEqual({
      code: 1,
      stdout: "",
      stderr: "pelagic: --base-url: no name and password in the address; send them with --header\n",
    });
    const dir = mkdtempSync(join(tmpdir(), "pelagic-cli-"));
    const file = join(dir, "report.json");
    writeFileSync(file, "null");
    expect(pelagic(["load", "--compare", file, file]).stderr).toBe(`pelagic: ${file}: no report of ./pelagic load\n`);
    rmSync(dir, { recursive: true });
  });

  it.each(["--redundant-experts", "--rebalance-seconds", "--rebalance-every"])("chaos refuses %s without ranks", (name) => {
    const stderr = `pelagic: ${name}: experts are placed on --decode-ranks, and there are none\n`;
    expect(pelagic(["chaos", name, "8"])).toEqual({ code: 2, stdout: "", stderr });
  });

  it("place names a plan that is there twice, and writes no name that a terminal would obey", () => {
    const dir = mkdtempSync(join(tmpdir(), "pelagic-cli-"));
    const [cases, plans] = [join(dir, "cases.json"), join(dir, "plans.jsonl")];
    const one = { name: "a\u001b[2J", layers: 1, logical_experts: 2, physical_experts: 2, groups: 1, nodes: 1, gpus: 2, load: [[1, 3]] };
    writeFileSync(cases, JSON.stringify([one, one]));
    const placed = pelagic(["place", cases]);
    expect(placed.code).toBe(0);
    expect(placed.stdout + placed.stderr).not.toContain("\u001b");
    expect(placed.stdout).toContain("\na\\u001b[2J ");
    writeFileSync(plans, pelagic(["place", cases, "--json"]).stdout);
    const message = `pelagic: ${plans}: line 2: name: a line before it has a\\u001b[2J, too: keep the one in force\n`;
    expect(pelagic(["place", cases, "--from", plans])).toEqual({ code: 2, stdout: "", stderr: message });
    rmSync(dir, { recursive: true });
  });

  it("build says which package to install where there is no compiler", () => {
    // Another CXX makes the build due; an empty PATH hides the machine's compilers.
    expect(pelagic(["build"], { PATH: "/nonexistent", CXX: "/nonexistent/g++" })).toEqual({
      code: 1,
      stdout: "",
      stderr: "pelagic: no C++ compiler: install g++ 12 or later (Debian: apt-get install g++)\n",
    });
  });
});
