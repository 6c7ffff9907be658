// Child commands that we wait for: compilers, pip, ctest.
import { spawn } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

export interface CommandResult {
  /** Null where the command could not be started or was killed. */
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

export interface CommandOptions {
  cwd?: string;
  env?: Record<string, string | undefined>;
  timeoutMs: number;
  /** Each chunk of output as it comes. */
  onOutput?: (chunk: string) => void;
}

export function runCommand(command: string, args: string[], options: CommandOptions): Promise<CommandResult> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.timeoutMs,
      killSignal: "SIGKILL",
    });
    const output = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"] as const) {
      child[stream].setEncoding("utf8").on("data", (chunk: string) => {
        output[stream] += chunk;
        options.onOutput?.(chunk);
      });
    }
    child.on("error", (error) => resolve({ exitCode: null, ...output, stderr: output.stderr + error.message }));
    child.on("close", (exitCode) => resolve({ exitCode, ...output }));
  });
}

/** The first executable of this name on PATH. */
export function findOnPath(name: string): string | undefined {
  for (const dir of (process.env.PATH ?? "").split(delimiter)) {
    if (dir === "") continue;
    const path = join(dir, name);
    try {
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** The end of a command's output, for an error message. */
export function lastLines(result: CommandResult, count = 5): string {
  return `${result.stdout}\n${result.stderr}`.trim().split("\n").slice(-count).join("\n");
}
