// bench kv: what moving latents from prefill to decode costs, in bytes a second, in memory and in the time to the first token.
import { cpus } from "node:os";
import type { Command } from "commander";
import { atLeast, atMost, type BenchRow, type BenchTarget, commit, printReport } from "./bench-report.ts";
import { measureMemory, processMib } from "./bench-kv/memory.ts";
import { frameSizes, measureThroughput } from "./bench-kv/throughput.ts";
import { measureTtft } from "./bench-kv/ttft.ts";
import { CliError } from "./cli-error.ts";
import { prepareFirst } from "./prepare.ts";
import { count } from "./up.ts";

interface Options {
  frames: string;
  runs: number;
  ttft?: boolean;
  memory?: boolean;
  json?: boolean;
}

const mib = 1024 * 1024;
/** The default of PELAGIC_RECEIVE_BUDGET_MIB. */
const receiveBudgetMib = 16;
const promised = { ofBareMessages: 0.85, ofLocalTtft: 1.05 };
const promptLengths = [2_048, 4_096, 8_000];
/** A multiple of 64, so that both caches can be compared whole. */
const longTransfer = { tokens: 100_032, layers: 5, budgetBytes: receiveBudgetMib * mib, stalls: 4, stallMs: 2_000 };

export function register(bench: Command): void {
  bench
    .command("kv")
    .description("bytes a second, memory and added delay of moving the cache from prefill to decode, beside bare NATS messages")
    .option("--frames <sizes>", "frame sizes, of 4k, 74k and 590k; none: no such runs", "4k,74k,590k")
    .option("--runs <n>", "pairs of runs for each figure", count(1, 1000), 11)
    .option("--ttft", "also the time to the first token, prefill apart beside prefill in the decode process")
    .option("--memory", "also the memory of a transfer of 100,000 tokens to a receiver that stalls")
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic bench kv --ttft --memory --json")
    .action(async (options: Options) => {
      const sizes = options.frames === "none" ? [] : options.frames.split(",").map(sizeOf);
      await prepareFirst();
      const rows: BenchRow[] = [];
      const targets: BenchTarget[] = [];
      for (const size of sizes) {
        const { product, bare, productCpu, bareCpu } = await measureThroughput(size, options.runs, receiveBudgetMib * mib);
        rows.push(row(`frames of ${size.name}`, product / 1e6, "MB/s", bare / 1e6));
        targets.push(atLeast(`frames of ${size.name} beside bare messages`, product / bare, "", promised.ofBareMessages));
        rows.push(row(`processor time of a ${size.name} frame`, productCpu * 1e6, "us", bareCpu * 1e6));
      }
      if (options.memory) {
        const { sender, receiver } = await measureMemory(longTransfer);
        const allowed = receiveBudgetMib + processMib;
        rows.push(row("sender's memory, 100,000 tokens, stalls", sender / mib, "MiB", allowed));
        rows.push(row("receiver's memory, 100,000 tokens, stalls", receiver / mib, "MiB", allowed));
        for (const [who, bytes] of Object.entries({ sender, receiver }))
          targets.push(atMost(`${who}'s memory`, bytes / mib, "MiB", allowed));
      }
      let pinned = "";
      if (options.ttft) {
        const measured = await measureTtft(promptLengths, options.runs);
        pinned = measured.pinned ? ", each worker on a core of its own" : ", workers not pinned to cores";
        for (const { promptTokens, apart, local } of measured.rows) {
          const what = `TTFT of ${promptTokens} tokens, prefill apart`;
          rows.push(row(what, apart * 1e3, "ms", local * 1e3));
          targets.push(atMost(`${what}, beside prefill in decode`, apart / local, "", promised.ofLocalTtft));
        }
      }
      const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores${pinned}`;
      printReport({ bench: "kv", machine, commit: commit(), rows, targets }, options.json);
    });
}

function sizeOf(name: string) {
  const size = frameSizes.find((one) => one.name === name);
  if (!size) throw new CliError(`--frames: ${name} is none of ${frameSizes.map((one) => one.name).join(", ")}`);
  return size;
}

/** The ceiling is the bare peer's figure, the budget, or the local TTFT. */
function row(what: string, value: number, unit: string, ceiling: number): BenchRow {
  const round = (x: number) => Number(x.toPrecision(4));
  return { what, value: round(value), unit, ceiling: round(ceiling), ratio: round(value / ceiling) };
}
