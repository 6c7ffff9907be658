import { execFile } from "node:child_process";
import { chmodSync, chownSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import { createKey } from "../../services/gateway/admission/api-keys.ts";
import { type GatewayProcess, startSurroundings, type Surroundings } from "./gateway-process.ts";

let surroundings: Surroundings;
let gateway: GatewayProcess;
let file: string;
let alice: string;

/** Not in step with this process: the worker in it must go on beating. */
function keys(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return keysIn(file, ...args);
}

function keysIn(path: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = { ...process.env, PELAGIC_API_KEYS: path };
  return new Promise((resolve) => {
    execFile(process.execPath, [inTree("dist", "services", "cli", "main.js"), "keys", ...args], { env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

const status = async (key: string) => (await gateway.ask({}, { headers: { "x-api-key": key } })).status;

async function until(key: string, wanted: number): Promise<void> {
  for (let i = 0; (await status(key)) !== wanted; i++) {
    if (i > 200) throw new Error(`the key never got ${wanted}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

beforeAll(async () => {
  surroundings = await startSurroundings();
  file = join(surroundings.dir, "keys.json");
  alice = (await keys("create", "alice", "--requests-per-minute", "100000")).stdout.trim();
  gateway = await surroundings.startGateway({ PELAGIC_API_KEYS: file, PELAGIC_LOG_LEVEL: "debug" });
});
afterAll(() => surroundings?.close());

describe("./pelagic keys", () => {
  it("makes keys that it shows once, lists and revokes them", async () => {
    const path = join(surroundings.dir, "others.json");
    const made = await keysIn(
      path,
      "create",
      "bob",
      "--model",
      "a",
      "--model",
      "b",
      "--priority",
      "high",
      "--cache-group",
      "team",
      "--max-concurrent",
      "3",
    );
    expect(made.stdout).toMatch(/^sk-pelagic-[\w-]{43}\n$/);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readFileSync(path, "utf8")).not.toContain(made.stdout.trim());
    expect(await keysIn(path, "create", "bob")).toEqual({
      code: 1,
      stdout: "",
      stderr: "pelagic: there is a key named bob already: revoke it first\n",
    });
    expect((await keysIn(path, "create", "a b")).stderr).toMatch(/^pelagic: name: 1 to 64 letters/);
    await keysIn(path, "create", "carol");
    expect((await keysIn(path, "list")).stdout).toBe(
      [
        "name   models  requests/min  tokens/min  at once  priority  cache group",
        "bob    a b     -             -           3        high      team",
        "carol  all     -             -           -        normal    -",
        "",
      ].join("\n"),
    );
    // Who could read it still can: a gateway of another user would go on taking the key.
    chmodSync(path, 0o640);
    if (process.getuid?.() === 0) chownSync(path, 4_321, 1_234);
    const { uid, gid } = statSync(path);
    expect((await keysIn(path, "revoke", "bob")).code).toBe(0);
    expect(statSync(path)).toMatchObject({ uid, gid });
    expect(statSync(path).mode & 0o777).toBe(0o640);
    expect((await keysIn(path, "revoke", "bob")).stderr).toBe("pelagic: there is no key named bob\n");
    expect(JSON.parse((await keysIn(path, "list", "--json")).stdout).map(({ name }: { name: string }) => name)).toEqual(["carol"]);
    expect(existsSync(`${path}.new`)).toBe(false);
    writeFileSync(path, "{");
    expect((await keysIn(path, "list")).stderr).toBe(`pelagic: ${path}: not valid JSON\n`);
    expect((await keysIn(path, "create", "dora")).code).toBe(1);
    expect(readFileSync(path, "utf8")).toBe("{");
  }, 90_000);
});

describe("a gateway with a keys file", () => {
  it("knows what changes in it, and keeps what it knew where the file is bad", async () => {
    expect(await status(alice)).toBe(200);
    expect(await status(createKey())).toBe(401);
    const bob = (await keys("create", "bob")).stdout.trim();
    await until(bob, 200);
    await keys("revoke", "bob");
    gateway.child.kill("SIGHUP");
    await until(bob, 401);
    const good = readFileSync(file, "utf8");
    writeFileSync(file, `{"keys": [{"name": "${bob}"}]}`);
    gateway.child.kill("SIGHUP");
    for (let i = 0; !gateway.log.includes("keys[0].sha256"); i++) {
      if (i > 200) throw new Error(`nothing was said of the bad file: ${gateway.log}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(await status(alice)).toBe(200);
    expect(await status(bob)).toBe(401);
    const unread = async () => /^pelagic_gateway_keys_unread (\d)$/m.exec(await (await fetch(`${gateway.admin}/metrics`)).text())?.[1];
    expect(await unread()).toBe("1");
    writeFileSync(file, good);
    gateway.child.kill("SIGHUP");
    for (let i = 0; (await unread()) !== "0"; i++) {
      if (i > 200) throw new Error("the good file was not read");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(await status(alice)).toBe(200);
    const told = [
      gateway.log,
      await (await fetch(`${gateway.admin}/metrics`)).text(),
      await (await fetch(`${gateway.admin}/status`)).text(),
      JSON.stringify(surroundings.decode.dispatches.map(({ body }) => body)),
    ].join();
    for (const key of [alice, bob]) expect(told).not.toContain(key);
    expect(gateway.log).toContain('"key":"alice"');
  });

  it("does not start with a bad one, and warns where it has none and others can reach it", async () => {
    const bad = join(surroundings.dir, "bad.json");
    writeFileSync(bad, "{}");
    await expect(surroundings.startGateway({ PELAGIC_API_KEYS: bad })).rejects.toThrow(/exited with 2.*PELAGIC_API_KEYS.*keys: /s);
    await expect(surroundings.startGateway({ PELAGIC_API_KEYS: join(surroundings.dir, "none.json") })).rejects.toThrow(
      /exited with 2.*ENOENT/s,
    );
    const open = await surroundings.startGateway({ PELAGIC_HOST: "0.0.0.0" });
    expect(open.log).toContain("there are no API keys");
  });
});
