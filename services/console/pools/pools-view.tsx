// How the pools stand, and how they stood in the last minutes.
import { useMemo, useState } from "preact/hooks";
import type { ConsoleModel, ConsoleOverview, ConsoleWorker } from "../../lib/contracts/console.ts";
import { formatAge, formatBytes, formatCount, formatRate, plural } from "../format.ts";
import { Choice } from "../shell/choice.tsx";
import { Scroller } from "../shell/scroller.tsx";
import { Chart } from "./chart.tsx";
import { column, type History, type Pool, type PoolSample, pools } from "./history.ts";
import { WorkerTable } from "./worker-table.tsx";

const shownPools = { both: pools, prefill: ["prefill"], decode: ["decode"] } satisfies Record<string, Pool[]>;
type Shown = keyof typeof shownPools;
const perSecond = (format: (value: number) => string) => (value: number) => `${format(value)}/s`;

export function PoolsView(props: { overview: ConsoleOverview | null; history: History; scheme: "light" | "dark" }) {
  const [shown, setShown] = useState<Shown>("both");
  const { overview, history, scheme } = props;
  const chosen: Pool[] = shownPools[shown];
  const times = useMemo(() => history.samples.map(({ atSeconds }) => atSeconds), [history]);
  const of = (field: keyof PoolSample) => column(history.samples, chosen, field);
  if (overview === null) return <p class="empty">Asking the gateway</p>;
  const { gateway, workers } = overview;
  const onlyModel = gateway.models.length === 1 ? gateway.models[0] : undefined;
  return (
    <div class="page">
      <div class="page-head">
        <h1>Pools</h1>
        <Choice
          label="Charts of"
          value={shown}
          options={[
            ["both", "Both pools"],
            ["prefill", "Prefill"],
            ["decode", "Decode"],
          ]}
          onChoose={setShown}
        />
      </div>
      {gateway.notReady !== null && <p class="notice">{gateway.notReady}</p>}
      <p class="summary">
        {plural(gateway.requests.running, "request")} in {gateway.gatewayId}, which takes {formatCount(gateway.requests.mostRunning)}
        {gateway.requests.cancelling > 0 && `; ${formatCount(gateway.requests.cancelling)} being cancelled`}. Up for{" "}
        {formatAge(gateway.uptimeSeconds)}
        {onlyModel?.contextTokens != null && `, with a context of ${formatCount(onlyModel.contextTokens)} tokens`}.
      </p>
      {gateway.models.length > 1 && <ModelTable models={gateway.models} />}
      <div class="charts">
        <Chart
          title="KV blocks"
          times={times}
          stacked
          format={formatCount}
          scheme={scheme}
          series={[
            { name: "in use", colour: "--series-1", values: of("blocksUsed") },
            { name: "cached", colour: "--series-2", values: of("blocksCached") },
            { name: "free", colour: "--series-0", values: of("blocksFree") },
          ]}
        />
        <Chart
          title="Requests"
          times={times}
          format={formatRate}
          scheme={scheme}
          series={[
            { name: "running", colour: "--series-1", values: of("running") },
            { name: "waiting", colour: "--series-3", values: of("waiting") },
          ]}
        />
        <Chart
          title="Tokens"
          times={times}
          format={perSecond(formatRate)}
          scheme={scheme}
          series={[
            { name: "generated", colour: "--series-1", values: of("sampledPerSecond") },
            { name: "prefilled", colour: "--series-3", values: of("prefilledPerSecond") },
          ]}
        />
        <Chart
          title="Transfers"
          times={times}
          format={perSecond(formatBytes)}
          scheme={scheme}
          series={[
            { name: "received", colour: "--series-1", values: of("receivedBytesPerSecond") },
            { name: "sent", colour: "--series-3", values: of("sentBytesPerSecond") },
          ]}
        />
      </div>
      {pools.map((pool) => (
        <PoolSection key={pool} pool={pool} workers={workers.filter(({ role }) => role === pool)} />
      ))}
    </div>
  );
}

function ModelTable({ models }: { models: readonly ConsoleModel[] }) {
  return (
    <section class="card pool" aria-labelledby="models">
      <h2 id="models">Models</h2>
      <Scroller label="Models">
        <table>
          <thead>
            <tr>
              <th scope="col">Model</th>
              <th scope="col">State</th>
              <th scope="col" class="number">
                Context
              </th>
            </tr>
          </thead>
          <tbody>
            {models.map(({ modelName, notReady, contextTokens }) => (
              <tr key={modelName}>
                <th scope="row">{modelName}</th>
                <td>
                  <span class={`state ${notReady === null ? "good" : "bad"}`}>
                    <span class="dot" aria-hidden="true" />
                    {notReady === null ? "ready" : "not ready"}
                  </span>
                  {notReady !== null && <span class="reason">{notReady}</span>}
                </td>
                <td class="number">{contextTokens === null ? "–" : formatCount(contextTokens)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroller>
    </section>
  );
}

const poolNames: Record<Pool, string> = { prefill: "Prefill", decode: "Decode" };
const poolTasks: Record<Pool, string> = {
  prefill: "computes prompts and sends their latents",
  decode: "owns requests and samples every token",
};

function PoolSection({ pool, workers }: { pool: Pool; workers: ConsoleWorker[] }) {
  return (
    <section class="card pool" aria-labelledby={`pool-${pool}`}>
      <h2 id={`pool-${pool}`}>
        {poolNames[pool]} <span>{poolTasks[pool]}</span>
      </h2>
      {workers.length === 0 ? <p>No worker has reported.</p> : <WorkerTable pool={pool} workers={workers} />}
    </section>
  );
}
