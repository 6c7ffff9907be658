import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { inTree } from "../tree.ts";
import { withLock } from "./lock.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-lock-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const quiet = () => {};

it("lets one work at a time, and another one as soon as the holder is killed", async () => {
  const script = `import { withLock } from ${JSON.stringify(inTree("dist", "services", "cli", "cluster", "lock.js"))};
    await withLock(() => {}, () => new Promise((resolve) => { console.log("holds"); setTimeout(resolve, 600_000); }), ${JSON.stringify(dir)});`;
  const holder = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve) => holder.stdout.once("data", resolve));
  let [waiting, inside, most] = [0, 0, 0];
  const works = Array.from({ length: 8 }, () =>
    withLock(
      () => {
        // All of them found it taken before it is free.
        if (++waiting === 8) holder.kill("SIGKILL");
      },
      async () => {
        most = Math.max(most, ++inside);
        await new Promise((resolve) => setTimeout(resolve, 20));
        inside--;
      },
      dir,
    ),
  );
  await Promise.all(works);
  expect([waiting, most]).toEqual([8, 1]);
});

it("is given back after work that fails", async () => {
  const failing = withLock(quiet, () => Promise.reject(new Error("no")), dir);
  await expect(failing).rejects.toThrow("no");
  expect(await withLock(quiet, async () => "done", dir)).toBe("done");
});
