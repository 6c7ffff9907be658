// The CLI behind ./pelagic: one file for each command.
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import * as ask from "./ask.ts";
import * as bench from "./bench.ts";
import * as build from "./build.ts";
import * as chaos from "./chaos.ts";
import * as cluster from "./cluster.ts";
import * as checkExact from "./check-exact.ts";
import * as checkModel from "./check-model.ts";
import { CliError, messageOf } from "./cli-error.ts";
import * as down from "./down.ts";
import * as drain from "./drain.ts";
import * as experts from "./experts.ts";
import * as hostile from "./hostile.ts";
import * as evaluation from "./eval.ts";
import * as keys from "./keys.ts";
import * as load from "./load.ts";
import * as place from "./place.ts";
import * as simulateExperts from "./simulate-experts.ts";
import * as simulate from "./simulate.ts";
import * as status from "./status.ts";
import * as trace from "./trace.ts";
import * as test from "./test.ts";
import { inTree } from "./tree.ts";
import * as up from "./up.ts";

const { version } = JSON.parse(readFileSync(inTree("package.json"), "utf8")) as { version: string };
const program = new Command("pelagic")
  .version(version)
  .description("Serves DeepSeek-class models: prefill and decode apart, latents over NATS, exact to the bit.")
  .configureOutput({
    outputError: (text, write) =>
      write(
        `pelagic: ${text
          .replace(/^error: /, "")
          .trimEnd()
          .replaceAll("\n", " ")}\n`,
      ),
  })
  .exitOverride();

// Sub-commands copy the settings above when they are made.
for (const command of [
  up,
  ask,
  status,
  experts,
  drain,
  down,
  build,
  test,
  checkModel,
  checkExact,
  chaos,
  hostile,
  bench,
  place,
  simulate,
  simulateExperts,
  load,
  evaluation,
  trace,
  keys,
  cluster,
])
  command.register(program);

// A reader that went away (`| head`) is no reason to leave a stack half stopped.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed it; its codes are 0 for help and 1 for a wrong use.
    process.exit(error.exitCode === 0 ? 0 : 2);
  }
  process.stderr.write(`pelagic: ${messageOf(error)}\n`);
  process.exit(error instanceof CliError ? error.exitCode : 1);
}
