// ./pelagic eval: the held-out questions of models/recipe through an OpenAI-compatible server. Questions and grading are the recipe's own
// (evaluate.py, Python's standard library), so that a figure from here and one from training are of the same questions by the same rule.
import { spawn } from "node:child_process";
import type { Command } from "commander";
import { keyFor } from "./api-key.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { runningInstance } from "./instances.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { prepareFirst } from "./prepare.ts";
import { findOnPath } from "./run-command.ts";
import { startStack, type Stack } from "./stack/stack.ts";
import { inTree } from "./tree.ts";
import { count } from "./up.ts";

interface EvalOptions {
  baseUrl?: string;
  model?: string;
  each: number;
  kinds?: string;
  think: boolean;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("eval")
    .description("ask the recipe's held-out questions, greedily: accuracy and length of thought of each kind")
    .option("--base-url <url>", "such as http://host:8000/v1 (default: the instance that runs here, or a private stack)")
    .option("--model <name>", "as the server calls it (default: the first that it lists)")
    .option("--each <n>", "questions of each kind", count(1), 16)
    .option("--kinds <list>", "only these, as in add,sort,lookup")
    .option("--no-think", "without reasoning, and smaller questions")
    .option("--json", "print the report as JSON, with some of the failures")
    .addHelpText(
      "after",
      "\nA key is taken from OPENAI_API_KEY, for an instance of ours from PELAGIC_API_KEY. Needs python3.\n\nExamples:\n  ./pelagic eval --each 64\n  ./pelagic eval --base-url http://host:8000/v1 --kinds mul,sort --json",
    )
    .action(evaluate);
}

async function evaluate(options: EvalOptions): Promise<void> {
  const python = findOnPath("python3");
  if (python === undefined) throw new CliError("python3 is not installed: it makes and grades the questions");
  if (options.baseUrl !== undefined && (!/^https?:\/\//.test(options.baseUrl) || !URL.canParse(options.baseUrl)))
    throw new CliError(`--base-url: ${options.baseUrl} is no http or https address`);
  let stack: Stack | undefined;
  const interrupt = onInterrupt(() => stack?.killAll());
  try {
    let { baseUrl, model } = options;
    const key = keyFor(baseUrl, process.env);
    if (baseUrl === undefined) {
      const instance = runningInstance();
      if (instance === undefined) {
        await prepareFirst();
        stack = await startStack({ signal: interrupt });
      }
      baseUrl = `${stack?.baseUrl ?? `http://127.0.0.1:${instance?.port}`}/v1`;
      model ??= stack?.modelName ?? instance?.models[0]?.name;
    }
    const args = [inTree("models", "recipe", "evaluate.py"), "--base-url", baseUrl, "--each", String(options.each)];
    if (model !== undefined) args.push("--model", model);
    if (options.kinds !== undefined) args.push("--kinds", options.kinds);
    if (!options.think) args.push("--thinking-off");
    if (options.json) args.push("--json", "-");
    const exitCode = await runToEnd(python, args, { ...process.env, OPENAI_API_KEY: key ?? "none" }, interrupt);
    if (interrupt.aborted) throw new CliError("cancelled", interruptedExitCode);
    process.exitCode = exitCode;
  } catch (error) {
    if (interrupt.aborted) throw new CliError("cancelled", interruptedExitCode);
    throw error;
  } finally {
    await stack?.stop();
  }
}

/** The child's exit code; it writes to our own stdout and stderr, and its requests have time limits of their own. */
function runToEnd(command: string, args: string[], env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    // In a group of its own: Ctrl-C is for this process, which ends it.
    const child = spawn(command, args, { env, stdio: ["ignore", "inherit", "inherit"], signal, killSignal: "SIGKILL", detached: true });
    child.on("error", (error) => reject(new CliError(`${command}: ${messageOf(error)}`)));
    child.on("close", (code) => resolve(code ?? 1));
  });
}
