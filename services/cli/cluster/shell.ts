// Small shell-outs with errors that say which command failed and how, and waits with a bound.
import { CliError } from "../cli-error.ts";
import { lastLines, runCommand } from "../run-command.ts";

export async function must(
  what: string,
  command: string,
  args: string[],
  options: { timeoutMs?: number; env?: Record<string, string>; cwd?: string } = {},
): Promise<string> {
  const result = await runCommand(command, args, { timeoutMs: 60_000, ...options });
  if (result.exitCode !== 0) throw new CliError(`${what} failed: ${lastLines(result, 8) || `${command} ended with ${result.exitCode}`}`);
  return result.stdout;
}

/** For the way down: what is gone already is no failure. */
export async function attempt(command: string, args: string[], timeoutMs = 15_000): Promise<string> {
  return (await runCommand(command, args, { timeoutMs })).stdout;
}

/** Asks until there is no reason left why not. */
export async function waitUntil(what: string, whyNot: () => Promise<string | undefined>, boundMs: number): Promise<void> {
  for (const deadline = performance.now() + boundMs; ; ) {
    const reason = await whyNot();
    if (reason === undefined) return;
    if (performance.now() >= deadline) throw new CliError(`${what} did not come up in ${Math.round(boundMs / 1000)} s: ${reason}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
