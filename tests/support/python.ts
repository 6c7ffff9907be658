// Python programs under test: their environments, and one run of one of them in bounded time.
import { NoPythonEnv, pythonEnv } from "../../services/cli/python-env.ts";
import { type CommandResult, lastLines, runCommand } from "../../services/cli/run-command.ts";

export const requirements = (name: string) => `tests/clients/python/requirements/${name}.txt`;

export interface PythonEnv {
  /** "" where there is none. */
  python: string;
  /** Goes into the names of tests: why they are skipped is then in the summary of ./pelagic test. */
  missing: string;
}

/** To be awaited at the top of a test file; throws what is a failure of ours, such as a wrong hash. */
export async function envOf(name: string, besides?: string): Promise<PythonEnv> {
  try {
    const python = await pythonEnv(requirements(name), () => undefined, besides && requirements(besides));
    return { python, missing: "" };
  } catch (error) {
    if (!(error instanceof NoPythonEnv)) throw error;
    return { python: "", missing: `, NOT RUN: no Python 3.11 to 3.13 or no package index: ${error.message.split("\n").at(-1)}` };
  }
}

/** Throws with the end of the output where the program fails. Nothing that the machine's owner has set for these clients counts. */
export async function runPython(
  { python }: PythonEnv,
  args: string[],
  { timeoutMs, env = {}, cwd }: { timeoutMs: number; env?: Record<string, string>; cwd?: string },
): Promise<CommandResult> {
  const own = Object.keys(process.env).filter((name) => /^(OPENAI|ANTHROPIC|LITELLM|DEEPSEEK|LANGCHAIN|LANGSMITH|HF)_/.test(name));
  const cleared = Object.fromEntries(own.map((name) => [name, undefined]));
  const result = await runCommand(python, args, {
    env: { ...cleared, HF_HUB_OFFLINE: "1", NO_PROXY: "127.0.0.1", ...env },
    timeoutMs,
    ...(cwd !== undefined && { cwd }),
  });
  if (result.exitCode !== 0) throw new Error(`${args.slice(0, 3).join(" ")} exited with ${result.exitCode}: ${lastLines(result, 80)}`);
  return result;
}
