// The time to the first token of a long prompt: prefilled by the prefill worker and moved while it computes, beside prefilled by the decode
// worker itself. Both in one stack, turn by turn, over the bus as a gateway speaks it. Each worker has one compute thread and, where the
// machine can say so, a processor core that the other never runs on.
import { execFileSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { CliError } from "../cli-error.ts";
import { findOnPath } from "../run-command.ts";
import { type Stack, startStack } from "../stack/stack.ts";
import { connectStackClient } from "../stack-client.ts";
import { median } from "./throughput.ts";

export interface TtftRow {
  promptTokens: number;
  /** Medians, in seconds. */
  apart: number;
  local: number;
}

const vocabulary = 256;
const deadlineMs = 120_000;

/** Whether the workers were pinned to cores of their own, and the rows. */
export async function measureTtft(promptLengths: readonly number[], pairs: number): Promise<{ pinned: boolean; rows: TtftRow[] }> {
  const stack = await startStack({ prefill: 1, decode: 1, gateways: 0, threads: 1, logLevel: "error" });
  try {
    const pinned = pin(stack);
    const client = await connectStackClient(stack, "bench");
    let asked = 0;
    const ttft = async (length: number, prefillWorkerId: string | null) => {
      asked++;
      // Nobody has seen this prompt.
      const prompt = Uint32Array.from({ length }, (_, i) => (i * 31 + asked * 17 + (i >> 8)) % vocabulary);
      const startedMs = performance.now();
      const generation = client.start(
        {
          requestId: `bench-${asked}`,
          prompt,
          maxTokens: 1,
          stopTokenIds: [],
          sampling: { temperature: 0, seed: "1", choice: 0 },
          cacheSalt: `bench-${asked}`,
          deadlineMs,
        },
        "decode-0",
        prefillWorkerId,
      );
      let seconds = 0;
      for await (const _ of generation) seconds ||= (performance.now() - startedMs) / 1000;
      if ((generation.prefilledBy ?? null) !== prefillWorkerId) {
        throw new CliError(`a prompt of ${length} tokens was prefilled by ${generation.prefilledBy ?? "decode"}`);
      }
      return seconds;
    };
    const rows: TtftRow[] = [];
    for (const promptTokens of promptLengths) {
      const apart: number[] = [];
      const local: number[] = [];
      // The first of each warms up.
      for (let i = -1; i < pairs; i++) {
        const one = await ttft(promptTokens, "prefill-0");
        const other = await ttft(promptTokens, null);
        if (i < 0) continue;
        apart.push(one);
        local.push(other);
      }
      rows.push({ promptTokens, apart: median(apart), local: median(local) });
    }
    await client.close();
    return { pinned, rows };
  } finally {
    await stack.stop();
  }
}

/** False where there is no taskset or one core only: then nothing is said about a core for each. */
function pin(stack: Stack): boolean {
  const cores = availableParallelism();
  const taskset = findOnPath("taskset");
  if (taskset === undefined || cores < 2) return false;
  const others = cores > 2 ? `2-${cores - 1}` : "0,1";
  for (const { name, pid } of stack.processes) {
    const core = name === "prefill-0" ? "0" : name === "decode-0" ? "1" : others;
    execFileSync(taskset, ["--all-tasks", "--pid", "--cpu-list", core, String(pid)], { stdio: "ignore" });
  }
  return true;
}
