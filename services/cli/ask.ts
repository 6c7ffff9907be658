// ./pelagic ask: one question to the running instance, or to a private stack of its own.
import { resolve } from "node:path";
import type { Command } from "commander";
import { within } from "../lib/runtime/within.ts";
import { askQuestion } from "./chat-client.ts";
import { CliError } from "./cli-error.ts";
import { runningInstance } from "./instances.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { prepareFirst } from "./prepare.ts";
import { checkStackOptions, startStack, type Stack } from "./stack/stack.ts";
import { dimming } from "./terminal.ts";
import { count, number, portNumber } from "./up.ts";

const answerTimeoutMs = 600_000;

interface AskOptions {
  model?: string;
  port?: number;
  think: boolean;
  maxTokens?: number;
  temperature: number;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("ask")
    .description("ask one question: the reasoning dimmed, then the answer")
    .argument("<question>", "what to ask")
    .option("--model <dir>", "what runs, by its name or folder, or another folder (default: the first that runs, or the one in models/)")
    .option("--port <port>", "ask the instance on this port", portNumber)
    .option("--no-think", "without reasoning")
    .option("--max-tokens <n>", "new tokens at most", count(1))
    .option("--temperature <t>", "0 takes the most likely token each time", number(0, 2), 0)
    .option("--json", "one JSON object with reasoning, answer, usage and times")
    .addHelpText(
      "after",
      '\nA key, where the gateway asks for one, is taken from PELAGIC_API_KEY.\n\nExample:\n  ./pelagic ask "What is 127 + 536?"',
    )
    .action(ask);
}

async function ask(question: string, options: AskOptions): Promise<void> {
  let stack: Stack | undefined;
  const interrupt = onInterrupt(() => stack?.killAll());
  const instance = runningInstance(options.port);
  const served = instance?.models.find(
    ({ name, folder }) => [undefined, name].includes(options.model) || folder === resolve(options.model ?? ""),
  );
  if (options.port !== undefined && served === undefined) {
    throw new CliError(`port ${options.port} serves ${instance?.models.map(({ name }) => name).join(", ")}, not ${options.model}`);
  }
  try {
    if (served === undefined) {
      await checkStackOptions({ model: options.model });
      // The build shows itself, where one is due; the start of the stack takes a second and does not.
      await prepareFirst();
      stack = await startStack({ model: options.model, signal: interrupt });
    }
    const baseUrl = stack?.baseUrl ?? `http://127.0.0.1:${instance?.port}`;
    const model = stack?.modelName ?? served?.name ?? "";
    const apiKey = process.env.PELAGIC_API_KEY || undefined;
    await askAndPrint(question, { baseUrl, model, apiKey }, options, interrupt);
  } catch (error) {
    if (interrupt.aborted) throw new CliError("cancelled", interruptedExitCode);
    throw error;
  } finally {
    await stack?.stop();
  }
}

async function askAndPrint(
  text: string,
  target: { baseUrl: string; model: string; apiKey: string | undefined },
  options: AskOptions,
  interrupt: AbortSignal,
): Promise<void> {
  const print = (chunk: string) => {
    if (!options.json) process.stdout.write(chunk);
  };
  const dim = dimming(process.stdout);
  let reasoned = false;
  let answered = false;
  try {
    const asked = {
      ...target,
      text,
      thinking: options.think,
      maxTokens: options.maxTokens,
      temperature: options.temperature,
      onReasoning: (chunk: string) => {
        print(reasoned ? chunk : dim.on + chunk);
        reasoned = true;
      },
      onContent: (chunk: string) => {
        // The answer's own leading line breaks would only widen the gap.
        const shown = answered ? chunk : chunk.trimStart();
        if (shown === "") return;
        if (!answered && reasoned) print(`${dim.off}\n\n`);
        answered = true;
        print(shown);
      },
    };
    const answer = await within(answerTimeoutMs, interrupt, (signal) => askQuestion({ ...asked, signal }));
    if (options.json) process.stdout.write(`${JSON.stringify({ question: text, model: target.model, ...answer })}\n`);
    if (answer.finishReason === "length") process.stderr.write("\npelagic: stopped at the token limit\n");
  } finally {
    if (reasoned && !answered) print(dim.off);
    if (reasoned || answered) print("\n");
  }
}
