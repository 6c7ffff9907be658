import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { afterEach, describe, expect, it } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import { parseAnnouncement } from "../../services/lib/runtime/process.ts";

interface Child {
  process: ChildProcess;
  stderr: () => string;
  /** The first line on stdout. */
  firstLine: Promise<string>;
  /** Exit code or signal. */
  ended: Promise<number | string>;
}

const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
});

function startChild(env: Record<string, string>): Child {
  const child = spawn(process.execPath, [inTree("tests", "runtime", "process-child.mjs")], { env: { ...process.env, ...env } });
  started.push(child);
  let [stdout, stderr] = ["", ""];
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => (stderr += chunk));
  const firstLine = new Promise<string>((resolve) => {
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      stdout += chunk;
      if (stdout.includes("\n")) resolve(stdout.split("\n", 1)[0] as string);
    });
  });
  const ended = once(child, "close").then(([code, signal]) => (code ?? signal) as number | string);
  return { process: child, stderr: () => stderr, firstLine, ended };
}

describe("a process", () => {
  it("announces its ports, and stops its parts in reverse order on SIGTERM", async () => {
    const child = startChild({});
    expect(parseAnnouncement(await child.firstLine)).toEqual({ event: "listening", metricsPort: 1234 });
    child.process.kill("SIGTERM");
    expect(await child.ended).toBe(0);
    const messages = child
      .stderr()
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { msg: string }).msg);
    expect(messages).toEqual(["stopping", "last added, stopped first", "first added, stopped last", "stopped"]);
    expect(child.stderr()).toContain('"aborted":true');
  });

  it("ends at its bound when a part does not stop, and at once on a second signal", async () => {
    const slow = startChild({ PELAGIC_BEHAVIOUR: "hangs", PELAGIC_DRAIN_MS: "200" });
    await slow.firstLine;
    slow.process.kill("SIGINT");
    expect(await slow.ended).toBe(1);
    expect(slow.stderr()).toContain("did not stop in time");

    const impatient = startChild({ PELAGIC_BEHAVIOUR: "hangs", PELAGIC_DRAIN_MS: "60000" });
    await impatient.firstLine;
    impatient.process.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, 100));
    impatient.process.kill("SIGTERM");
    expect(await impatient.ended).toBe(1);
  });

  it("ends when its supervisor's end of stdin closes, and only when told to", async () => {
    const tied = startChild({ PELAGIC_EXIT_WITH_PARENT: "1" });
    await tied.firstLine;
    tied.process.stdin?.destroy();
    expect(await tied.ended).toBe("SIGKILL");

    const free = startChild({});
    await free.firstLine;
    free.process.stdin?.destroy();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(free.process.exitCode).toBeNull();
  });

  it("exits with 1 after an error that nobody handled, and with 2 and one line on a wrong configuration", async () => {
    const throws = startChild({ PELAGIC_BEHAVIOUR: "throws" });
    expect(await throws.ended).toBe(1);
    expect(throws.stderr()).toContain("cannot start");
    const rejects = startChild({ PELAGIC_BEHAVIOUR: "rejects" });
    expect(await rejects.ended).toBe(1);
    expect(rejects.stderr()).toContain("forgotten");
    const wrong = startChild({ PELAGIC_METRICS_PORT: "many" });
    expect(await wrong.ended).toBe(2);
    expect(wrong.stderr()).toMatch(/^child: --metrics-port \(PELAGIC_METRICS_PORT\): .*\n$/);
  });
});
