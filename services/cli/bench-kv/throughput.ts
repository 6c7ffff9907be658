// Bytes of latents a second through the product's transfer, beside bare messages of the same size: the same client library, server and
// processes, run after run in turn, so that both see the same machine.
import { frameHeaderBytes } from "../../lib/contracts/frame.ts";
import { kvBlockTokens } from "../../lib/contracts/block-key.ts";
import { CliError } from "../cli-error.ts";
import { cpuSeconds } from "../process-figures.ts";
import { openPair } from "./pair.ts";

export interface FrameSize {
  name: string;
  rowBytes: number;
}

/** 64 rows of so many bytes: one layer of a very small model, of the real ones, and of eight layers of a real one at once. */
export const frameSizes: readonly FrameSize[] = [
  { name: "4k", rowBytes: 64 },
  { name: "74k", rowBytes: 1_152 },
  { name: "590k", rowBytes: 9_216 },
];

export interface Throughput {
  /** Latent bytes a second, medians over the runs. */
  product: number;
  bare: number;
  /** Processor seconds of sender, receiver and server together for one frame: says more than the rate where others use the machine. */
  productCpu: number;
  bareCpu: number;
}

interface Run {
  rate: number;
  cpu: number;
}

const layers = 8;

export async function measureThroughput(size: FrameSize, pairs: number, budgetBytes: number): Promise<Throughput> {
  const payloadBytes = kvBlockTokens * size.rowBytes;
  // A small frame costs by its number, a large one by its bytes.
  const bytesPerRun = size.rowBytes < 512 ? 48e6 : 144e6;
  const kvBlocks = Math.ceil(bytesPerRun / payloadBytes / layers);
  const frames = kvBlocks * layers;
  const rows = kvBlocks * kvBlockTokens;
  const frameBytes = frameHeaderBytes + payloadBytes;
  const pair = await openPair({ rowBytes: size.rowBytes, layers, kvBlocks });
  try {
    const job = { rows, frameBytes, totalBytes: frames * frameBytes, budgetBytes };
    const latentBytes = frames * payloadBytes;
    const cpu = () => Object.values(pair.pids).reduce((sum, pid) => sum + cpuSeconds(pid), 0);
    const run = async (kind: "product" | "bare") => {
      const cpuBefore = cpu();
      const { seconds } = await pair.run({ kind, ...job });
      return { rate: latentBytes / seconds, cpu: (cpu() - cpuBefore) / frames };
    };
    const runs: { product: Run; bare: Run }[] = [];
    // The first two of each warm up.
    for (let i = -2; i < pairs; i++) {
      const product = await run("product");
      if (i === -2 && !(await pair.cachesEqual())) throw new CliError("the receiver's cache is not the sender's");
      const bare = await run("bare");
      if (i >= 0) runs.push({ product, bare });
    }
    const rate = (side: "product" | "bare") => median(runs.map((run) => run[side].rate));
    // A mean: the kernel counts in steps of a tenth of a run.
    const cpuMean = (side: "product" | "bare") => runs.reduce((sum, run) => sum + run[side].cpu, 0) / runs.length;
    return { product: rate("product"), bare: rate("bare"), productCpu: cpuMean("product"), bareCpu: cpuMean("bare") };
  } finally {
    await pair.close();
  }
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
