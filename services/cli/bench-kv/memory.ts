// What a transfer of a very long prompt adds to the memory of both processes while the receiver stalls: no more than its budget of bytes in
// flight, and what a JavaScript process needs to move any bytes at all.
import { frameHeaderBytes } from "../../lib/contracts/frame.ts";
import { kvBlockTokens } from "../../lib/contracts/block-key.ts";
import { CliError } from "../cli-error.ts";
import { forgetPeak, residentBytes } from "../process-figures.ts";
import { openPair } from "./pair.ts";

export interface MemoryOptions {
  tokens: number;
  layers: number;
  budgetBytes: number;
  stalls: number;
  /** Shorter than the lease over a transfer. */
  stallMs: number;
}

export interface MemoryUse {
  /** Resident bytes at the peak, over those before the transfer. */
  sender: number;
  receiver: number;
  server: number;
  cacheBytes: number;
}

const rowBytes = 1_152;
/** What V8 lets lie, of messages that were read and buffers that were written, before it collects them: beside the budget. */
export const processMib = 32;

export async function measureMemory({ tokens, layers, budgetBytes, stalls, stallMs }: MemoryOptions): Promise<MemoryUse> {
  const kvBlocks = Math.ceil(tokens / kvBlockTokens);
  const pair = await openPair({ rowBytes, layers, kvBlocks });
  try {
    const frameBytes = frameHeaderBytes + kvBlockTokens * rowBytes;
    const payloadBytes = tokens * layers * rowBytes;
    const job = { kind: "product", rows: tokens, frameBytes, totalBytes: kvBlocks * layers * frameBytes, budgetBytes } as const;
    // The same without stalls: what a process needs to have moved any bytes at all is not the stalls' doing.
    await pair.run(job);
    const pids = Object.values(pair.pids);
    const before = pids.map((pid) => residentBytes(pid).now);
    pids.forEach(forgetPeak);
    await pair.run({ ...job, stall: { everyBytes: Math.floor(payloadBytes / (stalls + 1)), ms: stallMs } });
    const [sender = 0, receiver = 0, server = 0] = pids.map((pid, i) => residentBytes(pid).peak - (before[i] ?? 0));
    if (tokens % kvBlockTokens === 0 && !(await pair.cachesEqual())) throw new CliError("the receiver's cache is not the sender's");
    return { sender, receiver, server, cacheBytes: payloadBytes };
  } finally {
    await pair.close();
  }
}
