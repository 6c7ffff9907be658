// ./pelagic experts: which experts the tokens went to, as the workers count them.
import type { Command } from "commander";
import { ExpertCountsReader } from "../gateway/console/expert-counts.ts";
import type { ConsoleExperts } from "../lib/contracts/console.ts";
import type { ExpertSpan, WorkerRole } from "../lib/contracts/messages.ts";
import { subjects } from "../lib/contracts/subjects.ts";
import { addTokens, layerLoad } from "../lib/expert-load/layer-load.ts";
import { CliError } from "./cli-error.ts";
import { drawExperts } from "./expert-map.ts";
import { connectTo, runningInstance } from "./instances.ts";
import { gatewayStatus } from "./status.ts";
import { isTerminal } from "./terminal.ts";
import { portNumber } from "./up.ts";

interface ExpertsOptions {
  port?: number;
  sinceStart?: boolean;
  json?: boolean;
}

/** The workers of one role that have one model. */
interface PoolLoad {
  model: string;
  role: WorkerRole;
  workers: string[];
  firstLayer: number;
  expertsPerToken: number;
  tokens: readonly (readonly number[])[];
  balancedness?: number[];
}

export function register(program: Command): void {
  program
    .command("experts")
    .description("show which experts the tokens of late went to, and how evenly ranks share them")
    .option("--port <port>", "the instance on this port", portNumber)
    .option("--since-start", "all tokens since the workers began, not those of late (one a minute ago counts half)")
    .option("--json", "one line for each pool of workers: {model, role, workers, span, firstLayer, expertsPerToken, tokens, balancedness}")
    .addHelpText("after", "\nExample:\n  ./pelagic experts --since-start")
    .action(experts);
}

async function experts(options: ExpertsOptions): Promise<void> {
  const span: ExpertSpan = options.sinceStart ? "start" : "late";
  const instance = runningInstance(options.port);
  if (!instance?.nats) throw new CliError("nothing is running here: ./pelagic up starts it");
  const { workers = [] } = await gatewayStatus(instance);
  const asked = workers.flatMap(({ workerId, role, modelName, state }) =>
    workerId === undefined || role === undefined || state === "starting" || state === "stopped"
      ? []
      : [{ workerId, role, model: modelName ?? "?" }],
  );
  if (asked.length === 0) throw new CliError("no worker has reported: ./pelagic status shows what is there");
  const bus = await connectTo(instance.nats);
  try {
    const reader = new ExpertCountsReader(bus, subjects(instance.nats.service), () => performance.now());
    const answers = await Promise.all(asked.map(async (worker) => ({ ...worker, answer: await reader.read(worker.workerId, span) })));
    const pools = poolsOf(answers);
    if (pools.length === 0) throw new CliError("these workers count no tokens by expert: their model has none");
    const texts = pools.map((pool) => (options.json ? JSON.stringify({ ...pool, span }) : textOf(pool, span)));
    process.stdout.write(`${texts.join(options.json ? "\n" : "\n\n")}\n`);
  } finally {
    await bus.close();
  }
}

function poolsOf(answers: readonly { workerId: string; role: WorkerRole; model: string; answer: ConsoleExperts }[]): PoolLoad[] {
  const names = [...new Set(answers.map(({ role, model }) => `${role} ${model}`))].sort();
  return names.flatMap((name) => {
    const own = answers.filter(({ role, model }) => `${role} ${model}` === name);
    const tokens = addTokens(own.flatMap(({ answer }) => (answer.tokens === null ? [] : [answer.tokens])));
    const [first] = own;
    if (tokens === null || first === undefined) return [];
    // One rank of a group speaks for all.
    const balancedness = own.flatMap(({ answer }) => (answer.balancedness === null ? [] : [answer.balancedness]))[0];
    return {
      model: first.model,
      role: first.role,
      workers: own.map(({ workerId }) => workerId),
      firstLayer: first.answer.firstLayer,
      expertsPerToken: first.answer.expertsPerToken,
      tokens,
      ...(balancedness && { balancedness }),
    };
  });
}

function textOf({ model, role, workers, tokens, firstLayer, expertsPerToken, balancedness }: PoolLoad, span: ExpertSpan): string {
  const layers = tokens.map(layerLoad);
  const head = [
    `${model}, ${role}: ${workers.length === 1 ? workers[0] : `${workers.length} workers`}`,
    `${layers.length} layers of ${tokens[0]?.length ?? 0} experts, ${expertsPerToken} for each token`,
  ];
  const when = span === "start" ? "since the workers began" : "of late";
  if (layers.every(({ tokens }) => tokens === 0)) return [...head, `no token came ${when}`].join("\n  ");
  const highest = meanOf(layers.map((layer) => layer.highest));
  head.push(`busiest expert ${highest.toFixed(2)}x an equal share ${when}, on average over the layers`);
  if (balancedness) head.push(`balancedness of the ranks of late ${meanOf(balancedness).toFixed(2)}`);
  const size = { columns: process.stdout.columns ?? 120, colour: isTerminal(process.stdout) };
  return `${head.join("\n  ")}\n${drawExperts(layers, firstLayer, balancedness, size)}`;
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
