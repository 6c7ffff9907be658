// A short form of the held-out evaluation, as a user runs it: a stack of its own, the recipe's questions, its grader.
import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { describe, expect, test } from "vitest";
import { inTree } from "../../services/cli/tree.ts";

const main = inTree("dist", "services", "cli", "main.js");
const kinds = "add,sub,mul,div,chain,cmp,sort,count,reverse,lookup,word,refuse,chat,followup,json".split(",");

interface Report {
  accuracy: number;
  asked: number;
  thinking: boolean;
  tasks: Record<string, { asked: number; right: number; thought_bytes: number }>;
}

describe("eval", () => {
  test("the model in the box answers at least nine of ten questions it has not seen, of every kind at least half", {
    timeout: 600_000,
  }, () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [main, "eval", "--each", "4", "--json"], {
      encoding: "utf8",
      timeout: 590_000,
    });
    expect({ status, stderr }).toMatchObject({ status: 0 });
    const report = JSON.parse(stdout) as Report;
    expect(report).toMatchObject({ asked: 4 * kinds.length, thinking: true });
    expect(Object.keys(report.tasks)).toEqual(kinds);
    for (const [kind, task] of Object.entries(report.tasks)) {
      expect(task.asked, kind).toBe(4);
      expect(task.right, kind).toBeGreaterThanOrEqual(2);
      expect(task.thought_bytes, kind).toBeGreaterThan(0);
    }
    expect(report.accuracy).toBeGreaterThanOrEqual(0.9);
  });

  test("every figure of the recipe's thoughts follows from its question", { timeout: 300_000 }, () => {
    const { status, stderr } = spawnSync("python3", ["-B", "-m", "unittest", "test_steps"], {
      cwd: inTree("models", "recipe"),
      encoding: "utf8",
      timeout: 290_000,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringMatching(/Ran [1-9]\d* tests?.*\n\nOK/) });
  });

  test("wrong answers count as wrong, and a server that fails is no figure", { timeout: 300_000 }, async () => {
    let broken = false;
    const server = createServer((request, response) => {
      request.resume();
      if (broken) response.writeHead(503).end('{"error": "busy"}');
      else if (request.url === "/v1/models") response.end('{"data": [{"id": "m"}]}');
      else response.end('{"choices": [{"message": {"reasoning_content": "so", "content": "42"}}]}');
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const run = async (...args: string[]) => {
      const child = spawn(process.execPath, [main, "eval", "--base-url", baseUrl, "--each", "3", ...args]);
      let [out, err] = ["", ""];
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => (out += chunk));
      child.stderr.setEncoding("utf8").on("data", (chunk: string) => (err += chunk));
      const [code] = (await once(child, "close")) as [number];
      return { code, out, err };
    };
    try {
      expect(JSON.parse((await run("--kinds", "sort,json", "--json")).out)).toMatchObject({ model: "m", asked: 6, accuracy: 0 });
      expect((await run("--kinds", "sort,none")).err).toMatch(/^--kinds: 'none' is none of add, /);
      expect(await run("--kinds", "sort,json", "--no-think")).toEqual({
        code: 2,
        out: "",
        err: "--kinds: 'json' cannot be answered without a thought\n",
      });
      broken = true;
      expect(await run("--model", "m")).toMatchObject({ code: 1, out: "", err: expect.stringContaining("status 503") });
    } finally {
      server.close();
    }
  });
});
