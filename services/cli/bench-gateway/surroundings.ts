// Everything a measurement needs, up at once and gone after it: our gateway before the stub worker, and what it is measured beside.
import { startStack, type Stack } from "../stack/stack.ts";
import { inTree } from "../tree.ts";
import { closeHttpConnections } from "./http-client.ts";
import { NatsClient } from "./nats-client.ts";
import { type PeerSet, startPeers } from "./peers.ts";

export const stubWorkerId = "decode-0";

export interface StubStack {
  stack: Stack;
  nats: NatsClient;
  /** Of our gateway. */
  url: string;
  pids: { gateway: number; nats: number; stub: number };
}

/** NATS, one stub worker that makes a step every stepMs, and one gateway with these settings. */
export async function withStubStack<T>(
  model: string,
  stepMs: number,
  env: Record<string, string>,
  run: (all: StubStack) => Promise<T>,
): Promise<T> {
  const stack = await startStack({
    model,
    prefill: 0,
    decode: 1,
    scripts: { decode: inTree("dist", "services", "cli", "bench-gateway", "stub-worker.js") },
    env: { PELAGIC_STUB_STEP_MS: String(stepMs), ...env },
  });
  let nats: NatsClient | undefined;
  try {
    nats = await NatsClient.connect(stack);
    const pidOf = (name: string) => stack.processes.find((process) => process.name === name)?.pid ?? 0;
    const pids = { gateway: pidOf("gateway-0"), nats: pidOf("nats"), stub: pidOf(stubWorkerId) };
    return await run({ stack, nats, url: `${stack.baseUrl}/v1/chat/completions`, pids });
  } finally {
    closeHttpConnections();
    await nats?.close();
    await stack.stop();
  }
}

export async function withPeers<T>(
  model: string,
  stepMs: number,
  progress: (text: string) => void,
  run: (peers: PeerSet) => Promise<T>,
): Promise<T> {
  const peers = await startPeers(model, stepMs, progress);
  try {
    return await run(peers);
  } finally {
    await peers.close();
  }
}
