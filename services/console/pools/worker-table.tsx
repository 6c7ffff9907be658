import type { ConsoleWorker } from "../../lib/contracts/console.ts";
import { formatBytes, formatCount, formatRate, formatSeconds } from "../format.ts";
import { Scroller } from "../shell/scroller.tsx";
import type { Pool } from "./history.ts";

const tones: Record<ConsoleWorker["state"], string> = { ready: "good", starting: "plain", draining: "warn", silent: "bad", stopped: "bad" };

export function WorkerTable({ pool, workers }: { pool: Pool; workers: ConsoleWorker[] }) {
  const severalModels = new Set(workers.map(({ modelName }) => modelName)).size > 1;
  return (
    <Scroller label={`${pool} workers`}>
      <table class="workers">
        <thead>
          <tr>
            <th scope="col">Worker</th>
            {severalModels && <th scope="col">Model</th>}
            <th scope="col">State</th>
            <th scope="col" class="number">
              Running
            </th>
            <th scope="col" class="number">
              Waiting
            </th>
            <th scope="col">KV blocks</th>
            <th scope="col" class="number">
              {pool === "decode" ? "Step" : "Prefill"}
            </th>
            <th scope="col" class="number">
              {pool === "decode" ? "Received" : "Sent"}
            </th>
          </tr>
        </thead>
        <tbody>
          {workers.map((worker) => (
            <WorkerRow key={worker.workerId} worker={worker} showModel={severalModels} />
          ))}
        </tbody>
      </table>
    </Scroller>
  );
}

function WorkerRow({ worker, showModel }: { worker: ConsoleWorker; showModel: boolean }) {
  const { requests, rates, totals } = worker;
  return (
    <tr>
      <th scope="row">{worker.workerId}</th>
      {showModel && <td>{worker.modelName}</td>}
      <td>
        <span class={`state ${tones[worker.state]}`}>
          <span class="dot" aria-hidden="true" />
          {worker.state}
        </span>
        {worker.reason !== undefined && <span class="reason">{worker.reason}</span>}
      </td>
      <td class="number">{formatCount(requests.running)}</td>
      <td class="number">
        {formatCount(requests.waiting)}
        <span class="of"> of {formatCount(requests.maxWaiting)}</span>
      </td>
      <td>
        <BlockBar blocks={worker.blocks} />
      </td>
      <td class="number">
        {worker.role === "decode"
          ? rates.decodeStepSeconds > 0
            ? formatSeconds(rates.decodeStepSeconds)
            : "–"
          : rates.prefillTokensPerSecond > 0
            ? `${formatRate(rates.prefillTokensPerSecond)} tokens/s`
            : "–"}
      </td>
      <td class="number">{totals === undefined ? "–" : formatBytes(worker.role === "decode" ? totals.receivedBytes : totals.sentBytes)}</td>
    </tr>
  );
}

function BlockBar({ blocks }: { blocks: ConsoleWorker["blocks"] }) {
  const used = blocks.total - blocks.free - blocks.cached;
  const share = (part: number) => `${(100 * part) / Math.max(1, blocks.total)}%`;
  return (
    <span class="blocks">
      <span class="bar" aria-hidden="true">
        <span style={{ width: share(used), background: "var(--series-1)" }} />
        <span style={{ width: share(blocks.cached), background: "var(--series-2)" }} />
      </span>
      <span class="blocks-words">
        {formatCount(used)} in use, {formatCount(blocks.cached)} cached, {formatCount(blocks.free)} free
      </span>
    </span>
  );
}
