// Whether a stack without load has everything back: no request, no transfer, no credit, no
// subscription, every block free or cached, and gateways that agree.
import type { Stack } from "../stack/stack.ts";
import { sleep } from "./striker.ts";

const pollMs = 100;
const requestMs = 2_000;

/** null once all is free; the last reason why not at the bound. */
export async function waitUntilQuiet(stack: Stack, boundMs: number): Promise<{ leak: string | null; seconds: number }> {
  const begunMs = performance.now();
  for (;;) {
    const leak = await whyNotQuiet(stack).catch((error: unknown) => String(error));
    const seconds = (performance.now() - begunMs) / 1000;
    if (leak === null || seconds * 1000 >= boundMs) return { leak, seconds };
    await sleep(pollMs);
  }
}

interface GatewayStatus {
  gateway: { requests: { running: number; cancelling: number } };
  workers: { workerId: string; instanceId: string; state: string; position: number | null; knownBlockKeys: number }[];
}

async function whyNotQuiet(stack: Stack): Promise<string | null> {
  const views: string[] = [];
  for (const { name, metricsPort, pid } of stack.processes) {
    if (name === "nats") continue;
    if (pid === undefined || metricsPort === undefined) return `${name} is down`;
    if (name.startsWith("gateway")) {
      const { gateway, workers } = JSON.parse(await read(metricsPort, "/status")) as GatewayStatus;
      const { running, cancelling } = gateway.requests;
      if (running + cancelling > 0) return `${name}: ${running} requests run, ${cancelling} are being cancelled`;
      const missing = stack.processes.find(
        (one) => /^(decode|prefill)-/.test(one.name) && !workers.some(({ workerId, state }) => workerId === one.name && state === "ready"),
      );
      if (missing) return `${name} does not see ${missing.name} as ready`;
      views.push(
        JSON.stringify(
          workers.map(({ workerId, instanceId, position, knownBlockKeys }) => [workerId, instanceId, position, knownBlockKeys]),
        ),
      );
    } else {
      const metrics = parseMetrics(await read(metricsPort, "/metrics"));
      const value = (metric: string) => metrics.get(metric) ?? 0;
      for (const metric of ["vllm:num_requests_running", "vllm:num_requests_waiting", "pelagic_kv_receive_credit_bytes"]) {
        if (value(metric) !== 0) return `${name}: ${metric} is ${value(metric)}`;
      }
      const [total, free, cached] = [value("pelagic_kv_blocks"), value("pelagic_kv_blocks_free"), value("pelagic_kv_blocks_cached")];
      if (free + cached !== total) return `${name}: ${free} blocks free and ${cached} cached of ${total}`;
    }
  }
  const listening = await leftSubscription(stack);
  if (listening !== null) return listening;
  return new Set(views).size > 1 ? `gateways see different workers: ${views.join(" and ")}` : null;
}

interface Connections {
  connections: { name: string; subscriptions_list?: string[] }[];
}

/** Frames and credits have a subject for each transfer: when none runs, nobody listens. A gateway hears all deltas on one. */
async function leftSubscription(stack: Stack): Promise<string | null> {
  const response = await fetch(`${stack.natsMonitorUrl}/connz?subs=1`, { signal: AbortSignal.timeout(requestMs) });
  const { connections } = (await response.json()) as Connections;
  for (const { name, subscriptions_list: subjects } of connections) {
    const deltas = subjects?.filter((subject) => /^pelagic\.[^.]+\.deltas\./.test(subject)) ?? [];
    const left = subjects?.find((subject) => /^pelagic\.[^.]+\.(kv|credit)\./.test(subject)) ?? deltas[1];
    if (left !== undefined) return `${name} still listens on ${left}`;
  }
  return null;
}

async function read(port: number, path: string): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { signal: AbortSignal.timeout(requestMs) });
  if (!response.ok) throw new Error(`${path} on port ${port} answers ${response.status}`);
  return response.text();
}

/** By name, summed over labels. */
export function parseMetrics(text: string): Map<string, number> {
  const metrics = new Map<string, number>();
  for (const line of text.split("\n")) {
    const space = line.lastIndexOf(" ");
    if (space <= 0 || line.startsWith("#")) continue;
    const name = line.slice(0, space).split("{", 1)[0] as string;
    metrics.set(name, (metrics.get(name) ?? 0) + Number(line.slice(space + 1)));
  }
  return metrics;
}
